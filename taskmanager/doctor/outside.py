"""Checks which files anybody can fetch from the address given with --url.

An HTTP call never runs these checks. The server knows its own address only from headers that the
caller writes, so a caller could make it send requests to other machines. With a single process it
would also wait for itself.
"""

import contextlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

from taskmanager import __version__
from taskmanager.doctor.case import PLACE, Case
from taskmanager.doctor.findings import Finding, listed, ok, problem, warning

TIMEOUT_SECONDS = 10
COMPARED_BYTES = 4_096
LEAST_BYTES = 16  # fewer may be equal by chance

FILES = (".env", ".env.example", "schema.sql", "passenger_wsgi.py", "taskmanager/config.py")
LOCAL = ("localhost", "127.0.0.1", "::1")

REMEDY = (
    "Move the program out of the document root, or make sure that its .htaccess is there and that "
    "the server applies it (Apache: AllowOverride All). Take the address offline until then. If "
    ".env is among the files, change the password of the database and the keys in it."
)


def check_from_outside(case: Case) -> Iterator[Finding]:
    """Fetches the first bytes of some files and compares them with the local files."""
    if case.url is None:
        yield ok(
            "Not checked: this needs the address of the API. On the host, or where the same "
            "release is unpacked, run: taskmanager doctor --url https://example.org/queue"
        )
        return
    base = case.url.rstrip("/")
    yield replace(_reach(base), code="service_reached")
    contents = _local_contents(case)
    exposed, unanswered = [], 0
    for name, content in contents.items():
        for path in (name, name.replace(".", "%2e", 1)):
            try:
                if _fetch(f"{base}/{path}", COMPARED_BYTES)[1] == content:
                    exposed.append(name)
                    break
            except (OSError, http.client.HTTPException):
                unanswered += 1
    if exposed:
        yield problem(f"Anybody can fetch {listed(exposed)}.", REMEDY)
    elif unanswered:
        yield warning(
            f"{unanswered} attempts to fetch files got no answer, so this could not be checked.",
            "Check that the address is right and the server runs, then try again.",
        )
    else:
        yield ok(f"None of {len(contents)} files can be fetched from that address.")


def _local_contents(case: Case) -> dict[str, bytes]:
    """Path under which a file would be served → its first bytes."""
    files = [case.root / name for name in FILES]
    if PLACE not in case.missing and case.sqlite_file:
        files.append(case.sqlite_file)
    contents = {}
    for file in files:
        if file.is_relative_to(case.root):
            with contextlib.suppress(OSError), file.open("rb") as opened:
                contents[file.relative_to(case.root).as_posix()] = opened.read(COMPARED_BYTES)
    return {name: content for name, content in contents.items() if len(content) >= LEAST_BYTES}


def _reach(base: str) -> Finding:
    wrong_address = "Give the address of the API, without /api."
    try:
        status, body = _fetch(f"{base}/api/health", 65_536)
        answer = json.loads(body)
        version = (answer.get("data") or answer["details"])["version"]
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        shown = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
        return warning(
            f"Nothing answers at the address ({shown}).",
            "Check that the server runs. " + wrong_address,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return warning(
            f"The answer from the address (status {status}) is not from TaskManager.",
            wrong_address + " If that is right, read the web server's error log.",
        )
    if version != __version__:
        return warning(
            f"Version {version} answers at the address, but {__version__} is installed here.",
            "Restart the service: touch tmp/restart.txt",
        )
    if status != 200:
        return problem(
            f"The service answers with {status} because its database cannot be used.",
            "See the findings under Database.",
        )
    parts = urllib.parse.urlsplit(base)
    if parts.scheme == "http" and parts.hostname not in LOCAL:
        return warning(
            "The service answers over plain HTTP. Anybody on the network path can read keys.",
            "Use HTTPS, and let the web server redirect HTTP to it.",
        )
    return ok(f"TaskManager {version} answers at the address.")


def _fetch(url: str, most: int) -> tuple[int, bytes]:
    """Status and first `most` bytes. Raises OSError or HTTPException if there is no answer."""
    # The command line accepts only http and https.
    request = urllib.request.Request(url, headers={"User-Agent": "taskmanager-doctor"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 # nosec B310
            return response.status, response.read(most)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(most)
