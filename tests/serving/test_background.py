"""The thread of a server process that works without being asked."""

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from taskmanager.errors import DatabaseUnavailable
from taskmanager.serving import background
from taskmanager.serving.background import Background, IsStopping, Step

PATIENCE_SECONDS = 30

# The thread lets its connection go after each look.
pytestmark = [
    pytest.mark.usefixtures("app"),
    pytest.mark.parametrize("engine", ["sqlite"], indirect=True),
]


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "LOOK_SECONDS", 0.01)


class Count:
    """A step that counts its runs; it raises `error` if there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.runs, self._error = 0, error
        self._changed = threading.Condition()

    def __call__(self, is_stopping: IsStopping) -> None:
        with self._changed:
            self.runs += 1
            self._changed.notify_all()
        if self._error:
            raise self._error

    def wait_for(self, runs: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.runs >= runs, PATIENCE_SECONDS)


def thread_in(folder: Path, *steps: Step, is_stopping: IsStopping = lambda: False) -> Background:
    lock_file = folder / "background.lock"
    return Background(lock_file, steps, is_stopping=is_stopping, is_ready=lambda: True)


def test_each_step_runs_again_and_again(tmp_path: Path) -> None:
    often, rarely = Count(), Count()
    steps = Step("often", 0, often), Step("rarely", 3_600, rarely)
    with thread_in(tmp_path, *steps):
        often.wait_for(3)
    assert rarely.runs == 1


def test_no_step_runs_before_the_tables_are_there(tmp_path: Path) -> None:
    step, looks = Count(), [False, False, True]
    steps = [Step("step", 0, step)]
    with Background(
        tmp_path / "background.lock",
        steps,
        is_stopping=lambda: False,
        is_ready=lambda: looks.pop(0),
    ):
        step.wait_for(2)
    assert looks == []


@pytest.mark.parametrize("error", [ValueError("broken"), DatabaseUnavailable("it is down")])
def test_a_step_that_fails_is_logged_and_ends_neither_the_thread_nor_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    failing, other = Count(error), Count()
    steps = Step("failing", 0, failing), Step("other", 0, other)
    with thread_in(tmp_path, *steps):
        failing.wait_for(3)
        other.wait_for(3)
    said = [record for record in caplog.records if record.name == background.__name__]
    assert len(said) >= 3
    assert all("failing" in record.getMessage() for record in said)
    # What is no fault of the program needs no traceback.
    assert all(
        (record.exc_info is None) == isinstance(error, DatabaseUnavailable) for record in said
    )


def test_a_step_that_fails_again_and_again_pauses_for_longer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, background.__name__)
    step = Step("failing", 1, Count(ValueError()))
    pauses = []
    for _ in range(8):
        step.due_at = 0
        started = background.time.monotonic()
        background._run(step, lambda: False)
        pauses.append(round(step.due_at - started))
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


def test_one_of_several_runs_the_steps_and_another_takes_over(tmp_path: Path) -> None:
    first, second = Count(), Count()
    holder = thread_in(tmp_path, Step("first", 0, first)).__enter__()
    first.wait_for(1)
    with thread_in(tmp_path, Step("second", 0, second)):
        first.wait_for(first.runs + 5)
        assert second.runs == 0
        holder.__exit__()
        second.wait_for(1)


def test_a_process_that_ends_says_so_to_the_step_that_runs(tmp_path: Path) -> None:
    has_begun, was_told = threading.Event(), threading.Event()

    def wait(is_stopping: IsStopping) -> None:
        has_begun.set()
        while not is_stopping():
            pass
        was_told.set()

    ends = threading.Event()
    with thread_in(tmp_path, Step("wait", 0, wait), is_stopping=ends.is_set):
        assert has_begun.wait(PATIENCE_SECONDS)
        ends.set()
        assert was_told.wait(PATIENCE_SECONDS)


def test_a_step_that_does_not_end_keeps_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "STOP_SECONDS", 0.01)
    has_begun, may_end = threading.Event(), threading.Event()

    def hang(is_stopping: IsStopping) -> None:
        has_begun.set()
        may_end.wait(PATIENCE_SECONDS)

    with thread_in(tmp_path, Step("hang", 0, hang)) as started:
        assert has_begun.wait(PATIENCE_SECONDS)
    thread = started._thread
    assert thread.is_alive()
    assert thread.daemon
    may_end.set()
    thread.join(PATIENCE_SECONDS)


UNDER_ANOTHER_SERVER = """
import sys, threading
from taskmanager.app import create_app
app = create_app({"instance_path": sys.argv[1], "database_url": ""})
assert app.test_client().get("/api/health").status_code == 200
assert app.test_client().get("/dashboard").status_code == 303
print([name for name in sys.modules if name.startswith("taskmanager.serving")])
print(threading.active_count())
"""


@pytest.mark.slow
def test_under_another_server_nothing_runs_in_the_background(tmp_path: Path) -> None:
    command = [sys.executable, "-c", UNDER_ANOTHER_SERVER, str(tmp_path / "other")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n1\n"
