"""Searching tasks for what no index has: what matches, how far a page looks, how it goes on."""

from typing import Any

import pytest

from taskmanager.db.connection import dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import execute, fetch_value
from taskmanager.queue import read, search
from tests.conftest import Api, Clock


@pytest.fixture
def failures(api: Api, clock: Clock) -> list[dict[str, Any]]:
    """Twelve tasks a second apart: every third one timed out, every fourth one met a 404."""
    api.register("fetch", max_attempts=1)
    tasks = []
    for n in range(12):
        clock.advance(1)
        params = {"n": n, "user": {"id": n % 5, "name": f"u{n}", "tags": ["a", n]}}
        tasks.append(api.create("fetch", params))
        claimed = api.claim()
        if n % 3 == 0:
            error = {"error": f"Timed out after {n}0 s", "error_code": "timeout"}
        elif n % 4 == 0:
            error = {"error": "100% gone: 404_not found", "error_code": "gone"}
        else:
            api.complete(claimed)
            continue
        api.complete(claimed, success=False, **error)
    return tasks


def found(api: Api, query: str) -> list[int]:
    """The `n` of every task found, in the order of their creation."""
    page = api.get(f"/api/tasks?include=params&sort_order=asc&{query}")
    assert page.get("is_complete", True)
    return [task["params"]["n"] for task in page["tasks"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("error_code=timeout", [0, 3, 6, 9]),
        ("error_code=Timeout", []),
        ("error=timed%20OUT", [0, 3, 6, 9]),
        ("error=after%2030", [3]),
        ("error=100%25", [4, 8]),
        ("error=404_", [4, 8]),
        ("error=4%25n", []),  # % and _ stand for themselves
        ("error=404xnot", []),
        ("status=failed&error=t", [0, 3, 4, 6, 8, 9]),
        ("params.n=7", [7]),
        ("params.n=7.0", []),
        ("params.user.id=3", [3, 8]),
        ("params.user.name=u3", [3]),
        ("params.user.tags.0=a&params.user.id=4", [4, 9]),
        ("params.user.tags.1=6", [6]),
        ("params.user.tags.2=6", []),
        ("params.user=1", []),
        ("params.nobody=1", []),
        ("attempts_min=2", []),
        ("attempts_min=1&error_code=gone", [4, 8]),
    ],
)
def test_a_search_finds_what_matches_every_filter(
    api: Api, failures: list[dict[str, Any]], query: str, expected: list[int]
) -> None:
    assert found(api, query) == expected


@pytest.mark.parametrize("query", ["worker_id=", "worker_id=&status=failed,completed"])
@pytest.mark.parametrize("sort_by", ["id", "priority"])
def test_an_empty_text_is_a_filter_that_finds_nothing(
    api: Api, failures: list[dict[str, Any]], query: str, sort_by: str
) -> None:
    assert found(api, f"{query}&sort_by={sort_by}&attempts_min=0") == []


def test_several_statuses_are_one_list(api: Api, failures: list[dict[str, Any]]) -> None:
    page = api.get("/api/tasks?status=failed,cancelled&sort_order=asc&include=params")
    assert [task["params"]["n"] for task in page["tasks"]] == [0, 3, 4, 6, 8, 9]
    assert "scanned" not in page  # the index has it


def test_times_bound_what_is_found(api: Api, failures: list[dict[str, Any]]) -> None:
    at = [task["created_at"] for task in failures]
    assert found(api, f"finished_after={at[8]}") == [9, 10, 11]
    assert found(api, f"finished_before={at[2]}&finished_after={at[0]}") == [1]
    assert found(api, f"available_before={at[2]}") == [0, 1]
    assert found(api, f"available_after={at[9]}&status=failed,completed") == [10, 11]


