"""What is not taken as a queue, or not into this one, is refused in words, and nothing is kept."""

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from taskmanager.db import schema
from taskmanager.db.connection import close_connection
from taskmanager.db.migrations import MIGRATIONS, DataStep
from taskmanager.db.statements import execute
from taskmanager.transfer import importing
from tests.conftest import require
from tests.transfer.conftest import MakeQueue
from tests.transfer.queues import Queue, rewrite, with_schema_version


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A queue as a file; what it was exported from does not matter here."""
    folder = tmp_path_factory.mktemp("exported")
    source = Queue(folder / "source", f"sqlite:///{folder / 'source' / 'queue.db'}")
    source.fill()
    source.run("export", str(folder / "queue.jsonl"))
    return (folder / "queue.jsonl").read_bytes()


@pytest.fixture
def file(exported: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "queue.jsonl"
    path.write_bytes(exported)
    return path


def refused(queue: Queue, file: Path, *options: str) -> str:
    """What an import that fails says; it must leave the queue as empty as it was."""
    before = queue.rows()
    failed = queue.run("import", str(file), *options, exit_code=1)
    assert failed.stdout == ""
    assert failed.stderr.startswith("taskmanager: ")
    assert failed.stderr.count("\n") == 1
    assert queue.rows() == before
    return failed.stderr


def line_of(file: Path, start: str) -> int:
    """The number of the first line that begins so."""
    lines = file.read_text(encoding="utf-8").split("\n")
    return next(number for number, line in enumerate(lines, 1) if line.startswith(start))


def test_a_file_that_was_cut_off_is_refused_wherever_it_ends(new: Queue, file: Path) -> None:
    text = file.read_bytes()
    lines = text.count(b"\n")
    for end in (len(text) - 1, text.rindex(b"\n", 0, -1) + 1, len(text) // 2):
        file.write_bytes(text[:end])
        assert "was cut off" in refused(new, file)
    assert "after line 1, without" in refused(new, _written(file, text[: text.index(b"\n") + 1]))
    file.write_bytes(text)
    said = new.run("import", str(file)).stderr
    assert str(lines) not in re.sub(r"/\S+", "", said)  # a path may have any number


def _written(file: Path, text: bytes) -> Path:
    file.write_bytes(text)
    return file


def test_a_compressed_file_that_was_cut_off_or_damaged_is_refused(new: Queue, file: Path) -> None:
    packed = gzip.compress(file.read_bytes())
    assert "cut off" in refused(new, _written(file, packed[: len(packed) // 2]))
    assert "cut off" in refused(new, _written(file, packed[:-4]))
    damaged = bytearray(packed)
    damaged[-6] ^= 0xFF  # of the checksum at the end
    assert "damaged" in refused(new, _written(file, bytes(damaged)))
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    # What that makes of the content may be noticed before the checksum is read.
    assert "Nothing was imported" in refused(new, _written(file, bytes(damaged)))


def test_a_file_that_was_changed_is_refused(new: Queue, file: Path) -> None:
    text = file.read_bytes()
    changed = text.replace(b'"Name"', b'"Nome"')
    assert len(changed) == len(text)
    assert "was changed after it was written" in refused(new, _written(file, changed))
    lines = text.split(b"\n")
    del lines[-3]  # the last row
    assert "was changed after it was written" in refused(new, _written(file, b"\n".join(lines)))
    assert "more follows" in refused(new, _written(file, text + b"{}\n"))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"id;name\n1;x\n", b"\x00\xff\xfe" * 10_000, b"[1,2]\n", b"null\n"),
        *(b'{"format":"other"}\n', b"[" * 4000 + b"\n", b"\xef\xbb\xbf{}", b"\x1f\x8bno gzip"),
    ],
)
def test_a_file_of_another_kind_is_refused(new: Queue, tmp_path: Path, content: bytes) -> None:
    message = refused(new, _written(tmp_path / "other", content))
    assert "taskmanager export" in message or "damaged" in message


Change = Callable[[list[str]], list[str]]


def in_row(old: str, new: str) -> Change:
    """Replaces the first occurrence."""

    def change(lines: list[str]) -> list[str]:
        text = "\n".join(lines)
        assert old in text
        return text.replace(old, new, 1).split("\n")

    return change


def in_tasks(column: str, value: object) -> Change:
    """Another value in the first row of the tasks."""

    def change(lines: list[str]) -> list[str]:
        start = next(n for n, line in enumerate(lines) if line.startswith('{"table":"tasks"'))
        place = json.loads(lines[start])["columns"].index(column)
        row = json.loads(lines[start + 1])
        row[place] = value
        return [*lines[: start + 1], json.dumps(row), *lines[start + 2 :]]

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (in_tasks("attempts", "3"), "tasks.attempts is a whole number of 32 bits"),
        (in_tasks("attempts", True), "tasks.attempts is a whole number"),
        (in_tasks("attempts", 3.0), "tasks.attempts is a whole number"),
        (in_tasks("attempts", None), "tasks.attempts is a whole number"),
        (in_tasks("attempts", 2**31), "tasks.attempts is a whole number"),
        (in_tasks("created_at", 2**63), "tasks.created_at is a whole number of 64 bits"),
        (in_tasks("params", {"a": 1}), "tasks.params is a text"),
        (in_tasks("params", "\ud800"), "tasks.params is a text"),
        (in_tasks("error_code", "x" * 101), "tasks.error_code is a text of at most 100"),
        (in_tasks("dedupe_key", "x" * 63), "tasks.dedupe_key is a text of 64 characters"),
        (in_tasks("status", "waiting"), "is not taken by the database"),
        (in_tasks("task_type_id", 77), "is not taken by the database"),
        (in_tasks("parent_task_id", 77), "is not taken by the database"),
        (in_tasks("id", 2), "is not taken by the database"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(
    new: Queue, file: Path, change: Change, complaint: str
) -> None:
    rewrite(file, change)
    number = line_of(file, '{"table":"tasks"') + 1
    message = refused(new, file)
    assert complaint in message
    if change is not None and "77" not in message:
        assert f"Line {number} " in message or f"Line {number + 1} " in message


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (in_row('{"table":"workers"', '{"table":"helpers"'), "'helpers', which this program"),
        (in_row('{"table":"workers"', '{"table":"tasks"'), "the table tasks a second time"),
        (in_row('"metadata","tasks_comp', '"colour","tasks_comp'), "'colour', which workers does"),
        (in_row('"metadata","tasks_comp', '"tasks_comp'), "lacks the columns metadata of workers"),
        (in_row('"metadata","tasks_comp', '"id","tasks_comp'), "columns of workers, each once"),
        (in_row('"columns":["id","metadata"', '"columns":[["id"],"metadata"'), "has a column ['id"),
        (in_row("[1,", "[1,1,"), "has 24 values for the 23 columns of task_types"),
        (in_row("[1,", "(1,"), "is not JSON"),
        (in_row("[1,", "[NaN,"), "is not JSON"),
        (in_row("[1,", "[" * 100_000), "is not JSON"),
        (in_row("\n[1,", '\n"row"\n[1,'), "is neither a row nor a table"),
        (lambda lines: [lines[0], "[1]", *lines[1:]], "Line 2 is a row before any table"),
        (lambda lines: lines[:-4], "without the tables maintenance_runs"),
        (lambda lines: [lines[0].replace("_version", "_"), *lines[1:]], "which version"),
        (
            lambda lines: [with_schema_version(lines[0], schema.SCHEMA_VERSION + 1), *lines[1:]],
            f"schema version {schema.SCHEMA_VERSION + 1}); this one knows",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    make_queue: MakeQueue, file: Path, change: Change, complaint: str
) -> None:
    rewrite(file, change)
    assert complaint in refused(make_queue("sqlite", "new"), file)


def test_a_file_that_lacks_what_a_later_version_computes_is_refused(
    make_queue: MakeQueue, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = make_queue("sqlite", "new")
    new.open()
    later = schema.SCHEMA_VERSION
    steps = (*MIGRATIONS[later], DataStep("count what is there", lambda _: None))
    monkeypatch.setattr(importing, "MIGRATIONS", {**MIGRATIONS, later: steps})
    rewrite(file, lambda lines: [with_schema_version(lines[0], later - 1), *lines[1:]])
    assert "Run 'taskmanager migrate' where" in refused(new, file)


def test_a_queue_that_is_in_use_is_left_alone(new: Queue, file: Path) -> None:
    new.run("import", str(file))
    message = refused(new, file, "--replace-keys")
    assert "it has task types and tasks and schedules" in message
    assert "make a new database" in message


def test_keys_that_somebody_made_are_only_replaced_when_that_is_said(
    new: Queue, file: Path
) -> None:
    new.run("keys", "create", "--name", "laptop", "--role", "worker")
    message = refused(new, file)
    assert "made keys in this queue: laptop" in message
    assert "--replace-keys" in message
    assert "were replaced: laptop." in new.run("import", str(file), "--replace-keys").stderr


def test_a_key_made_at_the_start_gives_way_unless_it_is_in_the_file(
    old: Queue, new: Queue, tmp_path: Path
) -> None:
    file, key = str(tmp_path / "moved.jsonl"), "k" * 40
    old.environment["TASKMANAGER_BOOTSTRAP_ADMIN_KEY"] = key
    old.run("export", file)
    new.environment["TASKMANAGER_BOOTSTRAP_ADMIN_KEY"] = key
    assert "no longer" not in new.run("import", file).stderr
    new.environment["TASKMANAGER_BOOTSTRAP_ADMIN_KEY"] = "other" * 8
    assert "were replaced: bootstrap." in new.run("import", file, "--replace-keys").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *(["export"], ["import"], ["import", "no-such-file"], ["export", "-", "--json"]),
        *(["export", "/"], ["import", "/"]),
    ],
)
def test_wrong_usage_ends_with_2(make_queue: MakeQueue, arguments: list[str]) -> None:
    assert "Error: " in make_queue("sqlite", "new").run(*arguments, exit_code=2).stderr


def test_a_row_that_no_import_would_take_ends_the_export(
    make_queue: MakeQueue, tmp_path: Path
) -> None:
    old = make_queue("sqlite", "old")
    old.fill()
    old.open()
    execute("UPDATE tasks SET worker_id = ? WHERE id = 2", ("x" * 256,))
    close_connection()
    failed = old.run("export", str(tmp_path / "queue.jsonl"), exit_code=1)
    assert "in the table tasks, where id is 2, worker_id is not a text of at most" in failed.stderr
    assert not (tmp_path / "queue.jsonl").exists()


def test_an_export_that_fails_leaves_the_file_of_before(old: Queue, tmp_path: Path) -> None:
    """On a disk that is full, which a small file system in memory stands for."""
    old.fill()
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)],
        check=False,
        capture_output=True,
    )
    require("a file system in memory", mounted.returncode == 0)
    try:
        (disk / "queue.jsonl").write_text("of before")
        failed = old.run("export", str(disk / "queue.jsonl"), exit_code=1)
        assert "could not be written: No space left on device. Nothing of it" in failed.stderr
        assert [path.name for path in disk.iterdir()] == ["queue.jsonl"]
        assert (disk / "queue.jsonl").read_text() == "of before"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


WRITES_UNTIL_KILLED = """
import sys, time
from pathlib import Path
from taskmanager.transfer.files import new_file

