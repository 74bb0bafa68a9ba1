"""Checks for MySQL and MariaDB only: the server's clock and its limits of connections."""

from collections.abc import Iterator

from taskmanager.clock import utc_now
from taskmanager.db.connection import dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import fetch_all, fetch_one
from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, not_applicable, ok, warning

MAX_SKEW_MS = 5_000
NEARLY_FULL = 0.8


def check_clock(case: Case) -> Finding:
    """The queue uses only the local clock, but if the two differ, one of them is wrong."""
    if dialect() is SQLITE:
        return not_applicable("clock", "SQLite has no clock of its own.")
    before = utc_now()
    row = fetch_one("SELECT UNIX_TIMESTAMP(NOW(3)) AS seconds")
    here = (before + utc_now()) / 2
    skew_ms = round(float(row["seconds"]) * 1000 - here) if row else 0
    found = f"The database server's clock is {abs(skew_ms) / 1000:.1f} s "
    found += "ahead of" if skew_ms > 0 else "behind"
    if abs(skew_ms) > MAX_SKEW_MS:
        return warning(
            "clock",
            f"{found} the local clock. The queue uses the local clock. If that one is wrong, "
            "leases, delays and schedules are wrong too, and machines disagree with each other.",
            "Find out which clock is wrong (date -u). Set it with NTP, or tell the host.",
        )
    return ok("clock", f"{found} the local clock.")


def check_connections(case: Case) -> Iterator[Finding]:
    """Connections of the whole server and of this user, as far as the user may see them."""
    if dialect() is SQLITE:
        yield not_applicable("connections", "SQLite has no server.")
        return
    limits = fetch_one("SELECT @@max_connections AS all_users, @@max_user_connections AS one_user")
    status = {
        row["Variable_name"]: int(row["Value"])
        for row in fetch_all("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
    }
    own = fetch_one(
        "SELECT COUNT(*) AS connections FROM information_schema.processlist "
        "WHERE user = SUBSTRING_INDEX(USER(), '@', 1)"
    )
    if limits is None or own is None:
        raise AssertionError("the server returned no row")
    yield judge_connections(
        own=own["connections"],
        own_limit=limits["one_user"],
        everybody=status.get("Threads_connected", 0),
        limit=limits["all_users"],
    )
    yield not_applicable("processes", "a database server knows connections, not processes.")


def judge_connections(*, own: int, own_limit: int, everybody: int, limit: int) -> Finding:
    """`own_limit` is 0 if only the limit of the server applies."""
    of_own = f" of {own_limit}" if own_limit else ""
    found = (
        f"This user has {own}{of_own} connections, and all users have {everybody} of {limit}. Each "
        "process keeps one per thread"
    )
    if (own_limit and own >= NEARLY_FULL * own_limit) or everybody >= NEARLY_FULL * limit:
        return warning(
            "connections",
            f"{found}. Above the limit, requests are answered with 503.",
            "Run fewer processes or threads (under Passenger: PassengerMaxPoolSize), or ask the "
            "host for a higher limit.",
        )
    return ok("connections", f"{found}.")
