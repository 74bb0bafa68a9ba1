"""API keys: making, finding and revoking them, and what a key allows.

Owns the list of scopes. Never stores a key: only its SHA-256, which is what
it is looked up by.
"""

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskmanager.database import (
    Row,
    database,
    execute,
    execute_if_free,
    fetch_all,
    fetch_one,
    insert,
    write_transaction,
)
from taskmanager.exceptions import InvalidRequest, NotAllowed, NotAuthenticated, NotFound
from taskmanager.services import history
from taskmanager.services.type_patterns import matches_any

SCOPES = (
    "tasks:read",
    "tasks:create",
    "tasks:claim",
    "tasks:complete",
    "tasks:manage",
    "task-types:read",
    "task-types:write",
    "workers:read",
    "metrics:read",
    "admin",
)
ROLES = {
    "admin": ("admin",),
    "producer": (
        "tasks:create",
        "tasks:read",
        "tasks:manage",
        "task-types:read",
        "task-types:write",
    ),
    "worker": ("tasks:claim", "tasks:complete", "tasks:read", "task-types:read"),
    "viewer": ("tasks:read", "task-types:read", "workers:read", "metrics:read"),
}

KEY_PREFIX = "tm_"
SHOWN_CHARACTERS = 11
CACHE_SECONDS = 3.0  # a revoked key is refused by every process after this long
CACHE_SIZE = 1_000
LAST_USED_RESOLUTION_MS = 60_000


@dataclass(frozen=True)
class Caller:
    """Who is asking: what a valid key stands for. `task_types` None: every type."""

    key_id: int | None
    name: str
    scopes: frozenset[str]
    task_types: tuple[str, ...] | None = None
    rate_limit: str | None = None

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def may_touch(self, type_name: str) -> bool:
        return self.task_types is None or matches_any(self.task_types, type_name)

    def require_type(self, type_name: str) -> None:
        """Raises NotAllowed where the key is limited to other task types."""
        if not self.may_touch(type_name):
            raise NotAllowed(
                f"This key may not touch task type '{type_name}'; it is limited to "
                f"{', '.join(self.task_types or ())}.",
                code="task_type_not_allowed",
            )


# Stands for the person at the command line and for the cron job.
OPERATOR = Caller(key_id=None, name="command line", scopes=frozenset({"admin"}))


def hash_key(key: str) -> str:
    """The 64 hexadecimal digits under which a key is stored."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def create_key(
    *,
    name: str,
    scopes: Sequence[str],
    task_types: Sequence[str] | None = None,
    rate_limit: str | None = None,
    expires_at: int | None = None,
    now: int,
    caller: Caller,
    key: str | None = None,
) -> tuple[Row, str]:
    """Makes a key; returns its row and the key itself, which nobody can read again.

    `key` is given only for the bootstrap key, whose text its owner chose.
    Raises InvalidRequest for a scope that does not exist.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidRequest(f"No such scope: '{scope}'. Scopes: {', '.join(SCOPES)}.")
    if not scopes:
        raise InvalidRequest("A key needs at least one scope.")
    key = key or KEY_PREFIX + secrets.token_urlsafe(32)
    row: Row = {
        "name": name,
        "key_hash": hash_key(key),
        "prefix": key[:SHOWN_CHARACTERS] if key.startswith(KEY_PREFIX) else "",
        "scopes": json.dumps(list(scopes)),
        "task_types": json.dumps(list(task_types)) if task_types else None,
        "rate_limit": rate_limit,
        "expires_at": expires_at,
        "revoked_at": None,
        "last_used_at": None,
        "created_at": now,
        "updated_at": now,
    }
    return _store_key(row, caller=caller, now=now), key


@write_transaction
def _store_key(row: Row, *, caller: Caller, now: int) -> Row:
    key_id = insert("api_keys", row)
    history.record_operator_action(
        event="key_created",
        caller_key_id=caller.key_id,
        message=f"key {key_id} ({row['name']}) made by {caller.name}",
        now=now,
    )
    return {"id": key_id, **row}


