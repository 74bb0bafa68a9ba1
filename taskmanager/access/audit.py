"""Who did what to the installation, and who tried to get in: never a secret, never the params.

An action is recorded in the transaction of what it records. Failed
authentication is recorded so that nobody can fill the disk or hold up a writer
with it: a few rows a minute and process, with counts, and a bound on all of them.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskmanager.clock import format_time
from taskmanager.db.connection import cache
from taskmanager.db.statements import Row, execute, execute_if_free, fetch_all, fetch_one, insert
from taskmanager.db.transactions import write_transaction

if TYPE_CHECKING:  # keys records what it does here
    from taskmanager.access.caller import Caller

FAILED = "authentication_failed"
WINDOW_MS = 60_000
ADDRESSES_PER_WINDOW = 10
MAX_FAILURE_ROWS = 10_000
PRUNED_ROWS = 500
MAX_ADDRESS_LENGTH = 64


def record(*, event: str, message: str, caller: "Caller", now: int) -> None:
    """Stores what `caller` did, inside the present transaction."""
    row = _row(event, message, caller.address, caller.request_id, now)
    insert("audit_events", {**row, "api_key_id": caller.key_id})


def _row(
    event: str, message: str, address: str | None, request_id: str | None, now: int
) -> dict[str, object]:
    return {
        "event": event,
        "api_key_id": None,
        "address": address,
        "request_id": request_id,
        "message": message,
        "created_at": now,
    }


@dataclass
class _Failures:
    """What failed in this process since `began_at`: how often beyond the row, by address."""

    began_at: int
    repeated: dict[str, int] = field(default_factory=dict)
    elsewhere: int = 0


def record_failed_authentication(
    *, address: str, request_id: str | None, reason: str, now: int
) -> None:
    """Notes that somebody at `address` presented no key or a wrong one; `reason` holds no secret.

    The first failure of an address in a minute gets a row at once, for
    ADDRESSES_PER_WINDOW addresses; the others are counted and the counts are
    stored with the next failure in a later minute. Waits for no writer.
    """
    remembered = cache()
    failures: _Failures | None = remembered.failed_authentications
    rows = []
    if failures is None or not 0 <= now - failures.began_at < WINDOW_MS:
        rows = _counted(failures, now) if failures else []
        failures = remembered.failed_authentications = _Failures(now)
    if address in failures.repeated:
        failures.repeated[address] += 1
    elif len(failures.repeated) < ADDRESSES_PER_WINDOW:
        failures.repeated[address] = 0
        rows.append(_row(FAILED, reason, address, request_id, now))
    else:
        failures.elsewhere += 1
    if rows:
        _insert_if_free(rows)


def _counted(failures: _Failures, now: int) -> list[dict[str, object]]:
    minute = f"in the minute from {format_time(failures.began_at)}"
    rows = [
        _row(FAILED, f"{count} more from this address {minute}", address, None, now)
        for address, count in failures.repeated.items()
        if count
    ]
    if failures.elsewhere:
        rows.append(_row(FAILED, f"{failures.elsewhere} from others {minute}", None, None, now))
    return rows


def _insert_if_free(rows: list[dict[str, object]]) -> None:
    one = f"({', '.join('?' * len(rows[0]))})"
    execute_if_free(
        f"INSERT INTO {{audit_events}} ({', '.join(rows[0])}) "
        f"VALUES {', '.join([one] * len(rows))}",
        [value for row in rows for value in row.values()],
    )


def list_events(*, limit: int, before_id: int | None = None) -> list[Row]:
    """The newest events, newest first; those older than `before_id` where it is given."""
    if before_id is None:
        return fetch_all("SELECT * FROM {audit_events} ORDER BY id DESC LIMIT ?", (limit,))
    return fetch_all(
        "SELECT * FROM {audit_events} WHERE id < ? ORDER BY id DESC LIMIT ?", (before_id, limit)
    )


def prune(*, before: int | None) -> None:
    """Removes events from before that time (None: none), and failures past MAX_FAILURE_ROWS.

    Up to PRUNED_ROWS of each, so that no lock is held for long; the next run takes more.
    """
    oldest_kept = fetch_one(
        "SELECT id FROM {audit_events} WHERE event = ? ORDER BY id DESC LIMIT 1 OFFSET ?",
        (FAILED, MAX_FAILURE_ROWS - 1),
    )
    ids = []
    if oldest_kept is not None:
        ids += fetch_all(
            "SELECT id FROM {audit_events} WHERE event = ? AND id < ? ORDER BY id LIMIT ?",
            (FAILED, oldest_kept["id"], PRUNED_ROWS),
        )
    if before is not None:
        ids += fetch_all(
            "SELECT id FROM {audit_events} WHERE created_at < ? ORDER BY created_at LIMIT ?",
            (before, PRUNED_ROWS),
        )
    if ids:
        _remove([row["id"] for row in ids])


@write_transaction
def _remove(ids: list[int]) -> None:
    for start in range(0, len(ids), PRUNED_ROWS):
        some = ids[start : start + PRUNED_ROWS]
        execute(f"DELETE FROM {{audit_events}} WHERE id IN ({', '.join('?' * len(some))})", some)
