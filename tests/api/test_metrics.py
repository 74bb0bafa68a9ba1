"""GET /api/metrics, read by Prometheus' own parser and held against /api/stats."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from taskmanager import __version__
from taskmanager.queue import workers
from taskmanager.queue.read import FINISHED_STATUSES, STATUSES
from tests.api.tables import dump_tables
from tests.conftest import Api, Clock, make_key

HISTOGRAMS = ("taskmanager_wait_seconds", "taskmanager_run_seconds")
Labels = tuple[tuple[str, str], ...]


def read(api: Api) -> dict[str, dict[Labels, float]]:
    """Name of each metric → its labels, sorted → value. Those of a histogram have `sample` too."""
    response = api.call("GET", "/api/metrics")
    assert response.status_code == 200, response.text
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(response.text):
        assert family.type == ("histogram" if family.name in HISTOGRAMS else "gauge")
        assert family.documentation
        assert family.name not in found
        found[family.name] = {}
        for sample in family.samples:
            suffix = sample.name.removeprefix(family.name)
            labels = tuple(sorted({**sample.labels, "sample": suffix}.items()))
            if family.type == "gauge":
                assert not suffix
                labels = tuple(sorted(sample.labels.items()))
            assert labels not in found[family.name]
            found[family.name][labels] = sample.value
    return found


def by(metric: dict[Labels, float], label: str) -> dict[str, float]:
    return {dict(labels)[label]: value for labels, value in metric.items()}


def of(metric: dict[Labels, float], **labels: str) -> float:
    return metric[tuple(sorted(labels.items()))]


def fill(api: Api, clock: Clock) -> None:
    """Tasks of two types in each status, finished at different times."""
    for name in ("a.first", "b"):
        api.register(name)
        for seconds, report in (
            (0, {"success": True}),
            (80_000, {"success": True}),
            (3_500, {"success": False, "is_retryable": False}),
        ):
            clock.advance(seconds)
            api.create(name)
            api.complete(api.claim(type=name), **report)
        api.post(f"/api/tasks/{api.create(name)['id']}/cancel", {})
        api.create(name, delay_seconds=86_400)
        api.create(name)
        api.claim(type=name)
        clock.advance(7)
        api.create(name)
        api.create(name)


def test_the_answer_is_text_that_prometheus_takes_with_the_headers_of_every_answer(
    api: Api,
) -> None:
    response = api.call(
        "GET",
        "/api/metrics",
        headers={"Authorization": f"Bearer {api.key}", "X-Request-ID": "mine"},
    )
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Request-ID"] == "mine"
    head = api.call("HEAD", "/api/metrics")
    assert (head.status_code, head.data) == (200, b"")


def test_the_numbers_of_tasks_are_those_of_the_statistics(api: Api, clock: Clock) -> None:
    fill(api, clock)
    before = dump_tables()
    figures = api.get("/api/stats")
    metrics = read(api)
    assert dump_tables() == before

    tasks = metrics["taskmanager_tasks"]
    assert len(tasks) == 2 * len(STATUSES)
    for name, counts in figures["by_type"].items():
        for status, count in counts.items():
            assert of(tasks, type=name, status=status) == count
    assert sum(tasks.values()) == figures["total"] == 16
    for period, counts in figures["finished"].items():
        finished = metrics[f"taskmanager_finished_last_{period}"]
        assert len(finished) == 2 * len(FINISHED_STATUSES)
        for status, count in counts.items():
            of_each_type = [of(finished, type=name, status=status) for name in figures["by_type"]]
            assert sum(of_each_type) == count
    # Of the first type the last one was finished nearly a day ago, those before it earlier.
    day = metrics["taskmanager_finished_last_day"]
    assert of(day, type="a.first", status="completed") == 0
    assert of(day, type="a.first", status="failed") == 1
    assert of(day, type="b", status="completed") == 2
    assert of(metrics["taskmanager_finished_last_hour"], type="b", status="completed") == 1
    assert of(metrics["taskmanager_finished_last_hour"], type="b", status="failed") == 1
    assert of(metrics["taskmanager_finished_last_minute"], type="a.first", status="failed") == 0
    oldest = by(metrics["taskmanager_oldest_pending_seconds"], "type")
    assert max(oldest.values()) == figures["oldest_pending_seconds"]
    assert oldest["b"] == 0
    assert metrics["taskmanager_statistics_age_seconds"] == {(): 0}


def test_a_type_without_pending_tasks_has_no_oldest_one(api: Api, clock: Clock) -> None:
    api.register("a")
    api.register("b")
    api.register("c")
    api.create("a")
    clock.advance(30)
    api.create("b")
    api.claim(type="a")
    clock.advance(12.5)
    oldest = by(read(api)["taskmanager_oldest_pending_seconds"], "type")
    assert oldest == {"a": 0, "b": 12.5}


def test_an_empty_queue_has_metrics(api: Api) -> None:
    metrics = read(api)
    assert metrics["taskmanager_build_info"] == {(("version", __version__),): 1}
    assert metrics["taskmanager_database_up"] == {(): 1}
    assert metrics["taskmanager_tasks"] == {}
    assert by(metrics["taskmanager_workers"], "status") == {"active": 0, "stale": 0, "inactive": 0}
    assert by(metrics["taskmanager_schedules"], "status") == {"active": 0, "inactive": 0}
    assert by(metrics["taskmanager_overdue_seconds"], "kind") == {
        "schedule": 0,
        "lease": 0,
        "task": 0,
    }
    assert metrics["taskmanager_maintenance_last_run_timestamp_seconds"] == {}


def test_workers_are_counted_in_the_state_that_the_list_shows(api: Api, clock: Clock) -> None:
    for name, seconds in (("gone", 510), ("quiet", 1), ("nearly quiet", 90), ("here", 0)):
        api.post("/api/workers/heartbeat", {"worker_id": name})
        clock.advance(seconds)
    api.post("/api/workers/heartbeat", {"worker_id": "ended"})
    api.post("/api/workers/ended/shutdown", {})
    listed = [worker["status"] for worker in api.get("/api/workers")["workers"]]
    counted = by(read(api)["taskmanager_workers"], "status")
    assert counted == {status: listed.count(status) for status in ("active", "stale", "inactive")}
    assert counted == {"active": 2, "stale": 1, "inactive": 2}


def test_no_more_workers_are_counted_than_were_seen_last(
    api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        api.post("/api/workers/heartbeat", {"worker_id": f"w{number}"})
        clock.advance(60)
    monkeypatch.setattr(workers, "WORKERS_COUNTED", 3)
    assert by(read(api)["taskmanager_workers"], "status") == {
        "active": 1,
        "stale": 2,
        "inactive": 0,
    }


def schedule(api: Api, name: str, **fields: Any) -> Any:
    body = {"name": name, "type": "job", "params": {}, "interval_seconds": 60, **fields}
    return api.post("/api/schedules", body, 201)


def test_schedules_are_counted_by_whether_they_are_active(api: Api) -> None:
    api.register()
    for name in ("one", "two"):
        schedule(api, name)
    schedule(api, "three", is_active=False)
    assert by(read(api)["taskmanager_schedules"], "status") == {"active": 2, "inactive": 1}


def test_what_nobody_has_dealt_with_is_overdue(api: Api, clock: Clock) -> None:
    api.register()
    schedule(api, "hourly", interval_seconds=3_600)
    api.create()
    api.claim(lease_seconds=100)
    api.create(delay_seconds=130)
    clock.advance(90)
    assert set(read(api)["taskmanager_overdue_seconds"].values()) == {0}
    clock.advance(50)
    assert by(read(api)["taskmanager_overdue_seconds"], "kind") == {
        "schedule": 0,
        "lease": 40,
        "task": 10,
    }
    clock.advance(3_600)
    assert by(read(api)["taskmanager_overdue_seconds"], "kind")["schedule"] == 140
    api.post("/api/maintenance/run")
    clock.advance(1)
    assert set(read(api)["taskmanager_overdue_seconds"].values()) == {0}


def test_the_last_run_of_maintenance_is_shown_by_its_road(api: Api, clock: Clock) -> None:
    api.post("/api/maintenance/run")
    ran_at = clock.now / 1000
    clock.advance(500)
    metrics = read(api)
    assert by(metrics["taskmanager_maintenance_last_run_timestamp_seconds"], "road") == {
        "http": ran_at
    }
    took = by(metrics["taskmanager_maintenance_last_run_duration_seconds"], "road")
    assert 0 <= took["http"] < 100


def test_a_limited_key_sees_its_types_and_nothing_that_is_known_for_all_together(
    api: Api, clock: Clock
) -> None:
    fill(api, clock)
    api.register()
    schedule(api, "theirs")
    schedule(api, "mine", type="a.first")
    api.post("/api/maintenance/run")
    limited = api.with_key(make_key("viewer", task_types=["a.%"]))
    metrics = read(limited)
    all_metrics = read(api)
    left_out = {
        name
        for name in all_metrics.keys() - metrics.keys()
        if not name.startswith("taskmanager_database_node_")  # on a cluster
    }
    assert left_out == {"taskmanager_overdue_seconds"}
    for name, samples in metrics.items():
        of_mine = {
            labels: value
            for labels, value in all_metrics[name].items()
            if dict(labels).get("type") in ("a.first", None)
        }
        if name not in (
            "taskmanager_schedules",
            "taskmanager_statistics_count_duration_seconds",
            "taskmanager_database_clock_skew_seconds",
        ):
            assert samples == of_mine, name
    assert by(metrics["taskmanager_schedules"], "status") == {"active": 1, "inactive": 0}
    assert sum(all_metrics["taskmanager_schedules"].values()) == 2
    assert len(metrics["taskmanager_tasks"]) == len(STATUSES)


def test_errors_keep_the_envelope(api: Api) -> None:
    producer = api.with_key(make_key("producer"))
    assert producer.get("/api/metrics", 403)["code"] == "scope_missing"
    assert api.with_key("nobody's").get("/api/metrics", 401)["code"] == "not_authenticated"
    assert "'name[]'" in api.get("/api/metrics?name[]=up", 400)["message"]
    assert api.call("POST", "/api/metrics").status_code == 405
