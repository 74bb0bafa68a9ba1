"""What the pages show of what was counted: chart, durations, trends, rates, who works on what."""

import re
from collections.abc import Callable
from itertools import pairwise

import pytest

from taskmanager.dashboard.chart import HEIGHT, chart_of
from taskmanager.queue.figures import history
from taskmanager.queue.figures.history import Step
from tests.conftest import Api, Clock
from tests.dashboard.conftest import Person, text_of

SignIn = Callable[..., Person]
HOUR = 3_600


@pytest.fixture
def worked(api: Api, clock: Clock) -> Api:
    """Of two types: three tasks fail five hours ago; of ten in ten minutes six end, one badly."""
    api.register("job")
    api.register("other")
    clock.now -= clock.now % (6 * HOUR * 1000)
    clock.advance(HOUR)
    for _ in range(3):
        api.create(params={"n": _})
        fail(api)
    api.post("/api/maintenance/run")
    clock.advance(5 * HOUR)
    for n in range(10):
        api.create(params={"n": n + 10})
    clock.advance(600)
    for n in range(6):
        if n == 0:
            fail(api)
        else:
            task = api.claim("worker-1", type="job")
            clock.advance(30)
            api.complete(task)
    clock.advance(60)
    api.post("/api/maintenance/run")
    return api


def fail(api: Api) -> None:
    task = api.claim("worker-2", type="job")
    report = {"error": "no answer", "error_code": "timeout", "is_retryable": False}
    api.complete(task, success=False, **report)


@pytest.mark.parametrize(
    ("range_name", "steps", "done", "failed"),
    [("hour", 60, 5, 1), ("day", 24, 5, 4), ("week", 28, 5, 4)],
)
def test_tasks_that_ended_are_counted_by_time(
    worked: Api, clock: Clock, range_name: str, steps: int, done: int, failed: int
) -> None:
    names = {row["id"]: row["name"] for row in worked.get("/api/task-types")["task_types"]}
    found = history.finished_by_time(names=names, range_name=range_name, now=clock.now)
    _, step = history.RANGES[range_name]
    assert len(found) == steps
    assert [after.at - before.at for before, after in pairwise(found)] == [step] * (steps - 1)
    assert found[-1].at <= clock.now < found[-1].at + step
    assert sum(each.completed for each in found) == done
    assert sum(each.failed for each in found) == failed
    assert sum(each.failed for each in found if each.at < clock.now - 4 * HOUR * 1000) == (
        failed - 1
    )


def test_the_chart_is_there_without_script_and_as_a_table(worked: Api, person: SignIn) -> None:
    somebody = person()
    for asked, shown, bars in (
        ("", "Day", 24),
        ("?range=hour", "Hour", 60),
        ("?range=x", "Day", 24),
    ):
        answer = somebody.get(f"/dashboard{asked}")
        assert f'aria-current="true">{shown}</a>' in answer.text
        assert answer.text.count("<g><title>") == bars
        assert answer.text.count('<th scope="row">') >= bars
        assert 'style="' not in answer.text
    table = re.findall(r"(?s)<caption.*?</table>", somebody.get("/dashboard").text)[0]
    numbers = [int(number) for number in re.findall('class="num">([0-9]+)<', table)]
    assert (sum(numbers[::2]), sum(numbers[1::2])) == (5, 4)


def test_bars_stand_on_each_other_and_fill_the_width() -> None:
    steps = [Step(at * 60_000, at, 59 - at) for at in range(60)]
    chart = chart_of(steps, "hour")
    for bar in chart.bars:
        assert 0 <= bar.failed_y <= bar.done_y <= HEIGHT
        assert 0 <= bar.x < bar.x + bar.width <= 100
    tops = {bar.failed_y for bar in chart.bars}
    assert max(tops) - min(tops) <= 1.5  # each has 59 in all
    assert chart.lines[-1][1] == 60
    assert chart_of([Step(0, 0, 0)], "day").bars[0].failed_y == HEIGHT


def test_the_smallest_bar_can_be_seen() -> None:
    chart = chart_of([Step(0, 1_000_000, 1), Step(60_000, 0, 1)], "hour")
    for bar in chart.bars:
        assert bar.done_y - bar.failed_y >= 1.4


def test_a_type_of_which_nothing_was_counted_yet_says_so(api: Api, person: SignIn) -> None:
    api.register()
    api.create()
    assert "drain time unknown" in person().page("/dashboard/types/job")


def test_a_type_shows_when_it_is_drained_and_how_long_its_tasks_take(
    worked: Api, clock: Clock, person: SignIn
) -> None:
    somebody = person()
    page = somebody.page("/dashboard/types/job")
    # Six of the ten went in the last ten minutes, ten came before: four are left.
    assert re.search(r"drained by \d\d:\d\d", page)
    assert re.search(r"Running (2\d|3\d) s (2\d|3\d) s 6", page)
    assert "worker-1 reported 5 attempts" in page
    assert "worker-2 reported 1 attempt " in page
    held = worked.claim("worker-3", type="job")
    assert f"worker-3 holds #{held['id']}" in somebody.page("/dashboard/types/job")
    assert "worker-1, worker-2" in somebody.page("/dashboard/types").replace(" ,", ",")
    clock.advance(900)
    assert "unknown" in somebody.page("/dashboard")


def test_a_backlog_that_does_not_shrink_is_called_so(worked: Api, person: SignIn) -> None:
    worked.create("other")
    worked.post("/api/maintenance/run")
    assert "not shrinking" in person().page("/dashboard")


def test_errors_show_their_trend_and_workers_their_rates(worked: Api, person: SignIn) -> None:
    somebody = person()
    page = somebody.get("/dashboard/errors").text
    assert 'aria-label="4 in 24 hours, 1 in this one"' in page
    assert page.count('<rect class="some"') == 2
    assert "0.5" in somebody.page("/dashboard/workers")
    assert "0.5 in ten minutes, < 0.1 in the last hour" in somebody.page(
        "/dashboard/workers/worker-1"
    )


def test_figures_are_of_the_types_of_the_key_alone(worked: Api, person: SignIn) -> None:
    somebody = person(("tasks:read", "task-types:read", "workers:read"), task_types=["other"])
    answer = somebody.get("/dashboard?range=day")
    table = re.findall(r"(?s)<caption.*?</table>", answer.text)[0]
    assert set(re.findall('class="num">([0-9]+)<', table)) == {"0"}
    assert "timeout" not in text_of(answer)
    assert "worker-1" not in somebody.page("/dashboard/types")
    assert 'class="trend"' not in somebody.get("/dashboard/errors").text


def test_before_anything_is_counted_there_is_no_chart(api: Api, person: SignIn) -> None:
    api.register()
    page = person().get("/dashboard").text
    assert 'class="chart"' not in page
