"""Which keys the database needs: owns the table payload_keys.

It has a row for each key that has sealed something, with the secret of the dedupe keys sealed by
that key. So a start can tell whether it has all keys that it needs, and a new key gets the secret
from an old one.
"""

import secrets

import peewee

from taskmanager.clock import utc_now
from taskmanager.db.statements import Row, fetch_all, fetch_one, insert
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import ConfigurationError
from taskmanager.payloads.keyring import Keyring
from taskmanager.payloads.sealing import keyring


def require_keys() -> None:
    """Raises ConfigurationError where a key is missing without which tasks cannot be read."""
    keys = keyring()
    rows = fetch_all("SELECT id, secret FROM {payload_keys} ORDER BY created_at, id")
    missing = [row["id"] for row in rows if keys is None or row["id"] not in keys.ids]
    if missing:
        raise ConfigurationError(
            f"Tasks are encrypted with the key {missing[0]}, which TASKMANAGER_PAYLOAD_KEY does "
            "not have. Put that key back, behind the first one and a comma. `taskmanager payloads "
            "rotate` encrypts all tasks with the first key; after that, others are not needed."
        )
    if keys is None:
        row = fetch_one("SELECT name FROM {task_types} WHERE is_encrypted = 1 LIMIT 1")
        if row is not None:
            raise ConfigurationError(
                f"The tasks of type '{row['name']}' are to be encrypted, but "
                "TASKMANAGER_PAYLOAD_KEY is empty. `taskmanager payloads new-key` prints a key."
            )
        return
    keys.secret = _secret(keys, rows)


def _secret(keys: Keyring, rows: list[Row]) -> bytes:
    """The secret of the dedupe keys; a new one where nothing was encrypted before."""
    known = {row["id"]: bytes.fromhex(keys.open(row["secret"])) for row in rows}
    if keys.current in known:
        return known[keys.current]
    secret = next(iter(known.values()), secrets.token_bytes(32))
    row = {"id": keys.current, "secret": keys.seal(secret.hex()), "created_at": utc_now()}
    try:
        write_transaction(insert)("payload_keys", row)
    except peewee.IntegrityError:  # another process has just done the same
        return _secret(keys, fetch_all("SELECT id, secret FROM {payload_keys}"))
    return secret
