"""When the figures of all tasks are counted anew, and when those that are kept have to do."""

from collections.abc import Callable
from typing import Any

import pytest

from taskmanager.db.connection import dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import execute, fetch_all, fetch_one
from taskmanager.errors import DatabaseUnavailable
from taskmanager.queue.figures import counts
from taskmanager.queue.figures.counts import TaskCounts
from tests.api.tables import dump_tables
from tests.cli.test_commands import Run
from tests.conftest import Api, Clock, make_key

SNAPSHOT_SECONDS = counts.SNAPSHOT_MS // 1000
GIVEN_UP_SECONDS = counts.GIVEN_UP_MS // 1000
MANY = 3


class Counting:
    """The counting itself, watched; `meanwhile` is done while one is under way."""

    def __init__(self) -> None:
        self.real = counts._count
        self.runs = 0
        self.meanwhile: Callable[[], Any] | None = None

    def __call__(self, now: int) -> TaskCounts:
        self.runs += 1
        work, self.meanwhile = self.meanwhile, None
        counted = self.real(now)
        if work is not None:
            work()
        return counted


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch, api: Api, clock: Clock) -> Counting:
    """A queue of a type `job`, where more than MANY tasks are too many to be always counted."""
    watched = Counting()
    monkeypatch.setattr(counts, "EXACT_UP_TO_TASKS", MANY)
    monkeypatch.setattr(counts, "_count", watched)
    api.register()
    return watched


@pytest.fixture
def large(counting: Counting, api: Api) -> Counting:
    """The same with MANY + 1 tasks, of which a snapshot has just been made."""
    for _ in range(MANY + 1):
        api.create()
    api.get("/api/stats")
    assert counting.runs == 1
    return counting


def snapshot() -> dict[str, Any]:
    row = fetch_one("SELECT * FROM statistics_snapshots")
    assert row is not None
    return row


def pending(api: Api) -> int:
    count: int = api.get("/api/stats")["by_status"]["pending"]
    return count


def in_the_middle() -> None:
    raise KeyboardInterrupt


def test_a_small_queue_is_counted_for_every_answer_and_nothing_is_kept(
    api: Api, counting: Counting
) -> None:
    for made in range(1, MANY + 1):
        api.create()
        before = dump_tables()
        assert pending(api) == made
        assert dump_tables() == before
    assert fetch_all("SELECT * FROM statistics_snapshots") == []
    assert counting.runs == MANY


def test_the_figures_of_a_large_queue_are_kept_and_say_of_when_they_are(
    api: Api, clock: Clock, large: Counting
) -> None:
    counted_at = api.get("/api/stats")["counted_at"]
    api.create()
    clock.advance(SNAPSHOT_SECONDS - 1)
    kept = api.get("/api/stats")
    assert (kept["total"], kept["counted_at"]) == (MANY + 1, counted_at)
    assert kept["oldest_pending_seconds"] == SNAPSHOT_SECONDS - 1  # of this moment
    assert large.runs == 1

    clock.advance(1)
    anew = api.get("/api/stats")
    assert anew["total"] == MANY + 2
    assert anew["counted_at"] > counted_at
    assert api.get("/api/stats") == anew
    assert large.runs == 2


def test_what_is_kept_is_what_was_counted(api: Api, clock: Clock, counting: Counting) -> None:
    api.register("other")
    for success in (True, True, False):
        api.create()
        api.complete(api.claim(), success=success, is_retryable=False)
        clock.advance(100)
    for _ in range(2):
        api.create("other")
    clock.advance(-100)
    counted = api.get("/api/stats")
    assert counting.runs == 1
    assert api.get("/api/stats") == counted
    assert counting.runs == 1
    assert counted["by_type"]["job"]["completed"] == counted["finished"]["hour"]["completed"] == 2
    assert counted["finished"]["minute"] == {"completed": 0, "failed": 1, "cancelled": 0}
    assert counted["by_type"]["other"]["pending"] == 2


