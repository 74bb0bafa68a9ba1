"""What can be wrong with a MySQL or MariaDB server alone: its clock, and room for connections."""

from collections.abc import Iterator

from taskmanager.clock import utc_now
from taskmanager.db.connection import dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import fetch_all, fetch_one
from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, not_applicable, ok, warning

MAX_SKEW_MS = 5_000
NEARLY_FULL = 0.8


def check_clock(case: Case) -> Iterator[Finding]:
    """The queue goes by the clock here alone; but where both differ, one of them is wrong."""
    if dialect() is SQLITE:
        yield not_applicable("clock", "SQLite has no clock of its own.")
        return
    before = utc_now()
    row = fetch_one("SELECT UNIX_TIMESTAMP(NOW(3)) AS seconds")
    here = (before + utc_now()) / 2
    skew_ms = round(float(row["seconds"]) * 1000 - here) if row else 0
    found = f"The database server's clock is {abs(skew_ms) / 1000:.1f} s "
    found += "ahead of" if skew_ms > 0 else "behind"
    if abs(skew_ms) > MAX_SKEW_MS:
        yield warning(
            "clock",
            f"{found} the one here. The queue goes by the one here: where it is wrong, leases, "
            "delays and schedules are wrong too, and several machines disagree.",
            "See which of both is wrong (date -u) and have it set by NTP, or tell the host.",
        )
    else:
        yield ok("clock", f"{found} the one here.")


def check_connections(case: Case) -> Iterator[Finding]:
    """Those of the whole server and of this user, as far as its rights let it see."""
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
        raise AssertionError("the server has answered with no row")
    yield judge_connections(
        own=own["connections"],
        own_limit=limits["one_user"],
        everybody=status.get("Threads_connected", 0),
        limit=limits["all_users"],
    )
    yield not_applicable(
        "processes",
        "a server knows connections, not the processes that they belong to, which may also run on "
        "other machines.",
    )


def judge_connections(*, own: int, own_limit: int, everybody: int, limit: int) -> Finding:
    """`own_limit` 0: the user has none but the server's."""
    of_own = f" of {own_limit}" if own_limit else ""
    found = (
        f"This user has {own}{of_own} connections, all users together {everybody} of {limit}; each "
        "process keeps one per thread"
    )
    if (own_limit and own >= NEARLY_FULL * own_limit) or everybody >= NEARLY_FULL * limit:
        return warning(
            "connections",
            f"{found}. Beyond the limit requests are answered with 503.",
            "Run fewer processes or threads (under Passenger: PassengerMaxPoolSize), or ask the "
            "host for a higher limit.",
        )
    return ok("connections", f"{found}.")
