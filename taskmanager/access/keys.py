"""API keys: creating and finding them, and what each allows.

Owns the list of scopes. Stores no key, only its SHA-256, by which it is found.
"""

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from peewee import fn

from taskmanager.access import audit
from taskmanager.access.caller import Caller
from taskmanager.db.connection import cache
from taskmanager.db.models import ApiKey
from taskmanager.db.queries import execute_if_free, first_row, rows_of
from taskmanager.db.statements import Row, fetch_one
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import InvalidRequest, NotAuthenticated, NotFound
from taskmanager.rates import parse_rate

SCOPES = (
    "tasks:read",
    "tasks:create",
    "tasks:claim",
    "tasks:complete",
    "tasks:manage",
    "task-types:read",
    "task-types:write",
    "task-types:register",
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
    "worker-registrar": (
        "tasks:claim",
        "tasks:complete",
        "tasks:read",
        "task-types:read",
        "task-types:register",
    ),
    "viewer": ("tasks:read", "task-types:read", "workers:read", "metrics:read"),
}
# The names of the keys that a start creates by itself: if there is none, or by a setting.
FIRST_KEY = "first admin key"
BOOTSTRAP_KEY = "bootstrap"
MADE_AT_START = (FIRST_KEY, BOOTSTRAP_KEY)
KEY_PREFIX = "tm_"
SHOWN_CHARACTERS = 11
CACHE_SECONDS = 3.0  # a revoked key is refused by every process after this long
LAST_USED_RESOLUTION_MS = 60_000
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")
_TYPE_PATTERN = re.compile(r"[A-Za-z0-9._%-]{1,255}")


def scopes_of_role(role: str, *, task_types: Sequence[str] | None) -> tuple[str, ...]:
    """The scopes of a role of ROLES for a key that is limited to `task_types`, or to none.

    Raises InvalidRequest for a registrar of every type: one worker could change the
    schemas of all the others.
    """
    if role == "worker-registrar" and not task_types:
        raise InvalidRequest(
            "A key with the role worker-registrar must be limited to the task types of its worker: "
            "send task_types, or with the command --types, such as PrismQ.%"
        )
    return ROLES[role]


def hash_key(key: str) -> str:
    """The SHA-256 under which a key is stored, as 64 hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


@write_transaction
def create_key(
    *, now: int, caller: Caller, key: str | None = None, **fields: Any
) -> tuple[Row, str]:
    """Creates a key; returns its row and the key itself, which cannot be read again later.

    `fields` are those of `stored_columns`; `name` and `scopes` are required. `key` is given
    only for the bootstrap key, whose text its owner has chosen. Raises InvalidRequest for an
    invalid name, scope, type pattern or rate limit.
    """
    fields = {"task_types": None, "rate_limit": None, "expires_at": None, **fields}
    return insert_key(stored_columns(fields), caller=caller, now=now, key=key)


def stored_columns(fields: Mapping[str, Any]) -> Row:
    """Fields of a key as its table stores them. Raises InvalidRequest for an invalid one.

    `name`, `scopes`; `task_types`, `rate_limit` and `expires_at`, which may be None.
    """
    columns = dict(fields)
    if "name" in fields and not _NAME.fullmatch(fields["name"]):
        raise InvalidRequest("The name of a key is 1 to 255 printable characters.")
    if "scopes" in fields:
        for scope in fields["scopes"]:
            if scope not in SCOPES:
                raise InvalidRequest(f"No such scope: '{scope}'. Scopes: {', '.join(SCOPES)}.")
        if not fields["scopes"]:
            raise InvalidRequest("A key needs at least one scope.")
        columns["scopes"] = json.dumps(list(fields["scopes"]))
    if "task_types" in fields:
        patterns = fields["task_types"]
        for pattern in patterns or ():
            if not _TYPE_PATTERN.fullmatch(pattern):
                raise InvalidRequest(
                    f"'{pattern[:50]}' is no pattern of task types: write a name, in which % "
                    "stands for any characters, such as PrismQ.%"
                )
        columns["task_types"] = json.dumps(list(patterns)) if patterns else None
    rate_limit = fields.get("rate_limit")
    if rate_limit is not None:
        try:
            columns["rate_limit"] = str(parse_rate(rate_limit))
        except ValueError as error:
            raise InvalidRequest(f"rate_limit must be {error}; not '{rate_limit[:50]}'.") from None
    return columns


def insert_key(
    columns: Row, *, caller: Caller, now: int, key: str | None = None
) -> tuple[Row, str]:
    """Inserts a key of 256 random bits, or `key`, inside the caller's transaction.

    Returns its row and the key itself.
    """
    key = key or KEY_PREFIX + secrets.token_urlsafe(32)
    row = {
        **columns,
        "key_hash": hash_key(key),
        "prefix": key[:SHOWN_CHARACTERS] if key.startswith(KEY_PREFIX) else "",
        "revoked_at": None,
        "last_used_at": None,
        "created_at": now,
        "updated_at": now,
    }
    key_id: int = ApiKey.insert(row).execute()
    message = f"key {key_id} ({row['name']}) made by {caller.name}"
    audit.record(event="key_created", caller=caller, message=message, now=now)
    return {"id": key_id, **row}, key


def list_keys() -> list[Row]:
    """Every key, revoked ones included, oldest first."""
    return rows_of(ApiKey.select().order_by(ApiKey.id))


def get_key(*, key_id: int) -> Row:
    """One key's row. Raises NotFound."""
    row = first_row(ApiKey.select().where(ApiKey.id == key_id))
    if row is None:
        raise NotFound(f"There is no key with id {key_id}.", code="key_not_found")
    return row


