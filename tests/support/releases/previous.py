"""A database as the previous release left it: its own schema file, with rows in every table."""

from pathlib import Path
from typing import Any

from taskmanager.db.connection import database, dialect
from taskmanager.db.schema import statements_of
from taskmanager.db.statements import Row, execute, fetch_all, insert, insert_many

VERSION = 1
SCHEMA = Path(__file__).with_name("schema-0.1.0.sql")

NOW = 1_768_478_400_000  # 2026-01-15T12:00:00Z
TIMES = {"created_at": NOW, "updated_at": NOW}


def task(**columns: Any) -> Row:
    return {
        "task_type_id": 1,
        "type_version": "1",
        "status": "pending",
        "params": '{"b": 1, "a": "ü💥"}',
        "priority": 5,
        "claim_rank": -5,
        "max_attempts": 3,
        "dedupe": "forever",
        "dedupe_key": "k" * 64,
        "available_at": NOW,
        **TIMES,
        **columns,
    }


# In the order in which foreign keys allow it.
ROWS: dict[str, list[Row]] = {
    "task_types": [
        {"id": 1, "name": "resize.image", "version": "1", "retry": '{"base_seconds": 5}', **TIMES},
        {"id": 2, "name": "Résumé", "version": "2", "is_active": 0, "is_paused": 1, **TIMES},
    ],
    "task_type_versions": [
        {"id": 1, "task_type_id": 1, "version": "1", "param_schema": '{"type":"object"}', **TIMES},
        {"id": 2, "task_type_id": 2, "version": "2", "param_schema": "{}", **TIMES},
    ],
    "tasks": [
        task(id=1, holds_key_forever=1, result='"' + "x" * 100_000 + '"', status="completed"),
        task(id=2, parent_task_id=1, dedupe="none"),
        task(
            id=3,
            status="claimed",
            attempts=2,
            worker_id="worker-1",
            claim_token="t.3",
            claim_request_id="r",
            lease_seconds=300,
            claimed_at=NOW,
            lease_expires_at=NOW + 300_000,
            holds_key_while_open=1,
            progress=50,
            progress_message="half",
        ),
        task(id=4, task_type_id=2, status="failed", error_code="lease_expired", completed_at=NOW),
        task(id=5, status="scheduled", available_at=NOW + 1_000),
        task(id=6, status="cancelled", completed_at=NOW),
    ],
    "task_logs": [
        {"id": 1, "task_id": 1, "event": "created", "status": "pending", "created_at": NOW},
        {"id": 2, "task_id": 3, "event": "claimed", "attempt": 2, "claim_token": "t.3"}
        | {"worker_id": "worker-1", "metadata": '{"a": 1}', "created_at": NOW, "api_key_id": 1},
    ],
    "workers": [
        {"id": "worker-1", "tasks_completed": 7, "first_seen_at": NOW, "last_seen_at": NOW},
    ],
    "schedules": [
        {"id": 1, "name": "nightly", "task_type_id": 1, "params": "{}", "overlap": "skip", **TIMES}
        | {"cron": "0 2 * * *", "timezone": "Europe/Berlin", "next_run_at": NOW + 1},
        {"id": 2, "name": "often", "task_type_id": 1, "params": "{}", "overlap": "allow", **TIMES}
        | {"interval_seconds": 60, "is_active": 0},
    ],
    "api_keys": [
        {"id": 1, "name": "admin", "key_hash": "h" * 64, "prefix": "tm_x", "scopes": '["admin"]'}
        | TIMES,
    ],
    "audit_events": [
        {"id": 1, "event": "key_created", "api_key_id": 1, "message": "made", "created_at": NOW},
    ],
}


def _statements() -> list[str]:
    text = SCHEMA.read_text(encoding="utf-8")
    return statements_of(text, dialect(), database.table_prefix)


def make_previous_tables() -> None:
    """Makes its tables in the connected database, which is empty."""
    for statement in _statements():
        execute(statement)


def make_previous_release(*, more_tasks: int = 0) -> dict[str, list[Row]]:
    """Makes its tables and rows in the connected database, which is empty; returns all rows."""
    make_previous_tables()
    for table, rows in ROWS.items():
        for row in rows:
            insert(table, row)
    insert_many("tasks", [task(dedupe="none") for _ in range(more_tasks)])
    return {table: fetch_all(f"SELECT * FROM {{{table}}} ORDER BY id") for table in ROWS}


def rows_kept(before: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The same tables now, reduced to the columns that they had before."""
    return {
        table: [
            {name: row[name] for name in rows[0]}
            for row in fetch_all(f"SELECT * FROM {{{table}}} ORDER BY id")
        ]
        for table, rows in before.items()
    }
