"""Which keys the database needs: owns the table payload_keys.

It has a row for each key that has sealed a task, with the secret of the dedupe keys sealed by
that key. So a start can tell whether it has all keys that it needs, and a new key gets the secret
from an old one.
"""

import secrets

import peewee

from taskmanager.clock import utc_now
from taskmanager.db.statements import Row, fetch_all, fetch_value, insert
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import ConfigurationError
from taskmanager.payloads.keyring import Keyring
from taskmanager.payloads.sealing import keyring, require_keyring


def require_keys() -> None:
    """Raises ConfigurationError where a key is missing without which tasks cannot be read.

    If something is encrypted, notes that the database needs the first key.
    """
    check_keys()
    keys, rows = keyring(), ids_and_secrets()
    if keys is not None and rows:
        keys.secret = _secret(keys, rows)


def note_key() -> None:
    """Notes that the database needs the first key, where a type's tasks are to be encrypted.

    Call it before a transaction that may encrypt the first of them: the secret must be stored by
    then.
    """
    keys = keyring()
    if keys is not None and not keys.secret and _encrypted_type() is not None:
        keys.secret = _secret(keys, ids_and_secrets())


def is_noted() -> bool:
    """Whether the database has the secret of this process's keys."""
    keys = keyring()
    return keys is not None and bool(keys.secret or ids_and_secrets())


def check_keys() -> None:
    """Raises the same, and notes nothing. May be part of a transaction."""
    keys, rows = keyring(), ids_and_secrets()
    missing = [row["id"] for row in rows if keys is None or row["id"] not in keys.ids]
    if missing:
        raise ConfigurationError(
            f"Tasks are encrypted with the key {missing[0]}, which TASKMANAGER_PAYLOAD_KEY does "
            "not have. Put that key back, behind the first one and a comma. `taskmanager payloads "
            "rotate` encrypts all tasks with the first key; after that, others are not needed."
        )
    if keys is None:
        name = _encrypted_type()
        if name is not None:
            raise ConfigurationError(
                f"The tasks of type '{name}' are to be encrypted, but "
                "TASKMANAGER_PAYLOAD_KEY is empty. `taskmanager payloads new-key` prints a key."
            )


def _encrypted_type() -> str | None:
    """The name of a type whose tasks are to be encrypted, if there is one."""
    name: str | None = fetch_value("SELECT name FROM {task_types} WHERE is_encrypted = 1 LIMIT 1")
    return name


def hidden_keys(dedupe_key: str) -> tuple[str, ...]:
    """The dedupe key that an encrypted task has instead of this one; none if there is no such task.

    May be part of a transaction.
    """
    return (hide_key(dedupe_key),) if is_noted() else ()


def hide_key(dedupe_key: str) -> str:
    """The dedupe key that an encrypted task has instead of this one."""
    keys = require_keyring()
    if not keys.secret:
        keys.secret = _secret(keys, ids_and_secrets())
    return keys.hide_key(dedupe_key)


def ids_and_secrets() -> list[Row]:
    """The rows of payload_keys, the oldest first."""
    return fetch_all("SELECT id, secret FROM {payload_keys} ORDER BY created_at, id")


def _secret(keys: Keyring, rows: list[Row]) -> bytes:
    """The secret of the dedupe keys; a new one where nothing was encrypted before."""
    opened = [keys.find(row["id"]).open(row["secret"], place_of_secret(row["id"])) for row in rows]
    known = {row["id"]: bytes.fromhex(text) for row, text in zip(rows, opened, strict=True)}
    key = keys.current
    if key.id in known:
        return known[key.id]
    secret = next(iter(known.values()), secrets.token_bytes(32))
    sealed = key.seal(secret.hex(), place_of_secret(key.id))
    row = {"id": key.id, "secret": sealed, "created_at": utc_now()}
    try:
        write_transaction(insert)("payload_keys", row)
    except peewee.IntegrityError:  # another process has just done the same
        return _secret(keys, ids_and_secrets())
    return secret


def place_of_secret(name: str) -> str:
    """What the secret in the row of a key is sealed for."""
    return f"payload_keys.secret of id {name}"
