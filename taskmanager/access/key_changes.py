"""Changing, rotating and revoking keys. The last admin key stays unless the caller insists.

Every process applies a change within keys.CACHE_SECONDS.
"""

from collections.abc import Mapping
from typing import Any

from taskmanager.access import audit, keys
from taskmanager.access.caller import Caller
from taskmanager.clock import format_time
from taskmanager.db.connection import cache, is_clustered
from taskmanager.db.models import ApiKey
from taskmanager.db.queries import locking, require_unchanged, rows_of
from taskmanager.db.statements import Row
from taskmanager.db.transactions import after_commit, write_transaction
from taskmanager.errors import Conflict

DEFAULT_OVERLAP_SECONDS = 86_400
MAX_OVERLAP_SECONDS = 30 * 86_400


@write_transaction
def change_key(
    *,
    key_id: int,
    changes: Mapping[str, Any],
    force: bool,
    caller: Caller,
    now: int,
    updated_at: int | None = None,
) -> Row:
    """Sets the fields in `changes` (see keys.stored_columns); returns the key's row.

    `updated_at`: see db/queries.require_unchanged. Raises NotFound, InvalidRequest,
    ChangedMeanwhile, and Conflict for a revoked key or, unless `force`, if no admin key would be
    left.
    """
    columns = keys.stored_columns(changes)
    require_unchanged("api_keys", key_id, updated_at)
    before = _key_in_force(key_id)
    _set(key_id, columns, now)
    if not force:
        _require_admin_left(before, now=now)
    _record("key_changed", before, f"changed ({', '.join(sorted(columns))})", caller, now)
    return keys.get_key(key_id=key_id)


@write_transaction
def revoke_key(*, key_id: int, force: bool, caller: Caller, now: int) -> Row:
    """Revokes a key permanently; revoking it again changes nothing.

    Raises NotFound and, unless `force`, Conflict if no admin key would be left.
    """
    before = keys.get_key(key_id=key_id)
    if before["revoked_at"] is None:
        _set(key_id, {"revoked_at": now}, now)
        if not force:
            _require_admin_left(before, now=now)
        _record("key_revoked", before, "revoked", caller, now)
    return keys.get_key(key_id=key_id)


@write_transaction
def rotate_key(*, key_id: int, overlap_seconds: int, caller: Caller, now: int) -> tuple[Row, str]:
    """Creates a key with the same name and rights; returns its row and the key itself.

    The old key stays valid for `overlap_seconds`, but not beyond its own expiry.
    The new key is valid for as long as the old one was when it was created.
    Raises NotFound, and Conflict for a key that is revoked or expired.
    """
    old = _key_in_force(key_id)
    ends_at = now + overlap_seconds * 1000
    rights = {name: old[name] for name in ("name", "scopes", "task_types", "rate_limit")}
    rights["expires_at"] = old["expires_at"]
    if old["expires_at"] is not None:
        if old["expires_at"] <= now:
            raise Conflict(
                f"Key {key_id} expired at {format_time(old['expires_at'])}; make a new one.",
                code="key_expired",
            )
        rights["expires_at"] = now + old["expires_at"] - old["created_at"]
        ends_at = min(ends_at, old["expires_at"])
    row, key = keys.insert_key(rights, caller=caller, now=now)
    _set(key_id, {"expires_at": ends_at}, now)
    _record("key_rotated", old, f"replaced by key {row['id']}", caller, now)
    return row, key


def _key_in_force(key_id: int) -> Row:
    row = keys.get_key(key_id=key_id)
    if row["revoked_at"] is not None:
        raise Conflict(f"Key {key_id} is revoked for good; make a new one.", code="key_revoked")
    return row


def _set(key_id: int, columns: Row, now: int) -> None:
    ApiKey.update({**columns, "updated_at": now}).where(ApiKey.id == key_id).execute()
    after_commit(cache().keys.clear)  # makes this process read every key again


def _require_admin_left(before: Row, *, now: int) -> None:
    """Raises Conflict, which undoes the transaction, if the changed key was the last admin key."""
    if not keys.may_administer(before, now=now):
        return
    left = rows_of(locking(ApiKey.select().where(ApiKey.revoked_at.is_null())))
    admins = [row["id"] for row in left if keys.may_administer(row, now=now)]
    if not admins:
        raise Conflict(
            f"Key {before['id']} ({before['name']}) is the last one with the scope 'admin': nobody "
            "could manage keys over the API any more. Make another admin key first, or repeat "
            "this with ?force=true.",
            code="last_admin_key",
        )
    if is_clustered():
        # Locks are local to a node, and a cluster compares what was written: whoever revokes this
        # key on another node at the same time cannot commit too.
        ApiKey.update(updated_at=now).where(ApiKey.id == admins[0]).execute()


def _record(event: str, row: Row, what: str, caller: Caller, now: int) -> None:
    audit.record(
        event=event,
        caller=caller,
        message=f"key {row['id']} ({row['name']}) {what} by {caller.name}",
        now=now,
    )
