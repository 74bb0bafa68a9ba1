"""Queues on either engine that the tests move, and rows that are hard to move."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peewee
from click.testing import Result
from cryptography.fernet import Fernet

from taskmanager.db import schema
from taskmanager.db.connection import close_connection, connect_database
from taskmanager.db.models import MODELS
from taskmanager.db.statements import fetch_all, insert
from taskmanager.payloads.callbacks import CALLBACKS
from taskmanager.payloads.keyring import Keyring, key_id
from taskmanager.payloads.keys_in_use import place_of_secret
from taskmanager.transfer.format import OF_THE_DATABASE, queue_tables
from tests.support.commands import run_command

MODEL_OF = {model._meta.table_name: model for model in MODELS if model not in OF_THE_DATABASE}

NASTY_TEXT = 'ä😀 "quoted" \\ back\\u0041 \u2028 \x00\x1b[2J \r\n\t trailing  '
NASTY_NAME = 'Größe 😀 "x" \\n '
# Keys out of order, spaces, numbers that a float would change, and 1 MB.
NASTY_JSON = '{"z": 1,  "a":[ 1.50, 12345678901234567890, 1e-7 ],"k":"\\u00e4ä😀 \\/"}'
LONG_JSON = '{"text": "' + "ß😀\\n" * 100_000 + '"}'
FAR_ID = 2**53 + 1  # a float would make another number of it

PAYLOAD_KEYS = [Fernet.generate_key().decode() for _ in range(3)]

Rows = dict[str, list[tuple[Any, ...]]]


class Queue:
    """One installation: a database and an instance folder."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.url = url
        self.environment = {
            "TASKMANAGER_INSTANCE_PATH": str(folder),
            "TASKMANAGER_DATABASE_URL": url,
            "TASKMANAGER_PAYLOAD_KEY": ",".join(PAYLOAD_KEYS),
        }

    def open(self) -> None:
        """Points the test's own connection at it."""
        connect_database(self.url)
        schema.create_schema()

    def run(self, *arguments: str, exit_code: int = 0) -> Result:
        """One command in this process."""
        result = run_command(*arguments, environment=self.environment)
        assert result.exit_code == exit_code, (result.output, result.exception)
        return result

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """One command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "taskmanager", *arguments],
            env={**os.environ, **self.environment},
            stderr=subprocess.PIPE,
            **options,
        )

    def fill(self) -> None:
        """Rows that are hard to move in every table of the queue."""
        self.open()
        for table in queue_tables():
            for number in range(3):
                insert(table.name, nasty_row(table.name, number))
        close_connection()

    def rows(self) -> Rows:
        """Every row of every table of the queue, in the order of its key."""
        self.open()
        found = {
            table.name: [
                tuple(row.values())
                for row in fetch_all(
                    f"SELECT {', '.join(table.columns)} FROM {table.name} ORDER BY {table.key}"
                )
            ]
            for table in queue_tables()
        }
        close_connection()
        return found

    def moved_rows(self) -> Rows:
        """The same without what an import adds: the event that tells of it."""
        found = self.rows()
        assert "queue_imported" in found["audit_events"].pop()
        return found


def nasty_row(table: str, number: int) -> dict[str, Any]:
    """Row 0 has the least and NULL wherever it may be, row 1 the most, row 2 something between."""
    row = {
        field.column_name: _nasty_value(field, number)
        for field in MODEL_OF[table]._meta.sorted_fields
    }
    return {**row, **_what_constraints_ask(table, number)}


def _nasty_value(field: peewee.Field, number: int) -> Any:
    if isinstance(field, peewee.AutoField):
        return (1, 2, FAR_ID)[number]
    if field.null and number == 0:
        return None
    if isinstance(field, peewee.IntegerField):
        bits = {peewee.BigIntegerField: 64, peewee.SmallIntegerField: 16}.get(type(field), 32)
        return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0)[number]
    if isinstance(field, peewee.FixedCharField):
        return "aB0"[number] * field.max_length
    if isinstance(field, peewee.CharField):
        # As long as it may be, in characters of four bytes; names that differ in case alone.
        return ("name", "Name", "😀" * field.max_length)[number][: field.max_length]
    if field.name in ("params", "param_schema"):
        return ("{}", LONG_JSON, NASTY_JSON)[number]
    return ("", NASTY_TEXT, NASTY_JSON)[number]


def _what_constraints_ask(table: str, number: int) -> dict[str, Any]:
    if table in ("task_type_versions", "schedules"):
        timing = {
            "cron": (None, "* * * * *", None)[number],
            "interval_seconds": (1, None, 2)[number],
        }
        return {"task_type_id": FAR_ID, **(timing if table == "schedules" else {})}
    if table == "tasks":
        priority = (2**31 - 1, -(2**31) + 1, 0)[number]
        return {
            "task_type_id": (1, 2, FAR_ID)[number],
            "status": ("scheduled", "claimed", "failed")[number],
            "priority": priority,
            "claim_rank": -priority,
            "parent_task_id": (None, 1, 2)[number],
        }
    if table == "batches":  # an import looks whether they are to be encrypted
        callback = {"task_type_id": FAR_ID, "payload_key": None, "params": NASTY_JSON}
        return dict.fromkeys(CALLBACKS, None if number == 0 else json.dumps(callback))
    if table == "payload_keys":  # else no command would open the queue
        key = PAYLOAD_KEYS[number]
        place = place_of_secret(key_id(key))
        return {"id": key_id(key), "secret": Keyring([key]).current.seal("00" * 32, place)}
    of_tasks = ("task_logs", "task_tags", "task_deadlines", "lane_members", "batch_members")
    if table in (*of_tasks, "task_dependencies"):
        return {"task_id": (1, 2, FAR_ID)[number]}
    return {}


def rewrite(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Changes the lines of an exported file, and closes it with a line that tells of the change."""
    lines = change(file.read_text(encoding="utf-8").split("\n")[:-2])
    rows: dict[str, int] = {}
    table = ""
    for line in lines[1:]:
        if line.startswith("["):
            rows[table] = rows.get(table, 0) + 1
        elif line.startswith('{"table"'):
            table = json.loads(line)["table"]
            rows[table] = 0
    text = "".join(line + "\n" for line in lines).encode()
    end = {"end": True, "rows": rows, "sha256": hashlib.sha256(text).hexdigest()}
    file.write_bytes(text + json.dumps(end).encode() + b"\n")


def with_schema_version(header: str, version: int) -> str:
    """The first line of a file that another version of the program has written."""
    return json.dumps({**json.loads(header), "schema_version": version})
