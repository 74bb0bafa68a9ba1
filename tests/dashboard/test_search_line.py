"""The search line: what people type against the filters that it becomes."""

import re

import pytest

from taskmanager.dashboard.search_line import filters_of, line_of, task_id_of
from taskmanager.errors import InvalidRequest
from tests.conftest import Api
from tests.dashboard.conftest import text_of
from tests.dashboard.test_pages import SignIn

LINES = {
    "type:mail.send status:failed": {"type": "mail.send", "status": "failed"},
    'error:"no answer" code:timeout': {"error": "no answer", "error_code": "timeout"},
    "params.user.id:5": {"params.user.id": "5"},
    "tag:nightly": {"tag": "nightly"},
    "worker:w-1 parent:7": {"worker_id": "w-1", "parent_task_id": "7"},
    "created_after:2026-01-31T12:00:00Z": {"created_after": "2026-01-31T12:00:00Z"},
    "params.url:https://example.org/": {"params.url": "https://example.org/"},
    "status:failed,cancelled": {"status": "failed,cancelled"},
}


@pytest.mark.parametrize(("line", "filters"), LINES.items())
def test_a_line_becomes_filters_and_filters_become_the_line(
    line: str, filters: dict[str, str]
) -> None:
    assert filters_of(line) == filters
    assert line_of(filters) == line


@pytest.mark.parametrize(
    ("line", "filters"),
    [
        ("", {}),
        ("   ", {}),
        ("mail", {"type": "%mail%"}),
        ("mail.%", {"type": "mail.%"}),
        ("failed", {"status": "failed"}),
        ("status:failed status:cancelled", {"status": "failed,cancelled"}),
    ],
)
def test_a_word_alone_is_a_status_or_part_of_a_types_name(
    line: str, filters: dict[str, str]
) -> None:
    assert filters_of(line) == filters


def test_a_filter_that_does_not_exist_is_named() -> None:
    with pytest.raises(InvalidRequest, match="There is no filter 'colour'"):
        filters_of("colour:red")


@pytest.mark.parametrize(
    ("line", "task_id"), [("#12", 12), (" 12 ", 12), ("#", None), ("1 2", None), ("²", None)]
)
def test_a_number_alone_is_a_task(line: str, task_id: int | None) -> None:
    assert task_id_of(line) == task_id


def test_the_page_leads_to_the_address_that_has_the_filters(api: Api, person: SignIn) -> None:
    api.register()
    somebody = person()
    query = {"q": "type:job status:failed params.user:5"}
    answer = somebody.get("/dashboard/tasks", query_string=query)
    assert answer.headers["Location"] == "/dashboard/tasks?type=job&status=failed&params.user=5"
    page = somebody.get(answer.headers["Location"]).text
    assert 'value="type:job status:failed params.user:5"' in page
    answer = somebody.get("/dashboard/tasks", query_string={"q": "#12"})
    assert answer.headers["Location"] == "/dashboard/tasks/12"


def test_a_filter_with_a_wrong_value_is_said_on_the_page(api: Api, person: SignIn) -> None:
    api.register()
    somebody = person()
    for path in ("status=lost", "priority_min=x", "created_after=noon", "cursor=made-up"):
        answer = somebody.get(f"/dashboard/tasks?{path}")
        assert answer.status_code == 400, path
        assert 'role="alert"' in answer.text
        assert 'id="line"' in answer.text


def test_the_heads_of_the_columns_sort_the_list(api: Api, person: SignIn) -> None:
    api.register()
    ids = [api.create(priority=priority)["id"] for priority in (1, 9, 5)]
    somebody = person()
    page = somebody.get("/dashboard/tasks?type=job").text
    address = re.findall(r'href="([^"]+)">Priority<', page)[0].replace("&amp;", "&")
    page = somebody.get(address).text
    order = re.findall('name="id" value="([0-9]+)"', page)
    assert order == [str(ids[1]), str(ids[2]), str(ids[0])]
    assert page.count('aria-sort="descending"') == 1


def test_lists_show_tags_and_find_tasks_by_one(api: Api, person: SignIn) -> None:
    api.register()
    api.create(tags=["nightly", "shop-7"])
    api.create()
    somebody = person()
    page = somebody.get("/dashboard/tasks").text
    assert 'href="/dashboard/tasks?tag=shop-7"' in page
    assert page.count('name="id"') == 2
    answer = somebody.get("/dashboard/tasks", query_string={"q": "tag:nightly"})
    page = somebody.get(answer.headers["Location"]).text
    assert page.count('name="id"') == 1
    assert 'value="tag:nightly"' in page


def test_pages_go_on_by_the_last_task_and_back_to_the_newest(api: Api, person: SignIn) -> None:
    api.register()
    tasks = [{"type": "job", "params": {"n": n}} for n in range(120)]
    made = api.post("/api/tasks/batch", {"tasks": tasks}, 201)["results"]
    somebody = person()
    seen: list[str] = []
    path = "/dashboard/tasks"
    while path:
        page = somebody.get(path).text
        seen += [part.split('"')[0] for part in page.split('name="id" value="')[1:]]
        following = page.split('rel="next" href="')[1:]
        path = following[0].split('"')[0].replace("&amp;", "&") if following else ""
    assert seen == [str(result["task"]["id"]) for result in reversed(made)]
    assert ">Newest<" in page


def test_a_line_that_is_refused_stays_in_its_field(person: SignIn) -> None:
    answer = person().get("/dashboard/tasks", query_string={"q": 'type:mail colour:"<b>red"'})
    assert answer.status_code == 400
    assert "There is no filter 'colour'" in text_of(answer)
    assert 'value="type:mail colour:&#34;&lt;b&gt;red&#34;"' in answer.text