def test_children_and_tasks_of_one_key_are_found_by_their_index(api: Api) -> None:
    api.register("job")
    parent = api.create("job", {"n": 0})
    children = [api.create("job", {"n": n}, parent_task_id=parent["id"]) for n in (1, 2, 3)]
    api.claim()
    same = [api.create("job", {"n": 1}, dedupe_key="mine") for _ in range(3)]

    page = api.get(f"/api/tasks?parent_task_id={parent['id']}&limit=2")
    assert [task["id"] for task in page["tasks"]] == [children[2]["id"], children[1]["id"]]
    page = api.get(f"/api/tasks?parent_task_id={parent['id']}&limit=2&cursor={page['next_cursor']}")
    assert [task["id"] for task in page["tasks"]] == [children[0]["id"]]
    assert page["next_cursor"] is None

    by_key = f"/api/tasks?dedupe_key={same[0]['dedupe_key']}"
    ids = [task["id"] for task in same]
    assert [task["id"] for task in api.get(by_key)["tasks"]] == ids[::-1]
    as_sent = api.get("/api/tasks?type=job&dedupe_key=mine")
    assert [task["id"] for task in as_sent["tasks"]] == ids[::-1]
    none = api.get(f"{by_key}&parent_task_id={parent['id']}")
    assert none["tasks"] == []


def test_tasks_of_one_tag_are_found_by_their_index(api: Api) -> None:
    api.register("job")
    api.register("other")
    tasks = [
        api.create(name, {"n": n}, tags=tags)
        for n, (name, tags) in enumerate(
            [
                ("job", ["import", "customer 7"]),
                ("other", ["import"]),
                ("job", ["import", "import"]),
                ("job", []),
                ("job", ["Import"]),
            ]
        )
    ]
    assert tasks[0]["tags"] == ["import", "customer 7"]
    assert tasks[2]["tags"] == ["import"]
    assert api.get(f"/api/tasks/{tasks[3]['id']}")["tags"] == []
    assert found(api, "tag=import") == [0, 1, 2]
    assert found(api, "tag=customer+7") == [0]
    assert found(api, "tag=customer") == []
    api.post(f"/api/tasks/{tasks[1]['id']}/cancel", {})
    assert found(api, "tag=import&type=job&status=pending") == [0, 2]
    page = api.get("/api/tasks?tag=import&with_total=true&limit=1")
    assert (page["total"], page["tasks"][0]["id"]) == (3, tasks[2]["id"])
    page = api.get(f"/api/tasks?tag=import&limit=2&cursor={page['next_cursor']}")
    assert [task["id"] for task in page["tasks"]] == [tasks[1]["id"], tasks[0]["id"]]
    assert page["next_cursor"] is None
    assert api.get("/api/tasks?tag=import&status=cancelled&with_total=true")["total"] == 1
    by_key = f"/api/tasks?dedupe_key={tasks[0]['dedupe_key']}"
    assert [api.get(f"{by_key}&tag={tag}")["count"] for tag in ("import", "Import")] == [1, 0]


def test_a_tag_goes_with_its_task(api: Api, clock: Clock) -> None:
    api.register("job", dedupe_days=1_000)
    for dedupe in ("none", "forever"):
        api.create("job", dedupe=dedupe, tags=["import"])
        api.complete(api.claim())
    gone = api.create("job", {"n": 1}, tags=["import"])
    api.post(f"/api/tasks/{gone['id']}/cancel", {})
    assert api.post("/api/tasks/delete", {"filter": {"tag": "import"}, "limit": 1})["changed"] == 1
    clock.advance(31 * 86_400)
    assert api.post("/api/maintenance/run", {})["pruned"] == 2
    [kept] = api.get("/api/tasks")["tasks"]
    assert kept["tags"] == []
    assert fetch_value("SELECT COUNT(*) FROM {task_tags}") == 0


@pytest.mark.parametrize("tags", [["x"] * 11, ["x" * 51], [""], [" x"], [1], "x"])
def test_tags_that_cannot_be_are_refused(api: Api, tags: Any) -> None:
    api.register("job")
    refused = api.post("/api/tasks", {"type": "job", "params": {}, "tags": tags}, 400)
    assert refused["details"][0]["path"].startswith("tags")