def test_a_snapshot_serves_keys_that_are_limited_to_some_types(
    api: Api, clock: Clock, large: Counting
) -> None:
    api.register("mine")
    api.complete(api.claim())
    api.create("mine")
    clock.advance(SNAPSHOT_SECONDS)
    assert api.get("/api/stats")["total"] == MANY + 2
    viewer = api.with_key(make_key("viewer", task_types=["mine"]))
    figures = viewer.get("/api/stats")
    assert (list(figures["by_type"]), figures["total"]) == (["mine"], 1)
    assert figures["finished"]["day"]["completed"] == 0
    assert large.runs == 2


def test_a_queue_that_grows_is_noticed_and_one_that_shrinks_is_exact_again(
    api: Api, clock: Clock, counting: Counting
) -> None:
    tasks = [api.create() for _ in range(MANY)]
    assert pending(api) == MANY
    tasks.append(api.create())
    assert pending(api) == MANY + 1
    api.create()
    assert pending(api) == MANY + 1

    execute("DELETE FROM task_logs")
    execute("DELETE FROM tasks WHERE id <= ?", (tasks[-1]["id"],))
    clock.advance(SNAPSHOT_SECONDS)
    for made in range(1, MANY + 1):
        assert pending(api) == made
        api.create()
    assert pending(api) == MANY + 1
    assert snapshot()["tasks"] == MANY + 1
    assert counting.runs == 2 + 1 + MANY


def test_figures_that_were_stored_first_stay_where_two_notice_that_a_queue_has_grown(
    api: Api, clock: Clock, large: Counting
) -> None:
    execute("DELETE FROM task_logs")
    execute("DELETE FROM tasks")
    clock.advance(SNAPSHOT_SECONDS)
    assert pending(api) == 0
    for _ in range(MANY + 1):
        api.create()

    def notice_it_too() -> None:
        api.create()
        clock.advance(1)
        assert pending(api) == MANY + 2

    large.meanwhile = notice_it_too
    assert pending(api) == MANY + 1
    assert (snapshot()["tasks"], snapshot()["counted_at"]) == (MANY + 2, clock.now)


def test_while_one_counts_the_others_are_answered_with_what_is_kept(
    api: Api, clock: Clock, large: Counting
) -> None:
    api.create()
    clock.advance(SNAPSHOT_SECONDS)
    seen = []
    large.meanwhile = lambda: seen.append(pending(api))
    assert pending(api) == MANY + 2
    assert seen == [MANY + 1]
    assert large.runs == 2
    assert snapshot()["counting_since"] is None


def test_a_count_that_was_cut_short_changes_nothing_and_is_taken_over_after_a_while(
    api: Api, clock: Clock, large: Counting
) -> None:
    api.create()
    clock.advance(SNAPSHOT_SECONDS)
    before = snapshot()
    large.meanwhile = in_the_middle
    with pytest.raises(KeyboardInterrupt):
        api.call("GET", "/api/stats")
    assert snapshot() == before | {"counting_since": clock.now}

    clock.advance(GIVEN_UP_SECONDS - 1)
    assert pending(api) == MANY + 1
    assert large.runs == 2
    clock.advance(1)
    assert pending(api) == MANY + 2
    assert large.runs == 3
    assert snapshot()["counting_since"] is None


def test_a_count_that_was_taken_over_keeps_its_figures_to_itself(
    api: Api, clock: Clock, large: Counting
) -> None:
    clock.advance(SNAPSHOT_SECONDS)

    def take_over() -> None:
        api.create()
        clock.advance(GIVEN_UP_SECONDS)
        assert pending(api) == MANY + 2

    large.meanwhile = take_over
    assert pending(api) == MANY + 1
    assert snapshot()["tasks"] == MANY + 2
    assert snapshot()["counted_at"] == clock.now


