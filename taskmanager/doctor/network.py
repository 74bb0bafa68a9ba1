"""What an HTTP call shows of the way that it took. By command there is nothing to be seen."""

from collections.abc import Iterator
from pathlib import Path

from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, not_applicable, ok, problem, warning

BY_COMMAND = "Not checked by command: GET /api/admin/doctor sees it, since a call comes that way."


def check_encryption(case: Case) -> Iterator[Finding]:
    """Keys travel in a header."""
    call = case.call
    if call is None:
        yield ok("encryption", BY_COMMAND)
    elif call.is_secure:
        yield ok("encryption", "This call came by https.")
    elif (call.forwarded_proto or "").lower() == "https":
        yield ok("encryption", "This call came by https as far as a proxy, if that is believed.")
    elif call.is_from_this_machine and call.forwarded_for is None:
        yield ok("encryption", "This call came by http, but from this very machine.")
    else:
        yield warning(
            "encryption",
            "This call came by plain http: on the way anybody can read the key.",
            "Use https (on shared hosts a certificate is a click in the panel), make another key "
            "and revoke this one. If it was https, the proxy in front does not say so in "
            "X-Forwarded-Proto.",
        )


def check_proxies(case: Case) -> Iterator[Finding]:
    """Callers are counted and recorded by address, so it must be the right one."""
    call, trusted = case.call, case.known_settings.trusted_proxies
    if call is None:
        yield ok("proxies", BY_COMMAND)
        return
    header = call.forwarded_for or ""
    entries = len([part for part in header.split(",") if part.strip()])
    if trusted and entries < trusted:
        yield warning(
            "proxies",
            f"TASKMANAGER_TRUSTED_PROXIES is {trusted}, but X-Forwarded-For names {entries}.",
            "Set it to the number of proxies in front that add to the header: where it is too "
            "high, callers choose the address that they are counted under.",
        )
    elif entries and not trusted:
        yield warning(
            "proxies",
            f"X-Forwarded-For came with this call and names {entries}, but "
            "TASKMANAGER_TRUSTED_PROXIES is 0: if a proxy has written it, all callers count as "
            "one address.",
            "Set it to the number of proxies in front. If you have sent the header yourself, it is "
            "right as it is.",
        )
    elif trusted:
        yield ok("proxies", f"{trusted} trusted, and X-Forwarded-For names {entries}.")
    else:
        yield ok("proxies", "No proxy is trusted, and none has shown itself.")


def check_document_root(case: Case) -> Iterator[Finding]:
    """Goes by what the web server says of itself; a caller cannot change that."""
    if case.call is None:
        yield ok("document_root", BY_COMMAND)
    elif not case.call.document_root:
        yield not_applicable("document_root", "the web server does not say where it is.")
    elif not case.root.is_relative_to(Path(case.call.document_root).resolve()):
        yield ok("document_root", "The program lies outside of the web server's document root.")
    elif not (case.root / ".htaccess").exists():
        yield problem(
            "document_root",
            "The program lies in the web server's document root, and .htaccess, which keeps its "
            "files from being served, is not there.",
            "Upload .htaccess (FTP programs hide such files), or move the program out of there.",
        )
    else:
        yield warning(
            "document_root",
            "The program lies in the web server's document root: nothing but .htaccess keeps .env "
            "and the database from being served.",
            "Move the program out of there where the host lets you. Else see that it works, from "
            "a machine with a shell: taskmanager doctor --url ADDRESS",
        )