def any_key_exists() -> bool:
    """False on an installation that nobody can use yet."""
    return ApiKey.select().exists()


def may_administer(row: Row, *, now: int) -> bool:
    """Whether the key is valid and has the scope admin, without a limit to task types."""
    in_force = row["revoked_at"] is None and (row["expires_at"] is None or row["expires_at"] > now)
    return in_force and "admin" in json.loads(row["scopes"]) and row["task_types"] is None


def authenticate(key: str, *, now: int, remembered: bool = True) -> Caller:
    """The caller that `key` stands for. Raises NotAuthenticated if unknown, revoked or expired.

    Each process remembers a key for CACHE_SECONDS, and uses that unless `remembered` is false.
    """
    key_hash = hash_key(key)
    entry = cache().keys.get(key_hash) if remembered else None
    if entry is None or entry[0] < time.monotonic():
        row = fetch_one("SELECT * FROM {api_keys} WHERE key_hash = ?", (key_hash,))
        if row is None or not hmac.compare_digest(row["key_hash"], key_hash):
            raise NotAuthenticated(
                "This API key is not known. Keys are made with: taskmanager keys create"
            )
        entry = (time.monotonic() + CACHE_SECONDS, row, caller_of(row))
        cache().keys[key_hash] = entry
    _, row, caller = entry
    require_in_force(row, now=now)
    return caller


def caller_of(row: Row) -> Caller:
    """The caller that the key in `row` stands for."""
    return Caller(
        key_id=row["id"],
        name=row["name"],
        scopes=frozenset(json.loads(row["scopes"])),
        task_types=tuple(json.loads(row["task_types"])) if row["task_types"] else None,
        rate_limit=row["rate_limit"],
    )


def require_in_force(row: Row, *, now: int) -> None:
    """Raises NotAuthenticated if the key in `row` is revoked or expired."""
    if row["revoked_at"] is not None:
        raise NotAuthenticated("This API key has been revoked.")
    if row["expires_at"] is not None and row["expires_at"] <= now:
        raise NotAuthenticated("This API key has expired.")


def mark_used(caller: Caller, *, now: int) -> None:
    """Stores that a key is in use, at most once a minute and process.

    The request is done by now, so nothing here may fail or delay it.
    """
    used_at = cache().keys_used_at
    if caller.key_id is None:
        return
    # In both directions, here and below: the clock may have been set back.
    if abs(now - used_at.get(caller.key_id, 0)) < LAST_USED_RESOLUTION_MS:
        return
    used_at[caller.key_id] = now
    latest = ApiKey.last_used_at
    is_other = latest.is_null() | (fn.ABS(latest - now) > LAST_USED_RESOLUTION_MS)
    execute_if_free(ApiKey.update(last_used_at=now).where(ApiKey.id == caller.key_id, is_other))
