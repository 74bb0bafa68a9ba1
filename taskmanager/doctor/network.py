"""Checks of the path that an HTTP call took. The command line has nothing to check here."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, not_applicable, ok, problem, warning

BY_COMMAND = "Not checked by this command. GET /api/admin/doctor checks it on the call itself."


def check_encryption(case: Case) -> Finding:
    """Keys are sent in a header, so plain HTTP reveals them."""
    call = case.call
    if call is None:
        return ok(BY_COMMAND)
    if call["wsgi.url_scheme"] == "https":
        return ok("This call came over HTTPS.")
    if call.get("HTTP_X_FORWARDED_PROTO", "").lower() == "https":
        return ok("This call came over HTTPS, if X-Forwarded-Proto is right.")
    if "HTTP_X_FORWARDED_FOR" not in call and _is_from_this_machine(call):
        return ok("This call came over plain HTTP, but from the same machine.")
    return warning(
        "This call came over plain HTTP. Anybody on the network path can read the key.",
        "Use HTTPS (shared hosts offer certificates in the panel), create another key and "
        "revoke this one. If the call was HTTPS, the proxy in front does not set "
        "X-Forwarded-Proto.",
    )


def _is_from_this_machine(call: Mapping[str, Any]) -> bool:
    # The address as it arrived, before that in a trusted header took its place.
    address = call.get("werkzeug.proxy_fix.orig", call).get("REMOTE_ADDR")
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:  # a Unix socket has none
        return True


def check_proxies(case: Case) -> Finding:
    """Rate limits and the audit trail use the caller's address, so it must be right."""
    if case.call is None:
        return ok(BY_COMMAND)
    trusted = case.settings.trusted_proxies
    header = case.call.get("HTTP_X_FORWARDED_FOR", "")
    entries = len([part for part in header.split(",") if part.strip()])
    if trusted and entries < trusted:
        return warning(
            f"TASKMANAGER_TRUSTED_PROXIES is {trusted}, but X-Forwarded-For lists {entries}.",
            "Set it to the number of proxies in front that add to the header. If it is too high, "
            "callers can choose the address under which they are counted.",
        )
    if entries and not trusted:
        return warning(
            f"X-Forwarded-For of this call lists {entries}, but TASKMANAGER_TRUSTED_PROXIES is 0. "
            "If a proxy added the header, all callers count as one address.",
            "Set TASKMANAGER_TRUSTED_PROXIES to the number of proxies in front. If you sent the "
            "header yourself, 0 is right.",
        )
    if trusted:
        return ok(f"{trusted} trusted, and X-Forwarded-For lists {entries}.")
    return ok("No proxy is trusted, and this call has no X-Forwarded-For.")


def check_document_root(case: Case) -> Finding:
    """Uses the document root that the web server reports; a caller cannot change it."""
    if case.call is None:
        return ok(BY_COMMAND)
    document_root = case.call.get("DOCUMENT_ROOT")
    if not document_root:
        return not_applicable("the web server does not report it.")
    if not case.root.is_relative_to(Path(document_root).resolve()):
        return ok("The program is outside the web server's document root.")
    if not (case.root / ".htaccess").exists():
        return problem(
            "The program is inside the web server's document root, and .htaccess, which keeps its "
            "files from being served, is missing.",
            "Upload .htaccess (FTP programs hide such files), or move the program outside.",
        )
    return warning(
        "The program is inside the web server's document root. Only .htaccess keeps .env and "
        "the database from being served.",
        "Move the program outside if the host allows it. Otherwise check that .htaccess works, "
        "from a machine with a shell: taskmanager doctor --url ADDRESS",
    )