with new_file(Path(sys.argv[1])) as stream:
    stream.write(b"half of a queue")
    print("begun", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_the_next_export_deletes_what_a_killed_one_left_and_nothing_else(
    old: Queue, tmp_path: Path
) -> None:
    def begin(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WRITES_UNTIL_KILLED, str(tmp_path / name)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        return process

    def parts() -> int:
        return len(list(tmp_path.glob(".*.part")))

    (tmp_path / ".of-another-program.part").touch()
    with begin("killed") as killed:
        killed.kill()
    with begin("running") as running:
        assert parts() == 2  # beginning another is enough
        old.run("export", str(tmp_path / "queue.jsonl"))
        assert parts() == 2
        running.communicate()
    assert (tmp_path / "running").read_bytes() == b"half of a queue"
    assert parts() == 1


def test_what_cannot_be_written_is_said_in_one_sentence(old: Queue, tmp_path: Path) -> None:
    missing = old.run("export", str(tmp_path / "no" / "folder" / "x"), exit_code=1)
    assert "could not be written: No such file or directory" in missing.stderr
    os.mkfifo(tmp_path / "pipe")
    assert "is no file" in old.run("export", str(tmp_path / "pipe"), exit_code=1).stderr
    with open("/dev/full", "wb") as full:
        process = old.start("export", "-", stdout=full)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    assert complaint.startswith(b"taskmanager: Cannot write to standard output: No space")
