"""A type's `retention_days`: how long its finished tasks are kept, whatever the setting says."""

from typing import Any

import pytest

from taskmanager.access.caller import OPERATOR
from taskmanager.db.statements import fetch_all
from taskmanager.queue import maintenance, retention
from tests.conftest import Api, Clock, make_key

DAY = 86_400  # seconds
RETENTION = 30  # days, by default


@pytest.fixture
def queue(api: Api) -> Api:
    api.register("short", retention_days=5)
    api.register("usual")
    api.register("long", retention_days=90)
    api.register("always", retention_days=0)
    return Api(api.client, make_key("admin"))


def finish(api: Api, *types: str, **fields: Any) -> None:
    for name in types:
        api.create(name, {}, dedupe="none", **fields)
        api.complete(api.claim(type=name))


def prune(api: Api, clock: Clock, days: float) -> int:
    clock.advance(days * DAY)
    pruned: int = api.post("/api/maintenance/run", {})["pruned"]
    return pruned


def types_left() -> list[str]:
    found = fetch_all(
        "SELECT name FROM {tasks} JOIN {task_types} ON task_type_id = {task_types}.id "
        "ORDER BY {tasks}.id"
    )
    return [row["name"] for row in found]


def test_each_type_keeps_its_tasks_as_long_as_it_says(queue: Api, clock: Clock) -> None:
    finish(queue, "always", "long", "usual", "short")

    assert prune(queue, clock, 5.1) == 1
    assert types_left() == ["always", "long", "usual"]
    assert prune(queue, clock, RETENTION - 5) == 1
    assert types_left() == ["always", "long"]
    assert prune(queue, clock, 90 - RETENTION) == 1
    assert types_left() == ["always"]
    assert prune(queue, clock, 10_000) == 0


@pytest.mark.slow
def test_nothing_is_overlooked_when_tasks_finish_day_by_day(queue: Api, clock: Clock) -> None:
    for _ in range(100):
        finish(queue, "short", "usual", "long")
        prune(queue, clock, 1)

    left = types_left()

    assert {name: left.count(name) for name in left} == {"short": 5, "usual": 30, "long": 90}


@pytest.mark.parametrize(("before", "after"), [(90, 5), (5, 90), (0, 5), (None, 5), (90, None)])
def test_changed_days_count_for_tasks_that_are_there_already(
    queue: Api, clock: Clock, before: int | None, after: int | None
) -> None:
    queue.patch("/api/task-types/long", {"retention_days": before})
    for _ in range(12):
        finish(queue, "long")
        prune(queue, clock, 1)
    queue.patch("/api/task-types/long", {"retention_days": after})
    prune(queue, clock, 0)
    for _ in range(3):
        finish(queue, "long")
        prune(queue, clock, 1)

    kept = 5 if after == 5 else 8 if before == 5 else 15
    assert types_left() == ["long"] * kept


def test_a_run_looks_only_at_tasks_that_no_run_has_looked_at(
    queue: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(queue, *["long"] * 10)
    prune(queue, clock, RETENTION + 1)  # the usual ones are looked for among these ten
    looked_at: list[int] = []

    def counted(template: str, values: Any = ()) -> Any:
        rows = fetch_all(template, values)
        looked_at.append(len(rows) if template == retention.FINISHED_FROM else 0)
        return rows

    monkeypatch.setattr(retention, "fetch_all", counted)
    prune(queue, clock, 1)

    assert sum(looked_at) == 0
    finish(queue, "usual", *["long"] * 3)
    prune(queue, clock, RETENTION + 1)
    assert sum(looked_at) == 4 + 4  # of short and of usual


def test_the_days_of_a_type_also_count_where_the_setting_keeps_all(
    queue: Api, clock: Clock
) -> None:
    finish(queue, "always", "usual", "short")
    clock.advance(1_000 * DAY)

    pruned = maintenance.prune_finished_tasks(
        retention_days=0, caller=OPERATOR, now=clock.now, deadline=float("inf")
    )

    assert pruned == 1
    assert types_left() == ["always", "usual"]


def test_a_run_that_has_no_time_goes_on_where_it_stopped(
    queue: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOOKED_AT", 3)
    finished_at = []
    for _ in range(10):
        clock.advance(1)
        finish(queue, "long", "short")
        finished_at.append(clock.now)
    clock.advance(6 * DAY)
    cutoff = clock.now - 5 * DAY * 1000
    groups = retention.groups(retention_days=RETENTION, now=clock.now)
    [group] = [one for one in groups if one.cutoff == cutoff]
    search = retention.Search(group, deadline=float("inf"))

    reached = []
    for _ in range(10):
        assert len(search.next_ids(1)) == 1
        reached.append(search.reached())
    assert search.next_ids(1) == []

    # Each time all that is due before has been handed out, and it moves on.
    assert all(at <= due for at, due in zip(reached, finished_at[1:], strict=False))
    assert reached[5] >= finished_at[4]
    assert search.reached() == cutoff


@pytest.mark.parametrize("days", [-1, 36_501, 1.5, "5"])
def test_other_numbers_of_days_are_refused(queue: Api, days: Any) -> None:
    refused = queue.patch("/api/task-types/long", {"retention_days": days}, 400)
    assert "retention_days" in refused["message"]


def test_the_days_are_shown_kept_and_reset(queue: Api) -> None:
    assert queue.get("/api/task-types/long")["retention_days"] == 90
    assert queue.register("long")["retention_days"] == 90
    assert queue.register("long", retention_days=0)["retention_days"] == 0
    reset = queue.patch("/api/task-types/long", {"retention_days": None})
    assert reset["retention_days"] is None