def test_a_count_that_is_late_does_not_end_the_one_that_took_over(
    api: Api, clock: Clock, large: Counting
) -> None:
    clock.advance(SNAPSHOT_SECONDS)

    def take_over_and_die() -> None:
        clock.advance(GIVEN_UP_SECONDS)
        large.meanwhile = in_the_middle
        with pytest.raises(KeyboardInterrupt):
            api.call("GET", "/api/stats")

    before = snapshot()
    large.meanwhile = take_over_and_die
    api.get("/api/stats")
    assert snapshot() == before | {"counting_since": clock.now}


def test_two_that_find_nothing_kept_both_count_and_one_snapshot_is_left(
    api: Api, counting: Counting
) -> None:
    for _ in range(MANY + 1):
        api.create()
    seen = []
    counting.meanwhile = lambda: seen.append(pending(api))
    assert [pending(api), *seen] == [MANY + 1, MANY + 1]
    assert counting.runs == 2
    assert snapshot()["tasks"] == MANY + 1


def test_a_clock_that_was_set_back_does_not_keep_old_figures(
    api: Api, clock: Clock, large: Counting
) -> None:
    clock.advance(-3_600)
    api.create()
    assert pending(api) == MANY + 2
    assert snapshot()["counted_at"] == clock.now


def _forbid_writing() -> None:
    """Until the connection is closed, which the first refusal does."""
    statement = (
        "PRAGMA query_only = ON" if dialect() is SQLITE else "SET SESSION TRANSACTION READ ONLY"
    )
    execute(statement)


def test_where_nothing_can_be_written_there_are_figures_all_the_same(
    api: Api, clock: Clock, counting: Counting
) -> None:
    for _ in range(MANY + 1):
        api.create()
    api.get("/api/workers")
    _forbid_writing()
    assert pending(api) == MANY + 1
    assert fetch_all("SELECT * FROM statistics_snapshots") == []

    assert pending(api) == MANY + 1
    api.create()
    clock.advance(SNAPSHOT_SECONDS)
    before = snapshot()
    _forbid_writing()
    figures = api.get("/api/stats")
    assert figures["total"] == MANY + 1
    assert snapshot() == before


@pytest.mark.parametrize("by_command", [True, False])
def test_with_maintenance_once_a_minute_no_request_has_to_count(
    api: Api,
    clock: Clock,
    large: Counting,
    by_command: bool,
    monkeypatch: pytest.MonkeyPatch,
    database_url: str,
    tmp_path: Any,
) -> None:
    monkeypatch.setenv("TASKMANAGER_DATABASE_URL", database_url)
    monkeypatch.setenv("TASKMANAGER_INSTANCE_PATH", str(tmp_path / "instance"))
    for minute in range(5):
        clock.advance(59 if minute % 2 else 61)
        api.create()
        if by_command:
            Run()("maintain")
        else:
            api.post("/api/maintenance/run")
        assert large.runs == 2 + minute
        assert pending(api) == MANY + 2 + minute
        clock.advance(15)
        assert pending(api) == MANY + 2 + minute
        assert large.runs == 2 + minute


def test_maintenance_leaves_figures_that_are_new_and_counts_alone(
    api: Api, clock: Clock, large: Counting
) -> None:
    clock.advance(counts.RENEWED_BY_MAINTENANCE_MS / 1000 - 1)
    api.post("/api/maintenance/run")
    assert large.runs == 1
    clock.advance(1)
    large.meanwhile = lambda: api.post("/api/maintenance/run")
    api.post("/api/maintenance/run")
    assert large.runs == 2


def test_maintenance_does_its_work_where_counting_fails(
    api: Api, clock: Clock, large: Counting
) -> None:
    def fail() -> None:
        raise DatabaseUnavailable("The database went away.")

    api.claim(lease_seconds=10)
    clock.advance(60)
    large.meanwhile = fail
    assert api.post("/api/maintenance/run")["requeued"] == 1