def list_keys() -> list[Row]:
    """Every key, revoked ones included, oldest first."""
    return fetch_all("SELECT * FROM api_keys ORDER BY id")


def get_key(*, key_id: int) -> Row:
    """One key's row. Raises NotFound."""
    row = fetch_one("SELECT * FROM api_keys WHERE id = ?", (key_id,))
    if row is None:
        raise NotFound(f"There is no key with id {key_id}.", code="key_not_found")
    return row


def any_key_exists() -> bool:
    """False on an installation that nobody can use yet."""
    return fetch_one("SELECT id FROM api_keys LIMIT 1") is not None


def revoke_key(*, key_id: int, caller: Caller, now: int) -> Row:
    """Revokes a key for good; revoking it again changes nothing. Raises NotFound."""
    row = get_key(key_id=key_id)
    if row["revoked_at"] is None:
        _mark_revoked(key_id, row["name"], caller=caller, now=now)
        _cache().clear()
    return get_key(key_id=key_id)


@write_transaction
def _mark_revoked(key_id: int, name: str, *, caller: Caller, now: int) -> None:
    changed = execute(
        "UPDATE api_keys SET revoked_at = ?, updated_at = ? WHERE id = ? AND revoked_at IS NULL",
        (now, now, key_id),
    ).rowcount
    if changed:
        history.record_operator_action(
            event="key_revoked",
            caller_key_id=caller.key_id,
            message=f"key {key_id} ({name}) revoked by {caller.name}",
            now=now,
        )


def authenticate(key: str, *, now: int) -> Caller:
    """Who presents `key`. Raises NotAuthenticated for an unknown, revoked or expired one.

    A key that was found is remembered for CACHE_SECONDS per process.
    """
    key_hash = hash_key(key)
    cache = _cache()
    remembered = cache.get(key_hash)
    if remembered is None or remembered[0] < time.monotonic():
        row = fetch_one("SELECT * FROM api_keys WHERE key_hash = ?", (key_hash,))
        if row is None or not hmac.compare_digest(row["key_hash"], key_hash):
            raise NotAuthenticated(
                "This API key is not known. Keys are made with: taskmanager keys create",
            )
        if len(cache) >= CACHE_SIZE:
            cache.clear()
        remembered = cache[key_hash] = (time.monotonic() + CACHE_SECONDS, row, _caller_of(row))
    _, row, caller = remembered
    if row["revoked_at"] is not None:
        raise NotAuthenticated("This API key has been revoked.")
    if row["expires_at"] is not None and row["expires_at"] <= now:
        raise NotAuthenticated("This API key has expired.")
    return caller


def _caller_of(row: Row) -> Caller:
    return Caller(
        key_id=row["id"],
        name=row["name"],
        scopes=frozenset(json.loads(row["scopes"])),
        task_types=tuple(json.loads(row["task_types"])) if row["task_types"] else None,
        rate_limit=row["rate_limit"],
    )


def _cache() -> dict[str, tuple[float, Row, Caller]]:
    """Lives on the database object, so another database starts with an empty one."""
    cache: dict[str, Any] = database.obj.cache.setdefault("keys", {})
    return cache


def mark_used(caller: Caller, *, now: int) -> None:
    """Notes that a key is in use: one write a minute and process at the most.

    What was asked for is done by now, so nothing that happens here may refuse it or hold it up.
    """
    marks: dict[int | None, int] = database.obj.cache.setdefault("keys_marked", {})
    if caller.key_id is None or now - marks.get(caller.key_id, 0) < LAST_USED_RESOLUTION_MS:
        return
    marks[caller.key_id] = now
    execute_if_free(
        "UPDATE api_keys SET last_used_at = ? WHERE id = ? "
        "AND (last_used_at IS NULL OR last_used_at < ?)",
        (now, caller.key_id, now - LAST_USED_RESOLUTION_MS),
    )
