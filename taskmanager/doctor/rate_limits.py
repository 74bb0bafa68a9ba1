"""Whether all processes count a key's requests together."""

import os
from collections.abc import Iterator

from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, ok, problem, warning

OWN_FILE = "rate_limits.counters"


def check_storage(case: Case) -> Iterator[Finding]:
    """Over HTTP what the answering process says of itself; by command the storage is tried."""
    uri = case.known_settings.rate_limit_storage_uri
    if uri.startswith("memory:"):
        yield _alone("By setting", "Take TASKMANAGER_RATE_LIMIT_STORAGE_URI out")
    elif case.call is not None:
        if case.call.counts_are_shared:
            yield ok("rate_limits", "All processes count requests together.")
        else:
            yield _alone(
                "The storage of the counts cannot be used, so",
                "See that the instance folder can be written"
                if not uri
                else "See that the storage runs and can be reached",
            )
    elif uri:
        yield _try_storage(uri)
    else:
        yield _try_file(case)


def _alone(why: str, remedy: str) -> Finding:
    return warning(
        "rate_limits",
        f"{why} each process counts requests for itself: with four processes a key may make four "
        "times as many as its limit says.",
        f"{remedy}, and restart.",
    )


def _try_file(case: Case) -> Finding:
    # Looked at only: a file made here would belong to whoever runs the command.
    path = case.known_settings.instance_path / OWN_FILE
    there = path if path.exists() else path.parent
    if there.exists() and not os.access(there, os.R_OK | os.W_OK):
        return _alone(
            "The file of the counts cannot be written, so",
            "Give the instance folder and all in it to the user who runs the service",
        )
    return ok("rate_limits", "Requests are counted in a file that all processes share.")


def _try_storage(uri: str) -> Finding:
    from limits.errors import ConfigurationError
    from limits.storage import storage_from_string

    kind = uri.partition(":")[0]
    quickly = {"socket_connect_timeout": 1, "socket_timeout": 1}
    try:
        options = quickly if kind.startswith(("redis", "valkey")) else {}
        works = storage_from_string(uri, **options).check()
    except (ConfigurationError, ValueError):
        return problem(
            "rate_limits",
            f"TASKMANAGER_RATE_LIMIT_STORAGE_URI cannot be used: there is no storage of the kind "
            f"'{kind}', or the library that it takes is not installed.",
            "Leave it empty, or install the library (redis for redis://); until then the program "
            "does not start.",
        )
    except Exception:  # noqa: BLE001 - each client library has errors of its own
        works = False
    if works:
        return ok("rate_limits", f"Requests are counted in {kind}, which answers.")
    return _alone(f"The storage of the counts ({kind}) does not answer, so", "See that it runs")
