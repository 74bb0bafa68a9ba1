"""A version that is yet to come, to see more of an upgrade than the present one needs."""

import os
import signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from taskmanager.db import schema
from taskmanager.db.connection import close_connection, connect_database
from taskmanager.db.migrations import MIGRATIONS, DataStep, Ddl
from taskmanager.db.statements import execute

VERSION = schema.SCHEMA_VERSION + 1
SLICES = 5


def count_types(position: int) -> int | None:
    """A data step: one slice per row; the process dies in the third where it is told to."""
    execute("UPDATE tasks SET priority = priority + 1, claim_rank = claim_rank - 1")
    if position == 2 and "DIE" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    return position + 1 if position + 1 < SLICES else None


STEPS = (
    Ddl(
        "add tasks.colour",
        "ALTER TABLE tasks ADD COLUMN colour VARCHAR(10) NOT NULL DEFAULT 'red'",
    ),
    DataStep("count", count_types),
    Ddl(
        "index tasks.colour",
        "CREATE INDEX tasks_by_colour ON tasks (colour)",
        mysql="ALTER TABLE tasks ADD INDEX tasks_by_colour (colour), ALGORITHM=INPLACE, LOCK=NONE",
    ),
)


def plan(next_version: bool = True) -> None:
    schema.MIGRATIONS = {**MIGRATIONS, VERSION: STEPS} if next_version else MIGRATIONS
    schema.SCHEMA_VERSION = max(schema.MIGRATIONS)


def upgrade(url: str, environment: Mapping[str, str] = MappingProxyType({})) -> None:
    """In a process of its own, which takes nothing of this one's environment that came later."""
    os.environ.update(environment)
    plan()
    connect_database(url)
    schema.create_schema()
    close_connection()


def upgrade_until(url: str, last: str, reached: Any, number: int = signal.SIGKILL) -> None:
    """In a process of its own, which sends itself a signal when it comes to the step `last`."""

    def report(message: str) -> None:
        if message.endswith(f": {last}"):
            reached.set()
            os.kill(os.getpid(), number)

    plan()
    connect_database(url)
    schema.create_schema(report=report)
