"""Checks that all processes share the counters of the rate limits."""

import os

from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, ok, problem, warning

OWN_FILE = "rate_limits.counters"


def check_storage(case: Case) -> Finding:
    """Over HTTP: what the answering process reports. By command: tries the storage."""
    uri = case.settings.rate_limit_storage_uri
    if uri.startswith("memory:"):
        return _not_shared(
            "TASKMANAGER_RATE_LIMIT_STORAGE_URI is set to memory:",
            "Remove TASKMANAGER_RATE_LIMIT_STORAGE_URI",
        )
    if case.call is not None:
        if case.counts_are_shared:
            return ok("All processes share the counters.")
        return _not_shared(
            "The storage of the counters cannot be used",
            "Check that the storage runs and can be reached"
            if uri
            else "Check that the instance folder is writable",
        )
    if uri:
        return _try_storage(uri)
    # Only look: a file created here would belong to the user who runs the command.
    path = case.settings.instance_path / OWN_FILE
    target = path if path.exists() else path.parent
    if target.exists() and not os.access(target, os.R_OK | os.W_OK):
        return _not_shared(
            "The file of the counters is not writable",
            "Make the user who runs the service the owner of the instance folder and its files",
        )
    return ok("All processes share the file of the counters.")


def _not_shared(why: str, remedy: str) -> Finding:
    return warning(
        f"{why}, so each process counts on its own. With four processes a key can send four times "
        "as many requests as its limit allows.",
        f"{remedy}, and restart.",
    )


def _try_storage(uri: str) -> Finding:
    from limits.errors import ConfigurationError
    from limits.storage import storage_from_string

    kind = uri.partition(":")[0]
    options = {}
    if kind.startswith(("redis", "valkey")):
        options = {"socket_connect_timeout": 1, "socket_timeout": 1}
    try:
        works = storage_from_string(uri, **options).check()
    except (ConfigurationError, ValueError):
        return problem(
            f"TASKMANAGER_RATE_LIMIT_STORAGE_URI cannot be used: there is no storage named "
            f"'{kind}', or the library that it needs is not installed.",
            "Leave it empty, or install the library (redis for redis://). Until then the program "
            "does not start.",
        )
    except Exception:  # noqa: BLE001 - each client library has its own errors
        works = False
    if works:
        return ok(f"The counters are stored in {kind}, which answers.")
    return _not_shared(
        f"The storage of the counters ({kind}) does not answer", "Check that it runs"
    )
