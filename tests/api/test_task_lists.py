"""Listing tasks: filters, orders and both ways of paging."""

import base64
import json
import tracemalloc
from itertools import product
from typing import Any

import pytest

from taskmanager.clock import format_time
from taskmanager.db.connection import database
from taskmanager.queue import read
from tests.conftest import Api, Clock

COUNT = 250


@pytest.fixture
def many(api: Api) -> list[dict[str, Any]]:
    """250 tasks of two types with seven priorities, in the order in which they were made."""
    for name in ("a.one", "a.two"):
        api.register(name)
    tasks = [
        {
            "type": "a.one" if n % 3 else "a.two",
            "params": {"n": n},
            "priority": (n * 5) % 7 - 3,
            "dedupe": "none",
        }
        for n in range(COUNT)
    ]
    done = api.post("/api/tasks/batch", {"tasks": tasks}, 201)
    return [result["task"] for result in done["results"]]


def ids(api: Api, query: str) -> list[int]:
    return [task["id"] for task in api.get(f"/api/tasks?{query}")["tasks"]]


def expected(tasks: list[dict[str, Any]], sort_by: str, sort_order: str) -> list[int]:
    """High priorities first, the oldest first among equals; ASC is exactly the other way round."""
    if sort_by == "priority":
        first_to_last = sorted(tasks, key=lambda task: (-task["priority"], task["id"]))
        backwards = sort_order == "asc"
    else:
        first_to_last = sorted(tasks, key=lambda task: task["id"])
        backwards = sort_order == "desc"
    found = [task["id"] for task in first_to_last]
    return found[::-1] if backwards else found


def pages(api: Api, query: str) -> list[int]:
    """The ids of every page, one after the other, as the cursors lead."""
    found: list[int] = []
    cursor = ""
    while True:
        page = api.get(f"/api/tasks?{query}{cursor}")
        found += [task["id"] for task in page["tasks"]]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


@pytest.mark.parametrize("sort_order", ["asc", "desc"])
@pytest.mark.parametrize("sort_by", ["created_at", "priority", "id"])
def test_every_order_can_be_paged_by_cursor_without_gaps(
    api: Api, many: list[dict[str, Any]], sort_by: str, sort_order: str
) -> None:
    wanted = expected(many, sort_by, sort_order)
    for limit in (7, 50, 100):
        query = f"limit={limit}&sort_by={sort_by}&sort_order={sort_order}"
        assert pages(api, query) == wanted


@pytest.mark.parametrize("sort_by", ["created_at", "priority", "id"])
def test_pages_by_offset_fit_together(api: Api, many: list[dict[str, Any]], sort_by: str) -> None:
    found: list[int] = []
    for offset in range(0, COUNT + 100, 100):
        page = api.get(f"/api/tasks?limit=100&offset={offset}&sort_by={sort_by}")
        assert (page["count"], page["offset"]) == (len(page["tasks"]), offset)
        assert (page["next_cursor"] is None) is (offset >= 200)
        found += [task["id"] for task in page["tasks"]]
    assert found == expected(many, sort_by, "desc")


