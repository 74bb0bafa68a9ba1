"""What anybody can fetch: asks the address that the person at the command line has given.

Never done on the way of an HTTP call. The server does not know its own address but from headers
that the caller writes, so it could be made to call other machines; and where one process serves,
it would wait for itself.
"""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from taskmanager import __version__
from taskmanager.doctor.case import PLACE, Case
from taskmanager.doctor.findings import Finding, listed, ok, problem, warning

TIMEOUT_SECONDS = 10
COMPARED_BYTES = 4_096
LEAST_BYTES = 16  # fewer may well be the same by accident

FILES = (".env", ".env.example", "schema.sql", "passenger_wsgi.py", "taskmanager/config.py")
LOCAL = ("localhost", "127.0.0.1", "::1")

CLOSE = (
    "Move the program out of the document root, or see that its .htaccess is there and that the "
    "server obeys it (Apache: AllowOverride All). Until then take the address away; change the "
    "password of the database and the keys in .env if that was among them."
)


def check_from_outside(case: Case) -> Iterator[Finding]:
    """Fetches the first bytes of some files and compares them with what lies here."""
    if case.url is None:
        yield ok(
            "files_exposed",
            "Not checked: that takes an address, and is done by command alone, on the host or "
            "where the same release lies: taskmanager doctor --url https://example.org/queue",
        )
        return
    base = case.url.rstrip("/")
    yield from _reach(base)
    exposed, tried, unanswered = [], 0, 0
    for name, file in _files(case).items():
        content = _beginning(file)
        if len(content) < LEAST_BYTES:
            continue
        tried += 1
        for path in (name, name.replace(".", "%2e", 1)):
            try:
                if _fetch(f"{base}/{path}", COMPARED_BYTES)[1] == content:
                    exposed.append(name)
                    break
            except (OSError, http.client.HTTPException):
                unanswered += 1
    if exposed:
        yield problem("files_exposed", f"Anybody can fetch {listed(exposed)}.", CLOSE)
    elif unanswered:
        yield warning(
            "files_exposed",
            f"{unanswered} attempts to fetch files got no answer, so nothing can be said.",
            "See that the address is right and the server runs, and try again.",
        )
    else:
        yield ok("files_exposed", f"None of {tried} files can be fetched below that address.")


def _files(case: Case) -> dict[str, Path]:
    """By the path under which they would be served."""
    files = {name: case.root / name for name in FILES}
    if PLACE not in case.missing:
        url = case.known_settings.effective_database_url
        database = Path(url.removeprefix("sqlite:///").partition("?")[0])
        if url.startswith("sqlite:///") and database.is_relative_to(case.root):
            files[database.relative_to(case.root).as_posix()] = database
    return files


def _beginning(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(COMPARED_BYTES)
    except OSError:
        return b""


def _reach(base: str) -> Iterator[Finding]:
    wrong_address = "Give the address that the API lies under, without /api."
    try:
        status, body = _fetch(f"{base}/api/health", 65_536)
        answer = json.loads(body)
        version = (answer.get("data") or answer["details"])["version"]
    except (OSError, http.client.HTTPException) as error:
        yield warning(
            "service_reached",
            f"Nothing answers at the address ({_why(error)}).",
            "See that the server runs. " + wrong_address,
        )
        return
    except (ValueError, KeyError, TypeError, AttributeError):
        yield warning(
            "service_reached",
            f"What answers at the address (with {status}) is not TaskManager.",
            wrong_address + " If that is right, the web server's error log tells more.",
        )
        return
    parts = urllib.parse.urlsplit(base)
    if version != __version__:
        yield warning(
            "service_reached",
            f"Version {version} answers at the address; here lies {__version__}.",
            "Restart the service: touch tmp/restart.txt",
        )
    elif status != 200:
        yield problem(
            "service_reached",
            f"The service answers with {status}: it cannot reach its database.",
            "See what was found of the database.",
        )
    elif parts.scheme == "http" and parts.hostname not in LOCAL:
        yield warning(
            "service_reached",
            "The service answers by plain http: on the way anybody can read keys.",
            "Use https, and have the web server redirect http to it.",
        )
    else:
        yield ok("service_reached", f"TaskManager {version} answers at the address.")


def _why(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)


def _fetch(url: str, most: int) -> tuple[int, bytes]:
    """Status and first bytes. Raises OSError and HTTPException where there is no answer."""
    # The command line has let through http and https alone.
    request = urllib.request.Request(url, headers={"User-Agent": "taskmanager-doctor"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 # nosec B310
            return response.status, response.read(most)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(most)
