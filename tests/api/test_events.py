"""The feed of events: what a program follows to know everything that happens to tasks."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from taskmanager.db.statements import execute, fetch_all, fetch_value
from taskmanager.queue import feed
from taskmanager.queue.answer_size import count_that_fits
from tests.conftest import Api, Clock, make_key


class Follower:
    """A program that follows the feed and keeps what it was told."""

    def __init__(self, api: Api, **query: Any) -> None:
        self._api = api
        self._query = "".join(f"&{name}={value}" for name, value in query.items())
        self.cursor: str | None = None
        self.seen: list[Any] = []

    def read(self) -> list[tuple[int, str]]:
        """Task and event of each that is new, by as many calls as it takes.

        A server that gives ids before it commits is asked twice: see `no_waiting`.
        """
        new: list[Any] = []
        ends = 0
        while ends < 2:
            after = f"after={self.cursor}" if self.cursor else ""
            page = self._api.get(f"/api/events?{after}{self._query}")
            self.cursor = page["next_cursor"]
            assert page["count"] == len(page["events"])
            new += page["events"]
            ends += page["is_complete"]
        self.seen += new
        return [(event["task_id"], event["event"]) for event in new]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch, settled_events: None) -> None:
    """An id that was missing the last time, and belongs to no transaction now, stays missing."""
    monkeypatch.setattr(feed, "STORED_SECONDS", 0.0)


def stored() -> list[tuple[int, str]]:
    rows = fetch_all("SELECT task_id, event FROM {task_logs} ORDER BY id")
    return [(row["task_id"], row["event"]) for row in rows]


def finish(api: Api, type_name: str = "job", **fields: Any) -> Any:
    task = api.create(type_name)
    api.complete(api.claim(type=type_name), **fields)
    return task


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_every_event_is_told_once_and_in_order(api: Api, limit: int) -> None:
    api.register()
    follower = Follower(api, limit=limit)
    assert follower.read() == []
    told = []
    for _ in range(3):
        finish(api)
        told += follower.read()
        assert follower.read() == []
    finish(api, success=False, error="broken", error_code="E1")
    told += follower.read()

    assert told == stored()
    last = follower.seen[-1]
    assert (last["event"], last["status"], last["type"]) == ("retry_scheduled", "pending", "job")
    assert (last["message"], last["metadata"]["error_code"]) == ("broken", "E1")
    assert "claim_token" not in last


def test_a_program_may_begin_with_what_happens_next(api: Api) -> None:
    api.register()
    finish(api)
    page = api.get("/api/events?after=latest")
    assert (page["events"], page["is_complete"]) == ([], True)
    task = finish(api)
    page = api.get(f"/api/events?after={page['next_cursor']}")
    events = [(event["task_id"], event["event"]) for event in page["events"]]
    assert events == [(task["id"], name) for name in ("created", "claimed", "completed")]


def test_types_and_statuses_are_filters(api: Api) -> None:
    for name in ("video.cut", "video.mix", "mail"):
        api.register(name)
        finish(api, name)
    video = api.get("/api/events?type=video.%25&status=completed,pending")["events"]
    assert [(each["type"], each["event"]) for each in video] == [
        ("video.cut", "created"),
        ("video.cut", "completed"),
        ("video.mix", "created"),
        ("video.mix", "completed"),
    ]
    assert api.get("/api/events?type=nothing")["events"] == []


def test_a_tag_is_a_filter(api: Api) -> None:
    api.register()
    tagged = api.create(tags=["blue", "new"])
    for tags in (["new"], []):
        api.create(tags=tags)
    api.post(f"/api/tasks/{tagged['id']}/cancel")
    events = api.get("/api/events?tag=blue")["events"]
    assert [(each["task_id"], each["event"]) for each in events] == [
        (tagged["id"], "created"),
        (tagged["id"], "cancelled"),
    ]
    assert api.get("/api/events?tag=blu")["count"] == 0
    assert api.get("/api/events?tag=new&status=cancelled")["count"] == 1


def test_a_key_sees_events_of_its_own_types_alone(api: Api) -> None:
    for name in ("mine", "other"):
        api.register(name)
        finish(api, name)
    mine = api.with_key(make_key("viewer", task_types=["mine"]))
    assert {each["type"] for each in mine.get("/api/events")["events"]} == {"mine"}
    assert mine.get("/api/events?type=other")["events"] == []


def test_a_page_that_was_cut_short_says_so_and_the_next_goes_on(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_SCANNED", 6)
    monkeypatch.setattr(feed, "ROWS_AT_ONCE", 3)
    for name in ("common", "rare"):
        api.register(name)
    for _ in range(3):
        finish(api, "common")
    finish(api, "rare")

    page = api.get("/api/events?type=rare")
    assert (page["events"], page["scanned"], page["is_complete"]) == ([], 6, False)
    page = api.get(f"/api/events?type=rare&after={page['next_cursor']}")
    assert (page["count"], page["scanned"], page["is_complete"]) == (3, 6, False)
    page = api.get(f"/api/events?type=rare&after={page['next_cursor']}")
    assert (page["count"], page["scanned"], page["is_complete"]) == (0, 0, True)


def test_events_with_long_messages_come_on_several_pages(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 50_000
    monkeypatch.setattr(feed, "count_that_fits", lambda sizes: count_that_fits(sizes, room))
    api.register(max_attempts=100, retry={"strategy": "immediate"})
    task = api.create()
    for _ in range(20):
        api.complete(api.claim(), success=False, error="e" * 10_000)
    pages, cursor = [], ""
    while not pages or not pages[-1]["is_complete"]:
        pages.append(api.get(f"/api/events?limit=1000{cursor}"))
        cursor = f"&after={pages[-1]['next_cursor']}"
    assert 5 <= len(pages) < 10
    told = [event["event"] for page in pages for event in page["events"]]
    assert told == api.events(task["id"])


def test_events_after_a_deletion_of_the_newest_are_told(api: Api) -> None:
    """On SQLite they get the ids of those that were deleted."""
    api.register()
    kept = finish(api)
    behind, ahead = Follower(api), Follower(api)
    behind.read()
    for round_ in range(3):
        gone = [finish(api)["id"] for _ in range(2)]
        ahead.read()
        assert api.post("/api/tasks/delete", {"ids": gone})["changed"] == 2
        task = api.create()
        assert ahead.read()[-1:] == [(task["id"], "created")], round_
        assert ahead.read() == []
        assert behind.read() == [(task["id"], "created")]
        api.post(f"/api/tasks/{task['id']}/cancel")
        assert ahead.read() == behind.read() == [(task["id"], "cancelled")]
    assert behind.seen[0]["task_id"] == kept["id"]


def test_events_of_a_queue_that_was_pruned_empty_are_told(api: Api, clock: Clock) -> None:
    api.register()
    finish(api)
    follower = Follower(api)
    follower.read()
    clock.advance(31 * 86_400)
    assert api.post("/api/maintenance/run")["pruned"] == 1
    assert fetch_value("SELECT COUNT(*) FROM {task_logs}") == 0
    task = api.create()
    assert follower.read() == [(task["id"], "created")]
    assert fetch_value("SELECT COUNT(*) FROM {task_log_cuts}") <= 1


@pytest.mark.parametrize(
    "cursor", ["1", "x.1", "1.2.3", "-1.2", "1.99999999999999999999", "LATEST"]
)
def test_a_cursor_that_was_made_up_is_refused(api: Api, cursor: str) -> None:
    assert "next_cursor" in api.get(f"/api/events?after={cursor}", 400)["message"]


@pytest.fixture
def other(engine: str, request: pytest.FixtureRequest, app: Any) -> Iterator[Any]:
    """The connection of another process, whose transactions the test commits when it likes."""
    if engine == "sqlite":
        pytest.skip("on SQLite there is one writer at a time")
    server = request.getfixturevalue("mariadb_server")
    name = fetch_value("SELECT DATABASE()")
    connection = pymysql.connect(host="127.0.0.1", port=server.port, user="root", database=name)
    with contextlib.closing(connection):
        yield connection.cursor()


INSERT = "INSERT INTO task_logs (task_id, event, status, created_at) VALUES (%s, %s, 'pending', %s)"


@pytest.mark.one_server
def test_an_event_that_is_committed_late_holds_back_those_after_it(
    api: Api, other: Any, clock: Clock
) -> None:
    api.register()
    task = api.create()["id"]
    follower = Follower(api)
    follower.read()
    other.execute(INSERT, (task, "late", clock.now))
    api.create(priority=1)
    claimed = api.claim()["id"]
    assert follower.read() == []

    clock.advance(feed.SETTLED_MS / 1000 - 1)
    assert follower.read() == []
    other.execute("COMMIT")
    assert follower.read() == [(task, "late"), (claimed, "created"), (claimed, "claimed")]
    assert follower.read() == []


@pytest.mark.one_server
def test_an_event_that_is_rolled_back_holds_back_nothing(
    api: Api, other: Any, clock: Clock
) -> None:
    api.register()
    task = api.create()["id"]
    follower = Follower(api)
    follower.read()
    other.execute(INSERT, (task, "never", clock.now))
    created = api.create()["id"]
    assert follower.read() == []
    other.execute("ROLLBACK")
    assert follower.read() == [(created, "created")]


@pytest.mark.one_server
def test_an_id_that_was_given_just_now_may_still_be_stored(
    api: Api, other: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "STORED_SECONDS", 3_600.0)
    api.register()
    task = api.create()["id"]
    follower = Follower(api)
    clock.advance(feed.SETTLED_MS / 1000)
    assert follower.read() == [(task, "created")]
    other.execute(INSERT, (task, "never", clock.now))
    other.execute("ROLLBACK")
    created = api.create()["id"]
    assert follower.read() == []
    clock.advance(feed.SETTLED_MS / 1000)  # older than any transaction
    assert follower.read() == [(created, "created")]


@pytest.mark.one_server
def test_where_several_servers_give_ids_only_age_counts(
    api: Api, other: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.register()
    follower = Follower(api)
    first = api.create()["id"]
    follower.read()
    execute("SET SESSION auto_increment_increment = 3")
    others = [api.create()["id"] for _ in range(3)]
    assert len(follower.read()) < 2  # the first may have the next id
    clock.advance(feed.SETTLED_MS / 1000)
    follower.read()
    execute("SET SESSION auto_increment_increment = 1")
    assert [event["task_id"] for event in follower.seen] == [first, *others]
