"""Checks of the path that an HTTP call took. The command line has nothing to check here."""

from collections.abc import Iterator
from pathlib import Path

from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, not_applicable, ok, problem, warning

BY_COMMAND = "Not checked by this command. GET /api/admin/doctor checks it on the call itself."


def check_encryption(case: Case) -> Iterator[Finding]:
    """Keys are sent in a header, so plain HTTP reveals them."""
    call = case.call
    if call is None:
        yield ok("encryption", BY_COMMAND)
    elif call.is_secure:
        yield ok("encryption", "This call came over HTTPS.")
    elif (call.forwarded_proto or "").lower() == "https":
        yield ok("encryption", "This call came over HTTPS, if X-Forwarded-Proto is right.")
    elif call.is_from_this_machine and call.forwarded_for is None:
        yield ok("encryption", "This call came over plain HTTP, but from the same machine.")
    else:
        yield warning(
            "encryption",
            "This call came over plain HTTP. Anybody on the network path can read the key.",
            "Use HTTPS (shared hosts offer certificates in the panel), create another key and "
            "revoke this one. If the call was HTTPS, the proxy in front does not set "
            "X-Forwarded-Proto.",
        )


def check_proxies(case: Case) -> Iterator[Finding]:
    """Rate limits and the audit trail use the caller's address, so it must be right."""
    call, trusted = case.call, case.known_settings.trusted_proxies
    if call is None:
        yield ok("proxies", BY_COMMAND)
        return
    header = call.forwarded_for or ""
    entries = len([part for part in header.split(",") if part.strip()])
    if trusted and entries < trusted:
        yield warning(
            "proxies",
            f"TASKMANAGER_TRUSTED_PROXIES is {trusted}, but X-Forwarded-For lists {entries}.",
            "Set it to the number of proxies in front that add to the header. If it is too high, "
            "callers can choose the address under which they are counted.",
        )
    elif entries and not trusted:
        yield warning(
            "proxies",
            f"X-Forwarded-For of this call lists {entries}, but TASKMANAGER_TRUSTED_PROXIES is 0. "
            "If a proxy added the header, all callers count as one address.",
            "Set TASKMANAGER_TRUSTED_PROXIES to the number of proxies in front. If you sent the "
            "header yourself, 0 is right.",
        )
    elif trusted:
        yield ok("proxies", f"{trusted} trusted, and X-Forwarded-For lists {entries}.")
    else:
        yield ok("proxies", "No proxy is trusted, and this call has no X-Forwarded-For.")


def check_document_root(case: Case) -> Iterator[Finding]:
    """Uses the document root that the web server reports; a caller cannot change it."""
    if case.call is None:
        yield ok("document_root", BY_COMMAND)
    elif not case.call.document_root:
        yield not_applicable("document_root", "the web server does not report it.")
    elif not case.root.is_relative_to(Path(case.call.document_root).resolve()):
        yield ok("document_root", "The program is outside the web server's document root.")
    elif not (case.root / ".htaccess").exists():
        yield problem(
            "document_root",
            "The program is inside the web server's document root, and .htaccess, which keeps its "
            "files from being served, is missing.",
            "Upload .htaccess (FTP programs hide such files), or move the program outside.",
        )
    else:
        yield warning(
            "document_root",
            "The program is inside the web server's document root. Only .htaccess keeps .env and "
            "the database from being served.",
            "Move the program outside if the host allows it. Otherwise check that .htaccess works, "
            "from a machine with a shell: taskmanager doctor --url ADDRESS",
        )
