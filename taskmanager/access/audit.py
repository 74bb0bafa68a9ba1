"""The audit trail: who changed the installation, and who failed to get in.

Never stores a key or params. An action is recorded in the transaction that performs it. Failed
authentication is recorded within bounds, so that nobody can fill the disk or delay writers with
it: a few rows per minute and process, the rest as counts, and a maximum of rows altogether.
"""

from dataclasses import dataclass, field

from taskmanager.access.caller import Caller
from taskmanager.clock import format_time
from taskmanager.db.connection import cache
from taskmanager.db.models import AuditEvent
from taskmanager.db.queries import Select, execute_if_free, first_row, rows_of
from taskmanager.db.statements import Row
from taskmanager.db.transactions import write_transaction

FAILED = "authentication_failed"
WINDOW_MS = 60_000
ADDRESSES_PER_WINDOW = 10
MAX_FAILURE_ROWS = 10_000
PRUNED_ROWS = 500
MAX_ADDRESS_LENGTH = 64


def record(*, event: str, message: str, caller: Caller, now: int) -> None:
    """Stores what `caller` did, in the caller's transaction."""
    AuditEvent.insert(
        event=event,
        api_key_id=caller.key_id,
        address=caller.address,
        request_id=caller.request_id,
        message=message,
        created_at=now,
    ).execute()


@dataclass
class _Failures:
    """Failures in this process since `began_at`; `repeated` counts those after an address's row."""

    began_at: int
    repeated: dict[str, int] = field(default_factory=dict)
    elsewhere: int = 0


def record_failed_authentication(
    *, address: str, request_id: str | None, reason: str, now: int
) -> None:
    """Records that a request from `address` had no key or a wrong one; `reason` holds no secret.

    In each minute the first ADDRESSES_PER_WINDOW addresses get a row at their
    first failure. Further failures are counted, and the counts are stored with
    the first failure of a later minute. Does not wait for other writers.
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
        rows.append(_row(reason, address, request_id, now))
    else:
        failures.elsewhere += 1
    if rows:
        execute_if_free(AuditEvent.insert_many(rows))


def _counted(failures: _Failures, now: int) -> list[Row]:
    minute = f"in the minute from {format_time(failures.began_at)}"
    rows = [
        _row(f"{count} more from this address {minute}", address, None, now)
        for address, count in failures.repeated.items()
        if count
    ]
    if failures.elsewhere:
        rows.append(_row(f"{failures.elsewhere} from others {minute}", None, None, now))
    return rows


def _row(message: str, address: str | None, request_id: str | None, now: int) -> Row:
    return {
        "event": FAILED,
        "address": address,
        "request_id": request_id,
        "message": message,
        "created_at": now,
    }


def list_events(*, limit: int, before_id: int | None = None) -> list[Row]:
    """The newest events, newest first; with `before_id`, those with lower ids."""
    events = AuditEvent.select().order_by(AuditEvent.id.desc()).limit(limit)
    if before_id is not None:
        events = events.where(AuditEvent.id < before_id)
    return rows_of(events)


def prune(*, before: int | None) -> None:
    """Deletes failures beyond MAX_FAILURE_ROWS, and events older than `before` (None: none).

    At most PRUNED_ROWS of each, so that no lock is held for long; the next run
    deletes more.
    """
    events = AuditEvent.select(AuditEvent.id)
    failures = events.where(AuditEvent.event == FAILED)
    oldest_kept = first_row(failures.order_by(AuditEvent.id.desc()).offset(MAX_FAILURE_ROWS - 1))
    if oldest_kept is not None:
        _delete_first(failures.where(AuditEvent.id < oldest_kept["id"]).order_by(AuditEvent.id))
    if before is not None:
        _delete_first(events.where(AuditEvent.created_at < before).order_by(AuditEvent.created_at))


def _delete_first(events: Select) -> None:
    ids = [row["id"] for row in rows_of(events.limit(PRUNED_ROWS))]
    if ids:
        _delete(ids)


@write_transaction
def _delete(ids: list[int]) -> None:
    AuditEvent.delete().where(AuditEvent.id.in_(ids)).execute()
