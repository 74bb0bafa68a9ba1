"""The pipes by which the processes of a host tell each other what has happened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from taskmanager.wakeups import pipes, topics
from taskmanager.wakeups.pipes import Pipe

LISTEN_AND_DIE = """
import os, signal, sys
from pathlib import Path
from taskmanager.wakeups.pipes import Pipe
pipe = Pipe(Path(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def announce(folder: Path, *words: str) -> None:
    pipes.send(folder, pipes.listening(folder), words)


def test_every_pipe_gets_every_word(tmp_path: Path) -> None:
    folder = tmp_path / "pipes"
    one, other = Pipe(folder), Pipe(folder)
    announce(folder, "pending:1", "events")
    announce(folder, "finished:7")
    assert one.read() == other.read() == {"pending:1", "events", "finished:7"}
    assert one.read() == set()


def test_more_words_than_fit_into_a_line_arrive_whole(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path)
    words = {topics.finished(task_id) for task_id in range(10_000_000, 10_000_500)}
    announce(tmp_path, *words)
    assert pipe.read() == words


def test_a_pipe_that_is_full_delays_nobody(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path)
    for _ in range(100):
        announce(tmp_path, *[topics.pending_of(type_id) for type_id in range(1_000)])
    assert topics.pending_of(999) in pipe.read()
    announce(tmp_path, "news")
    words = set[str]()
    while some := pipe.read():
        words |= some
    assert "news" in words


def test_the_pipe_of_a_killed_process_is_removed_by_the_next_news(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LISTEN_AND_DIE, str(tmp_path)], check=False)
    assert len(pipes.listening(tmp_path)) == 1
    pipe = Pipe(tmp_path)
    announce(tmp_path, "news")
    assert pipe.read() == {"news"}
    assert len(pipes.listening(tmp_path)) == 1


def test_a_closed_pipe_leaves_nothing_behind(tmp_path: Path) -> None:
    Pipe(tmp_path).close()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_does_not_exist_has_nobody_who_listens(tmp_path: Path) -> None:
    assert pipes.listening(tmp_path / "none") == []


def test_only_the_owner_may_write_into_a_pipe(tmp_path: Path) -> None:
    Pipe(tmp_path / "pipes")
    [name] = pipes.listening(tmp_path / "pipes")
    assert (tmp_path / "pipes").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "pipes" / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("worker_id", ["a b", "línea\n", "x" * 255])
def test_the_topic_of_any_worker_is_one_word(tmp_path: Path, worker_id: str) -> None:
    pipe = Pipe(tmp_path)
    announce(tmp_path, topics.shutdown_of(worker_id))
    assert pipe.read() == {topics.shutdown_of(worker_id)}