def test_a_cursor_goes_on_through_filters_and_new_tasks(
    api: Api, many: list[dict[str, Any]]
) -> None:
    two = [task for task in many if task["type"] == "a.two" and task["priority"] >= 0]
    query = "type=a.t%25&priority_min=0&status=pending&sort_by=priority&limit=10"
    found: list[int] = []
    cursor = ""
    while True:
        page = api.get(f"/api/tasks?{query}{cursor}")
        found += [task["id"] for task in page["tasks"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
        api.create("a.two", priority=1_000)  # sorts before everything seen so far
    assert found == expected(two, "priority", "desc")


def test_the_default_page_is_the_newest_fifty(api: Api, many: list[dict[str, Any]]) -> None:
    page = api.get("/api/tasks")
    assert (page["count"], page["limit"], page["offset"]) == (50, 50, 0)
    assert [task["id"] for task in page["tasks"]] == expected(many, "id", "desc")[:50]
    assert "total" not in page
    assert ids(api, "sort_order=DESC") == ids(api, "sort_order=desc")
    assert ids(api, "sort_by=id&sort_order=ASC") == expected(many, "id", "asc")[:50]


def test_a_total_is_counted_only_where_it_is_asked_for(
    api: Api, many: list[dict[str, Any]]
) -> None:
    assert api.get("/api/tasks?with_total=true&limit=1")["total"] == COUNT
    assert api.get("/api/tasks?with_total=1&type=a.two&limit=1")["total"] == 84
    assert api.get("/api/tasks?with_total=true&type=none")["total"] == 0
    assert "total" not in api.get("/api/tasks?with_total=false")


@pytest.mark.parametrize(
    ("rows_counted", "query", "counted"),
    [
        (COUNT, "", (COUNT, True)),
        (COUNT - 1, "", (COUNT - 1, False)),
        (84, "&type=a.two&status=pending", (84, True)),
        (83, "&type=a.two&status=pending", (83, False)),
        # The bound is on the rows that are read, not on those that match.
        (COUNT, "&priority_max=-5", (0, True)),
        (COUNT - 1, "&priority_max=-5", (0, False)),
        (COUNT, "&worker_id=w", (0, True)),
    ],
)
def test_a_total_reads_a_bounded_number_of_tasks_and_says_whether_it_is_exact(
    api: Api,
    many: Any,
    monkeypatch: pytest.MonkeyPatch,
    rows_counted: int,
    query: str,
    counted: tuple[int, bool],
) -> None:
    monkeypatch.setattr(read, "ROWS_COUNTED", rows_counted)
    limits = []

    def note_limit(event: Any) -> None:
        if "COUNT(*) AS looked_at" in event.sql:
            limits.append(event.params[-1])

    database.query_hooks.append(note_limit)
    try:
        page = api.get(f"/api/tasks?with_total=true{query}")
    finally:
        database.query_hooks.remove(note_limit)
    assert (page["total"], page["total_is_exact"]) == counted
    assert max(limits) == rows_counted + 1


@pytest.mark.slow
def test_a_far_page_of_many_types_takes_no_more_memory_than_of_few(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each group of types has enough tasks to fill the page."""
    for n in range(16):
        api.register(f"t{n}")
        items = [{"type": f"t{n}", "params": {"n": m}} for m in range(300)]
        api.post("/api/tasks/batch", {"tasks": items}, 201)
    monkeypatch.setattr(read, "STREAMS_PER_STATEMENT", 1)
    api.get("/api/tasks?status=pending&offset=1&limit=1")  # what is remembered from the first call

    def peak(query: str) -> int:
        tracemalloc.start()
        try:
            api.get(f"/api/tasks?status=pending&offset=300&limit=1{query}")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak("") < 4 * peak("&type=t7")
    assert "total" not in api.get("/api/tasks?type=none")


def test_params_and_results_are_left_out_unless_asked_for(api: Api) -> None:
    api.register()
    api.create(params={"n": 1})
    api.complete(api.claim(), result=[2])

    def shown(query: str) -> dict[str, Any]:
        task = api.get(f"/api/tasks?{query}")["tasks"][0]
        return {name: task[name] for name in ("params", "result") if name in task}

    assert shown("") == {}
    assert shown("include=params") == {"params": {"n": 1}}
    assert shown("include=result") == {"result": [2]}
    assert shown("include=params,%20result,") == {"params": {"n": 1}, "result": [2]}


@pytest.fixture
def mixed(api: Api, clock: Clock) -> list[dict[str, Any]]:
    """Twenty-odd tasks in every status, of types whose names try the patterns, one second apart."""
    made: list[dict[str, Any]] = []
    for name in ("Q.a", "Q.b", "Q_a", "QXa", "q.a", "a-b"):
        api.register(name)
    for n, name in enumerate(("Q.a", "Q.b", "Q_a", "QXa", "q.a", "a-b") * 4):
        clock.advance(1)
        made.append(api.create(name, {"n": n}, priority=n % 5 - 2))
    api.create("Q.a", delay_seconds=900)
    for n, worker in enumerate(("w1", "w2", "w1", "w1", "w_", "w%")):
        task = api.claim(worker, type="Q.a" if n % 2 else "Q.b")
        if n == 1:
            api.complete(task)
        if n == 2:
            api.complete(task, success=False, is_retryable=False)
        if n == 3:
            api.post(f"/api/tasks/{task['id']}/cancel", {})
    given_back = api.claim("w1", type="q.a")
    api.post(f"/api/tasks/{given_back['id']}/release", {"worker_id": "w1"})
    page = api.get("/api/tasks?limit=100")
    assert page["next_cursor"] is None
    return list(page["tasks"])


def fits(pattern: str, name: str) -> bool:
    if "%" not in pattern:
        return name == pattern
    before, _, after = pattern.partition("%")
    return name.startswith(before) and name.endswith(after) and len(name) >= len(pattern) - 1


@pytest.mark.slow
def test_every_combination_of_filters_finds_exactly_what_fits(
    api: Api, mixed: list[dict[str, Any]]
) -> None:
    middle = sorted(task["created_at"] for task in mixed)[10]
    choices: dict[str, list[Any]] = {
        "status": [None, "scheduled", "pending", "claimed", "completed", "failed", "cancelled"],
        "type": [None, "Q.a", "Q.%", "Q_%", "%a", "%"],
        "worker_id": [None, "w1", "w_", "w%"],
        "bounds": [{}, {"priority_min": 0}, {"priority_max": 0, "created_after": middle}],
    }
    for status, kind, worker, bounds in product(*choices.values()):
        query = {"status": status, "type": kind, "worker_id": worker, **bounds, "limit": 100}
        response = api.client.get(
            "/api/tasks",
            query_string={name: value for name, value in query.items() if value is not None},
            headers={"X-API-Key": api.key},
        )
        found = [task["id"] for task in response.get_json()["data"]["tasks"]]
        wanted = [
            task["id"]
            for task in mixed
            if status in (None, task["status"])
            and (kind is None or fits(kind, task["type"]))
            and worker in (None, task["worker_id"])
            and task["priority"] >= bounds.get("priority_min", -99)
            and task["priority"] <= bounds.get("priority_max", 99)
            and task["created_at"] > bounds.get("created_after", "")
        ]
        assert found == wanted, query


def test_the_bounds_of_time_and_priority_are_what_they_say(
    api: Api, mixed: list[dict[str, Any]]
) -> None:
    times = sorted({task["created_at"] for task in mixed})
    between = ids(api, f"created_after={times[3]}&created_before={times[6]}&sort_by=id")
    assert len(between) == 2
    plus = times[3].replace("Z", "%2B00:00")
    assert ids(api, f"created_after={plus}&limit=100") == ids(
        api, f"created_after={times[3]}&limit=100"
    )
    found = api.get("/api/tasks?priority_min=-1&priority_max=1&limit=100")["tasks"]
    assert {task["priority"] for task in found} == {-1, 0, 1}
    assert ids(api, "priority_min=2&priority_max=1") == []


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("Q_a", ["Q_a"]),
        ("Q_%", ["Q_a"]),
        ("_.a", []),
        ("Q%a", ["Q.a", "QXa", "Q_a"]),
        ("%%", ["Q.a", "Q.b", "QXa", "Q_a", "a-b", "q.a"]),
        ("Q.\\%", []),
        ("\\", []),
        ("%\\%", []),
        ("Q[.]a", []),
        ("Q.*", []),
        ("' OR 1=1 --", []),
        ("", []),
    ],
)
def test_only_the_percent_sign_is_special_in_a_type(
    api: Api, mixed: list[dict[str, Any]], pattern: str, names: list[str]
) -> None:
    response = api.client.get(
        "/api/tasks",
        query_string={"type": pattern, "limit": 100},
        headers={"X-API-Key": api.key},
    )
    found = response.get_json()["data"]["tasks"]
    assert sorted({task["type"] for task in found}) == names


def test_many_types_at_once_are_listed_in_one_order(api: Api) -> None:
    for n in range(12):
        api.register(f"t{n:02}")
    made = [api.create(f"t{n % 12:02}", {"n": n}, priority=n % 3) for n in range(30)]
    for sort_by, sort_order in product(("id", "priority"), ("asc", "desc")):
        query = f"type=t%25&sort_by={sort_by}&sort_order={sort_order}"
        assert ids(api, query) == expected(made, sort_by, sort_order)
        assert ids(api, f"{query}&status=pending") == expected(made, sort_by, sort_order)
        assert ids(api, f"status=pending&sort_by={sort_by}&sort_order={sort_order}") == expected(
            made, sort_by, sort_order
        )


@pytest.mark.parametrize(
    "query",
    [
        *(
            "limit=0",
            "limit=101",
            "limit=-1",
            "limit=x",
            "limit=1.5",
            "limit=",
            "limit=" + "9" * 30,
            *("limit=1_0", "limit=+5", "limit=%D9%A5", "limit=5&limit=6"),
        ),
        *("offset=-1", "offset=10001", "offset=1e3"),
        *(
            "status=pending&status=failed",
            "status=done",
            "status=PENDING",
            "status=",
            "sort_by=type",
            "sort_by=id;DROP",
        ),
        *("sort_order=up", "include=claim_token", "include=params;result", "with_total=yes"),
        *("priority_min=x", "priority_max=3000000000", "created_after=yesterday"),
        *("created_before=2026-01-01", "created_after=2026-01-01T00:00:00+02:00"),
        *("created_after=9999-12-31T23:59:59-01:00", "worker_id=%00", "type=%00"),
        *("cursor=x", "cursor=%00", "cursor=%C3%A9", "cursor=", "cursor=bnVsbA"),
        "limt=5",
        "q=1",
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(api: Api, query: str) -> None:
    refused = api.get(f"/api/tasks?{query}", 400)
    assert refused["code"] == "invalid_request"
    assert query.partition("=")[0] in refused["message"]


def test_an_unknown_query_parameter_is_named_with_the_nearest_one(api: Api) -> None:
    assert "did you mean 'limit'?" in api.get("/api/tasks?limt=5", 400)["message"]
    assert "known: status, type" in api.get("/api/tasks?q=5", 400)["message"]
    for path in ("/api/task-types", "/api/workers", "/api/stats", "/api/admin/keys"):
        assert "limit_" in api.get(f"{path}?limit_=5", 400)["message"]


def made_up(content: Any) -> str:
    text = content if isinstance(content, str) else json.dumps(content)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "content",
    [
        ["claim_rank", 1, 1],
        ["id", "1", 1],
        ["id", 1, None],
        ["id", 1],
        ["id", 2**63, 1],
        ["id", 1, -(2**63)],
        ["id; DROP TABLE tasks", 1, 1],
        {"id": 1},
        "[" * 3_000,
        "[" + "9" * 5_000 + "]",
        "NaN",
    ],
)
def test_a_cursor_that_was_made_up_is_refused(api: Api, content: Any) -> None:
    refused = api.get(f"/api/tasks?cursor={made_up(content)}", 400)
    assert "send next_cursor unchanged" in refused["message"]


def test_a_cursor_does_not_fit_another_order_nor_an_offset(api: Api, clock: Clock) -> None:
    api.register()
    for _ in range(2):
        api.create()
    cursor = api.get("/api/tasks?limit=1")["next_cursor"]
    assert "cursor" in api.get(f"/api/tasks?cursor={cursor}&sort_by=priority", 400)["message"]
    assert "not both" in api.get(f"/api/tasks?cursor={cursor}&offset=1", 400)["message"]
    last = api.get(f"/api/tasks?cursor={cursor}&limit=1")
    assert (last["count"], last["next_cursor"]) == (1, None)
    assert str(format_time(clock.now)) == last["tasks"][0]["created_at"]


def test_an_empty_queue_lists_nothing(api: Api) -> None:
    assert api.get("/api/tasks?with_total=true") == {
        "tasks": [],
        "count": 0,
        "limit": 50,
        "offset": 0,
        "next_cursor": None,
        "total": 0,
        "total_is_exact": True,
    }