@pytest.mark.parametrize(
    "query",
    [
        "tag=x&sort_by=priority",
        "dedupe_key=mine",
        "dedupe_key=mine&type=jo%25",
        "parent_task_id=1&sort_by=priority",
        "status=failed,lost",
        "attempts_min=-1",
        "finished_after=yesterday",
        "paramsx.a=1",
        "params.a=1&with_total=true",
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(api: Api, query: str) -> None:
    assert api.get(f"/api/tasks?{query}", 400)["code"] == "invalid_request"


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page looks at twenty tasks instead of thousands."""
    monkeypatch.setattr(search, "MAX_SCANNED", 20)


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort_by", ["id", "priority"])
def test_a_page_that_was_cut_short_says_so_and_the_next_one_goes_on(
    api: Api, few_at_once: None, sort_by: str, order: str
) -> None:
    api.register("job")
    tasks = [api.create("job", {"n": n}, priority=n % 3) for n in range(75)]
    wanted = {task["id"] for task in tasks if task["params"]["n"] in (0, 37, 74)}
    for n in (0, 37, 74):
        execute("UPDATE {tasks} SET error_code = ? WHERE id = ?", ("x", tasks[n]["id"]))

    query = f"/api/tasks?error_code=x&sort_by={sort_by}&sort_order={order}"
    page = api.get(query)
    got, cut_short, scanned = [], 0, 0
    while True:
        got += [task["id"] for task in page["tasks"]]
        scanned += page["scanned"]
        cut_short += not page["is_complete"]
        assert page.get("is_complete", True) is (page["next_cursor"] is None)
        if page["next_cursor"] is None:
            break
        page = api.get(f"{query}&cursor={page['next_cursor']}")
    assert len(got) == 3
    assert set(got) == wanted
    assert (scanned, cut_short) == (75, 3)


def test_an_offset_beyond_what_a_search_looks_at_is_refused(api: Api, few_at_once: None) -> None:
    api.register("job")
    for n in range(30):
        api.create("job", {"n": n})
    assert api.get("/api/tasks?attempts_min=0&offset=5&limit=5")["count"] == 5
    refused = api.get("/api/tasks?attempts_min=1&offset=1", 400)
    assert "next_cursor" in refused["error"]


def test_a_search_of_large_params_reads_no_more_than_an_answer_holds(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_ANSWER_TEXT", 10_000)
    api.register("job")
    for n in range(8):
        api.create("job", {"n": n, "text": "x" * 3_000})
    page = api.get("/api/tasks?params.n=0")
    assert (page["scanned"], page["is_complete"], page["tasks"]) == (3, False, [])
    page = api.get(f"/api/tasks?params.n=0&cursor={page['next_cursor']}")
    page = api.get(f"/api/tasks?params.n=0&cursor={page['next_cursor']}")
    assert (page["scanned"], page["is_complete"], page["count"]) == (2, True, 1)


def test_the_tasks_of_a_tag_are_read_in_the_order_of_its_index(api: Api) -> None:
    stream = read._TAGGED
    select = f"SELECT id FROM {stream} WHERE tag = 'x' AND id < 9 ORDER BY id DESC LIMIT 5"
    explain = "EXPLAIN QUERY PLAN" if dialect() is SQLITE else "EXPLAIN"
    plan = str(execute(f"{explain} {select}").fetchall())
    assert "task_tags_tag" in plan or "autoindex_task_tags" in plan
    assert "TEMP B-TREE" not in plan
    assert "filesort" not in plan
    assert "DERIVED" not in plan


def test_children_are_read_in_the_order_of_their_index(api: Api) -> None:
    select = (
        "SELECT id FROM {tasks} {index tasks_by_parent} WHERE parent_task_id = 7 AND id < 9 "
        "ORDER BY id DESC LIMIT 5"
    )
    explain = "EXPLAIN QUERY PLAN" if dialect() is SQLITE else "EXPLAIN"
    plan = str(execute(f"{explain} {select}").fetchall())
    assert "tasks_by_parent" in plan
    assert "TEMP B-TREE" not in plan
    assert "filesort" not in plan
