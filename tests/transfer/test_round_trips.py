"""A queue in a file is the queue: every row of every table, from either engine to either."""

import gzip
import json
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskmanager.db import schema
from taskmanager.db.dialect import MYSQL
from taskmanager.db.models import MODELS
from taskmanager.db.statements import insert
from taskmanager.transfer.format import queue_tables
from tests.conftest import ENGINES
from tests.transfer.conftest import MakeQueue
from tests.transfer.queues import FAR_ID, Queue, nasty_row, rewrite, with_schema_version


@pytest.mark.parametrize("source", ENGINES)
@pytest.mark.parametrize("target", ENGINES)
def test_every_row_arrives_as_it_was(
    make_queue: MakeQueue, source: str, target: str, tmp_path: Path
) -> None:
    old, new = make_queue(source, "old"), make_queue(target, "new")
    old.fill()
    before = old.rows()
    assert all(len(rows) >= 3 for rows in before.values())
    exported = old.run("export", str(tmp_path / "queue.jsonl"))
    imported = new.run("import", str(tmp_path / "queue.jsonl"))
    rows = sum(map(len, before.values()))
    assert f"Exported {rows} rows, 3 of them tasks" in exported.stderr
    assert f"Imported {rows} rows, 3 of them tasks" in imported.stderr
    assert exported.stdout + imported.stdout == ""
    assert new.moved_rows() == before
    assert old.rows() == before


def test_ids_continue_after_the_highest_that_was_imported(
    old: Queue, new: Queue, tmp_path: Path
) -> None:
    old.fill()
    old.run("export", str(tmp_path / "queue.jsonl"))
    new.run("import", str(tmp_path / "queue.jsonl"))
    new.open()
    for table in ("task_types", "tasks", "task_logs", "api_keys"):
        row = nasty_row(table, 0) | {"name": "next", "key_hash": "c" * 64, "dedupe_key": "c" * 64}
        columns = set(nasty_row(table, 0)) - {"id"}
        assert insert(table, {name: row[name] for name in columns}) == FAR_ID + 1


def test_a_compressed_file_holds_the_same_and_is_smaller(
    old: Queue, new: Queue, tmp_path: Path
) -> None:
    old.fill()
    plain, packed = tmp_path / "queue.jsonl", tmp_path / "queue.jsonl.gz"
    old.run("export", str(plain))
    old.run("export", str(packed))
    assert packed.stat().st_size < plain.stat().st_size / 10
    lines, others = plain.read_bytes().splitlines(), gzip.decompress(packed.read_bytes())
    assert lines[1:-1] == others.splitlines()[1:-1]
    # A name that says nothing: what is in the file decides.
    new.run("import", str(packed.rename(tmp_path / "download")))
    assert new.moved_rows() == old.rows()


@pytest.mark.slow
def test_a_queue_goes_through_a_pipe(old: Queue, new: Queue) -> None:
    old.fill()
    new.open()
    writer = old.start("export", "-", stdout=subprocess.PIPE)
    reader = new.start("import", "-", stdin=writer.stdout, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.close()
    output, complaint = reader.communicate(timeout=60)
    assert (writer.wait(), reader.returncode, output) == (0, 0, b""), complaint
    assert writer.stderr is not None
    assert b"to standard output" in writer.stderr.read()
    writer.stderr.close()
    assert new.moved_rows() == old.rows()


def test_scripts_read_the_figures_as_json(old: Queue, new: Queue, tmp_path: Path) -> None:
    old.fill()
    file = str(tmp_path / "queue.jsonl")
    exported = json.loads(old.run("export", file, "--json").stdout)
    imported = json.loads(new.run("import", file, "--json").stdout)
    assert exported["rows"] == {table: len(rows) for table, rows in old.rows().items()}
    assert imported["rows"] == exported["rows"]
    assert exported["file"] == imported["file"] == file
    assert 0 <= exported["seconds"] < 60


def test_the_file_is_for_its_owner_alone_and_replaces_an_older_one(
    old: Queue, tmp_path: Path
) -> None:
    file = tmp_path / "queue.jsonl"
    file.write_text("older")
    file.chmod(0o644)
    (tmp_path / "link").symlink_to(file)
    old.run("export", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith('{"format":"taskmanager-queue"')
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


# What the columns hold that later versions have added at the end of each table.
ADDED: dict[str, tuple[int | None, ...]] = {
    "task_types": (None,) * 10,
    "tasks": (None,) * 13,
    "task_logs": (None,),
    "api_keys": (0,),
    "schedules": (None, None),
}
NEW_TABLES = (
    *("maintenance_runs", "task_tags", "task_log_cuts", "task_log_readers", "period_counts"),
    *("alerts", "alert_channels"),
)


def test_a_file_of_an_earlier_version_is_taken(old: Queue, new: Queue, tmp_path: Path) -> None:
    """As version 1 would have written it: without the tables and columns that came later."""
    old.fill()
    before = old.rows()
    file = tmp_path / "queue.jsonl"
    old.run("export", str(file))
    rewrite(file, lambda lines: [with_schema_version(lines[0], 1), *_of_version_1(lines[1:])])
    new.run("import", str(file))
    for table, values in ADDED.items():
        before[table] = [(*row[: -len(values)], *values) for row in before[table]]
    assert new.moved_rows() == before | {table: [] for table in NEW_TABLES}


def _of_version_1(lines: list[str]) -> Iterator[str]:
    table = ""
    for line in lines:
        content = json.loads(line)
        if isinstance(content, dict):
            table = content["table"]
        if table in ADDED:
            values = content["columns"] if isinstance(content, dict) else content
            del values[-len(ADDED[table]) :]
        if table not in NEW_TABLES:
            yield json.dumps(content)


def test_each_table_comes_after_those_that_it_refers_to() -> None:
    position = {model._meta.table_name: place for place, model in enumerate(MODELS)}
    references = [
        (table[1], other)
        for statement in schema.schema_statements(MYSQL)
        if (table := re.match(r"CREATE TABLE (\w+)", statement))
        for other in re.findall(r"REFERENCES (\w+)", statement)
    ]
    assert len(references) >= 5
    assert [pair for pair in references if position[pair[0]] < position[pair[1]]] == []


def test_nothing_but_the_database_itself_is_left_out() -> None:
    left_out = {model._meta.table_name for model in MODELS} - {one.name for one in queue_tables()}
    assert left_out == {"schema_versions", "migration_steps", "statistics_snapshots"}
