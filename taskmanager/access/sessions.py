"""Sessions of the dashboard: who signs in with a key, and when all sessions of a key end.

A session holds the id of its key and the key's epoch. Signing out everywhere begins a new epoch,
so every session before it ends at its next request. Refuses to know cookies.
"""

from typing import NamedTuple

from taskmanager.access import audit, keys
from taskmanager.access.caller import Caller
from taskmanager.db.models import ApiKey
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import NotAuthenticated, NotFound


class Entry(NamedTuple):
    """What a session holds of the key it began with."""

    key_id: int
    epoch: int


def sign_in(key: str, *, address: str | None, request_id: str, now: int) -> Entry:
    """Begins a session with `key`. Records it in the audit trail.

    Raises NotAuthenticated if the key is unknown, revoked or expired.
    """
    caller = keys.authenticate(key, now=now)
    row = keys.get_key(key_id=caller.key_id or 0)
    keys.require_in_force(row, now=now)
    caller = caller._replace(address=address, request_id=request_id)
    # In a transaction only now: a wrong key must not lock the database.
    signed_in = write_transaction(_record)
    signed_in("signed_in", caller, f"{caller.name} signed in to the dashboard", now)
    return Entry(row["id"], row["session_epoch"])


def caller_of(entry: Entry, *, now: int) -> Caller:
    """The caller that a session stands for, as its key is at this moment.

    Raises NotAuthenticated if the key is revoked or expired, or if its sessions were ended.
    """
    try:
        row = keys.get_key(key_id=entry.key_id)
    except NotFound:
        raise NotAuthenticated("The key of this session no longer exists.") from None
    keys.require_in_force(row, now=now)
    if row["session_epoch"] != entry.epoch:
        raise NotAuthenticated("All sessions of this key were signed out.")
    return keys.caller_of(row)


@write_transaction
def sign_out(caller: Caller, *, now: int) -> None:
    """Records the end of one session. Its cookie is what ends it."""
    _record("signed_out", caller, f"{caller.name} signed out of the dashboard", now)


@write_transaction
def sign_out_everywhere(caller: Caller, *, now: int) -> None:
    """Ends all sessions of the caller's key."""
    ApiKey.update(session_epoch=ApiKey.session_epoch + 1).where(
        ApiKey.id == caller.key_id
    ).execute()
    _record("signed_out_everywhere", caller, f"all sessions of {caller.name} were ended", now)


def _record(event: str, caller: Caller, message: str, now: int) -> None:
    audit.record(event=event, caller=caller, message=message, now=now)
