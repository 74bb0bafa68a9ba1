"""Rate limits: per key and per address, across processes, and while their storage is broken."""

import fcntl
import re
import resource
import struct
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from taskmanager.api import rate_limits
from taskmanager.app import create_app
from taskmanager.clock import utc_now
from taskmanager.config import load_settings
from taskmanager.db.connection import close_connection
from taskmanager.db.statements import execute
from taskmanager.errors import ConfigurationError
from taskmanager.ratelimits import counter_file, storage
from taskmanager.ratelimits.counter_file import BUCKETS, SLOTS, CounterFile
from taskmanager.ratelimits.storage import GUARDED, SHARED_FILE, GuardedStorage, SharedFileStorage
from taskmanager.rates import Rate, parse_rate
from tests.conftest import Api, Clock, make_key
from tests.support.processes import CONTEXT
from tests.support.server import Server

LIMITS = ("RateLimit", "RateLimit-Policy", "X-RateLimit-Limit", "X-RateLimit-Remaining")


def statuses(api: Api, count: int, path: str = "/api/task-types") -> list[int]:
    return [api.call("GET", path).status_code for _ in range(count)]


# How a limit is written


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1000/minute", Rate(1000, "minute")),
        (" 5 / Seconds ", Rate(5, "second")),
        ("20 per hour", Rate(20, "hour")),
        ("100", Rate(100, "minute")),
        ("7/days", Rate(7, "day")),
        ("0", Rate(0)),
    ],
)
def test_a_rate_is_read_in_every_spelling_and_written_in_one(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate
    assert parse_rate(str(rate)) == rate


@pytest.mark.parametrize(
    "text",
    ["", "fast", "-1", "1.5", "0/minute", "10/month", "10/", "/minute", "10/minutess", "1/m", "٣"],
)
def test_what_is_no_rate_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="N/second, N/minute, N/hour or N/day"):
        parse_rate(text)


def test_a_wrong_limit_in_the_settings_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match="TASKMANAGER_RATE_LIMIT is 'fast' but must"):
        load_settings({"rate_limit": "fast"}, environ={})


@pytest.mark.parametrize("uri", ["pigeon://me:secret@loft", "async+memory://", "none"])
def test_a_storage_that_cannot_be_used_stops_the_start(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TASKMANAGER_RATE_LIMIT_STORAGE_URI") as refused:
        create_app({"instance_path": tmp_path, "rate_limit_storage_uri": uri})
    assert "secret" not in refused.value.message
    close_connection()


# Per key


def test_a_key_over_its_limit_is_refused_until_its_window_is_over(api: Api, clock: Clock) -> None:
    limited = api.with_key(make_key("admin", rate_limit="3/minute"))
    assert statuses(limited, 4) == [200, 200, 200, 429]
    clock.advance(59)
    assert statuses(limited, 1) == [429]
    clock.advance(1)
    assert statuses(limited, 4) == [200, 200, 200, 429]


def test_a_refused_request_says_in_the_envelope_and_in_headers_when_to_come_back(
    api: Api, clock: Clock
) -> None:
    limited = api.with_key(make_key("admin", rate_limit="1/minute"))
    assert statuses(limited, 1) == [200]
    clock.advance(18)
    answer = limited.call("GET", "/api/task-types")
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "42"
    body = answer.get_json()
    assert (body["success"], body["code"]) == (False, "rate_limited")
    assert body["error"] == body["message"]
    assert body["error"] == "This key may make 1 requests a minute; try again in 42 seconds."
    assert body["details"] == {"retry_after_seconds": 42}


def test_every_answer_says_what_is_left_and_only_a_refusal_says_retry_after(
    api: Api, clock: Clock
) -> None:
    limited = api.with_key(make_key("admin", rate_limit="2/minute"))
    first = limited.call("GET", "/api/task-types").headers
    assert first["RateLimit-Policy"] == '"key";q=2;w=60'
    assert first["RateLimit"] == '"key";r=1;t=60'
    assert (first["X-RateLimit-Limit"], first["X-RateLimit-Remaining"]) == ("2", "1")
    assert int(first["X-RateLimit-Reset"]) == -(-(clock.now + 60_000) // 1000)
    assert "Retry-After" not in first
    assert "Retry-After" not in limited.call("GET", "/api/nowhere").headers
    assert limited.call("GET", "/api/task-types").headers["RateLimit"] == '"key";r=0;t=60'
    assert limited.call("GET", "/api/task-types").headers["RateLimit"] == '"key";r=0;t=60'


def test_a_claim_that_finds_nothing_and_a_call_without_the_scope_count_too(api: Api) -> None:
    limited = api.with_key(make_key("worker", rate_limit="2/minute"))
    limited.claim(status=404)
    limited.post("/api/tasks", {}, 403)
    assert limited.claim(status=429)["code"] == "rate_limited"


def test_a_throttled_worker_still_keeps_reports_on_and_gives_back_what_it_holds(api: Api) -> None:
    api.register()
    for _ in range(4):
        api.create()
    limited = api.with_key(make_key("worker", rate_limit="1/minute"))
    held = limited.claim("w", limit=4)["tasks"]
    assert limited.claim("w", status=429)["code"] == "rate_limited"
    tasks = [{"id": one["id"], "claim_token": one["claim_token"]} for one in held]
    paths = [f"/api/tasks/{one['id']}" for one in held]
    worker = {"worker_id": "w"}
    assert len(limited.post("/api/workers/heartbeat", {**worker, "tasks": tasks})["renewed"]) == 4
    limited.post(f"{paths[0]}/heartbeat", worker)
    limited.post(f"{paths[0]}/progress", {**worker, "progress": 50})
    limited.post(f"{paths[0]}/complete", {**worker, "success": True})
    done = [{"id": held[1]["id"], "success": False, "is_retryable": False}]
    assert limited.post("/api/tasks/complete", {**worker, "completions": done})["count"] == 1
    limited.post(f"{paths[2]}/release", worker)
    assert limited.post("/api/workers/w/shutdown")["released"] == [held[3]["id"]]
    assert limited.claim("w", status=429)["code"] == "rate_limited"


def test_an_operator_over_the_limit_of_the_key_still_cancels_retries_and_administers(
    api: Api,
) -> None:
    api.register()
    path = f"/api/tasks/{api.create()['id']}"
    limited = api.with_key(make_key("admin", rate_limit="1/minute"))
    assert statuses(limited, 2) == [200, 429]
    assert limited.post(f"{path}/cancel", {})["status"] == "cancelled"
    assert limited.post(f"{path}/retry")["status"] == "pending"
    limited.get("/api/admin/keys")
    limited.post("/api/maintenance/run")
    assert statuses(limited, 1) == [429]


@pytest.mark.parametrize(
    ("path", "policy", "sentence"),
    [
        ("/api/workers/heartbeat", "leases", "3 heartbeats and reports a minute"),
        ("/api/tasks/1/cancel", "operator", "3 requests of an operator a minute"),
    ],
)
def test_the_generous_limits_are_limits_of_their_own(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str, policy: str, sentence: str
) -> None:
    monkeypatch.setattr(rate_limits, "GENEROUS", Rate(3, "minute"))
    limited = api.with_key(make_key("admin", rate_limit="2/minute"))
    answers = [limited.call("POST", path, {"worker_id": "w"}) for _ in range(4)]
    assert [answer.status_code == 429 for answer in answers] == [False, False, False, True]
    assert answers[0].headers["RateLimit-Policy"] == f'"{policy}";q=3;w=60'
    assert sentence in answers[3].get_json()["message"]
    assert statuses(limited, 3) == [200, 200, 429]


def test_a_key_with_a_higher_limit_of_its_own_has_that_for_reports_too(api: Api) -> None:
    fast = api.with_key(make_key("worker", rate_limit="1000/second"))
    answer = fast.call("POST", "/api/workers/heartbeat", {"worker_id": "w"})
    assert answer.headers["RateLimit-Policy"] == '"leases";q=1000;w=1'


def test_a_key_that_may_not_report_or_operate_has_its_ordinary_limit_there(api: Api) -> None:
    viewer = api.with_key(make_key("viewer", rate_limit="1/minute"))
    calls = ["/api/tasks/1/cancel", "/api/workers/heartbeat"]
    assert [viewer.call("POST", path, {}).status_code for path in calls] == [403, 429]


def test_keys_are_counted_apart(api: Api) -> None:
    one = api.with_key(make_key("admin", rate_limit="1/minute"))
    other = api.with_key(make_key("admin", rate_limit="1/minute"))
    assert statuses(one, 2) == [200, 429]
    assert statuses(other, 1) == [200]


def test_a_key_with_the_limit_0_is_never_refused_and_hears_of_no_limit(api: Api) -> None:
    free = api.with_key(make_key("admin", rate_limit="0"))
    assert set(statuses(free, 50)) == {200}
    assert not set(LIMITS) & set(free.call("GET", "/api/task-types").headers.keys())


class TestWithAnotherDefault:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"rate_limit": "2/hour"}

    def test_a_key_without_a_limit_of_its_own_has_that_of_the_setting(self, api: Api) -> None:
        assert statuses(api, 3) == [200, 200, 429]

    def test_a_limit_that_was_spoiled_in_the_table_by_hand_gives_way_to_the_setting(
        self, api: Api
    ) -> None:
        execute("UPDATE api_keys SET rate_limit = 'lots'")
        assert statuses(api, 3) == [200, 200, 429]


# Per address


def test_wrong_keys_from_one_address_are_refused_in_the_end_but_a_right_key_never(
    api: Api,
) -> None:
    wrong = api.with_key("tm_wrong")
    most = rate_limits.FAILURES.amount
    assert statuses(wrong, most + 2) == [401] * most + [429, 429]
    answer = wrong.call("GET", "/api/task-types")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.get_json()["code"] == "rate_limited"
    assert statuses(api, 1) == [200]
    elsewhere = wrong.call("GET", "/api/task-types", environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
    assert elsewhere.status_code == 401


def test_a_call_without_any_key_counts_as_a_failure(app: Flask, api: Api) -> None:
    client = app.test_client()
    found = [client.get("/api/stats").status_code for _ in range(rate_limits.FAILURES.amount + 1)]
    assert found[-2:] == [401, 429]


def test_failures_for_another_purpose_are_counted_apart(app: Flask, api: Api) -> None:
    with app.test_request_context("/dashboard/login"):
        for _ in range(rate_limits.FAILURES.amount):
            rate_limits.count_failure("login")
        with pytest.raises(rate_limits.RateLimited):
            rate_limits.count_failure("login")
    assert statuses(api.with_key("tm_wrong"), 1) == [401]


def test_public_routes_and_preflights_share_a_limit_per_address(app: Flask, api: Api) -> None:
    client = app.test_client()
    most = rate_limits.WITHOUT_KEY.amount
    assert {client.get("/api/health").status_code for _ in range(most - 1)} == {200}
    assert client.options("/api/tasks").status_code == 200
    refused = client.get("/api/health")
    assert (refused.status_code, refused.get_json()["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["RateLimit"].startswith('"address";r=0;t=')
    assert statuses(api, 1) == [200]


@pytest.mark.parametrize(
    ("remote", "counted_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("no address", "no address"),
        ("", "unknown"),
    ],
)
def test_an_ipv6_customer_is_one_address(app: Flask, remote: str, counted_as: str) -> None:
    with app.test_request_context(environ_overrides={"REMOTE_ADDR": remote}):
        assert rate_limits.client_address() == counted_as


# Across processes


def test_four_processes_let_a_hundred_of_400_requests_at_once_pass(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(workers=4)
    made = server.call(
        "POST", "/api/admin/keys", {"name": "n", "role": "viewer", "rate_limit": "100/minute"}
    )
    key = made.data["key"]
    begin = utc_now()
    with ThreadPoolExecutor(32) as pool:
        found = Counter(
            pool.map(lambda _: server.call("GET", "/api/task-types", key=key).status, range(400))
        )
    windows = 1 + (utc_now() - begin) // 60_000
    assert found == {200: 100 * windows, 429: 400 - 100 * windows}


@pytest.mark.slow
def test_one_file_counts_for_many_processes_and_threads(tmp_path: Path) -> None:
    path = tmp_path / "counters"
    with ProcessPoolExecutor(4, mp_context=CONTEXT) as pool:
        list(pool.map(_count_250, [path] * 4))
    assert CounterFile(path).read("name", now=0).hits == 1000


def _count_250(path: Path) -> None:
    threads = [threading.Thread(target=_count, args=(path, 50)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _count(path: Path, times: int) -> None:
    counters = CounterFile(path)
    for _ in range(times):
        counters.add("name", amount=1, seconds=60, now=0)


# The file


@pytest.fixture
def counters(tmp_path: Path) -> CounterFile:
    return CounterFile(tmp_path / "counters")


def add(counters: CounterFile, name: str, *, seconds: int = 60, now: int = 0) -> int:
    return counters.add(name, amount=1, seconds=seconds, now=now).hits


def test_a_counter_starts_anew_when_its_window_is_over(counters: CounterFile) -> None:
    assert [add(counters, "a"), add(counters, "a", now=59_999)] == [1, 2]
    assert add(counters, "a", now=60_000) == 1
    assert counters.read("a", now=60_000) == (1, 120_000)
    assert counters.read("a", now=120_000).hits == 0


def test_a_counter_can_be_forgotten_and_all_of_them(counters: CounterFile) -> None:
    for name in "ab":
        add(counters, name)
    counters.clear("a")
    assert (counters.read("a", now=0).hits, counters.read("b", now=0).hits) == (0, 1)
    counters.reset()
    assert counters.read("b", now=0).hits == 0


def test_a_clock_that_was_set_back_does_not_stretch_a_window(counters: CounterFile) -> None:
    add(counters, "a", now=3_600_000)
    assert counters.add("a", amount=1, seconds=60, now=0) == (1, 60_000)


def test_whoever_looked_at_the_clock_before_the_window_began_is_counted_in_it(
    counters: CounterFile,
) -> None:
    assert [add(counters, "a", now=now) for now in (5_000, 4_999, 3_000)] == [1, 2, 3]
    assert add(counters, "a", now=64_999) == 4
    assert add(counters, "a", now=65_000) == 1


@pytest.mark.slow
def test_a_flood_of_names_makes_no_counter_forget(counters: CounterFile) -> None:
    for _ in range(50):
        add(counters, "busy")
    names = [f"flood-{number}" for number in range(2 * SLOTS * BUCKETS)]
    for name in names:
        add(counters, name)
    assert add(counters, "busy") >= 51
    assert min(add(counters, name) for name in names) >= 2


# Of counters that look as if they were running, but without the checksum.
FULL_BUCKET = (b"\0" * 4 + struct.pack("<16sqI", b"", 30_000, 10**6) * SLOTS).ljust(256, b"\0")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:5_000]),
        lambda path: path.write_bytes(b"\xff" * path.stat().st_size),
        lambda path: path.write_bytes(FULL_BUCKET * (BUCKETS + 1)),
        lambda path: path.write_bytes(b"not counters" * 100_000),
        lambda path: path.unlink(),
    ],
    ids=["emptied", "cut short", "overwritten", "with full buckets", "replaced", "deleted"],
)
def test_a_damaged_file_counts_from_one_again(
    counters: CounterFile, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    for name in map(str, range(100)):
        add(counters, name)
    damage(tmp_path / "counters")
    assert [add(counters, name) for name in map(str, range(100))] == [1] * 100
    assert [path.name for path in tmp_path.iterdir()] == ["counters"]


def test_the_file_is_for_its_owner_alone_and_never_grows(
    counters: CounterFile, tmp_path: Path
) -> None:
    add(counters, "a")
    file = tmp_path / "counters"
    size = file.stat().st_size
    for number in range(1_000):
        add(counters, str(number))
    assert (file.stat().st_mode & 0o777, file.stat().st_size) == (0o600, size)


# The storage


def test_what_is_left_is_known_from_the_hit_until_the_window_is_over(
    tmp_path: Path, clock: Clock
) -> None:
    storage = SharedFileStorage(f"{SHARED_FILE}{tmp_path / 'counters'}")
    ends_at = clock.now / 1000 + 60
    storage.incr("name", 60)
    (tmp_path / "counters").unlink()  # it need not be read again
    assert (storage.get("name"), storage.get_expiry("name")) == (1, ends_at)
    assert storage.get("another") == 0
    clock.advance(60)
    assert storage.get("name") == 0


def test_another_thread_reads_the_file(tmp_path: Path) -> None:
    storage = SharedFileStorage(f"{SHARED_FILE}{tmp_path / 'counters'}")
    storage.incr("name", 60)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(storage.incr, "name", 60).result()
        assert pool.submit(storage.get, "name").result() == 2
    storage.clear("name")
    assert storage.get("name") == 0


# A broken storage


@pytest.fixture
def broken_file(tmp_path: Path, app: Flask) -> Path:
    """A folder where the file should be: whatever is tried with it fails."""
    path = tmp_path / "instance" / "rate_limits.counters"
    path.unlink(missing_ok=True)
    path.mkdir()
    return path


def test_while_the_storage_is_broken_a_limit_per_process_holds_and_health_says_so(
    api: Api, broken_file: Path
) -> None:
    limited = api.with_key(make_key("admin", rate_limit="3/minute"))
    assert statuses(limited, 5) == [200, 200, 200, 429, 429]
    health = api.get("/api/health")
    assert (health["status"], health["rate_limits"]) == ("healthy", "per_process")
    assert statuses(api.with_key("tm_wrong"), rate_limits.FAILURES.amount + 1)[-2:] == [401, 429]


def test_a_storage_that_works_again_is_taken_up_again(
    api: Api, broken_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.0)
    assert api.get("/api/health")["rate_limits"] == "per_process"
    broken_file.rmdir()
    assert api.get("/api/health")["rate_limits"] == "shared"


def guarded(path: Path) -> GuardedStorage:
    return GuardedStorage(f"{GUARDED}{SHARED_FILE}{path}")


def test_a_broken_storage_is_not_tried_again_at_every_hit(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    storage = guarded(folder / "counters")
    assert storage.incr("name", 60) == 1
    folder.mkdir()
    assert [storage.incr("name", 60) for _ in range(3)] == [2, 3, 4]
    assert not list(folder.iterdir())


@pytest.mark.parametrize("path", ["/proc/counters", "/nowhere/counters", "/dev/null/counters"])
def test_where_no_file_can_be_made_the_process_counts(path: str) -> None:
    storage = guarded(Path(path))
    assert [storage.incr("name", 60), storage.incr("name", 60)] == [1, 2]
    assert storage.get("name") == 2
    assert not storage.is_shared


def test_where_the_disk_takes_no_more_the_process_counts_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    storage = guarded(tmp_path / "counters")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        counts = [storage.incr("name", 60) for _ in range(2)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert counts == [1, 2]
    assert not storage.is_shared
    assert not list(tmp_path.iterdir())


def test_a_process_that_was_stopped_with_the_lock_holds_nobody_up(
    counters: CounterFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counter_file, "LOCK_SECONDS", 0.05)
    add(counters, "name")
    with (tmp_path / "counters").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            add(counters, "name")
        storage = guarded(tmp_path / "counters")
        assert [storage.incr("name", 60) for _ in range(2)] == [1, 2]
    assert add(counters, "name") == 2


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_counts_spoils_nothing(
    counters: CounterFile, tmp_path: Path
) -> None:
    for _ in range(5):
        before = counters.read("name", now=0).hits
        busy = CONTEXT.Process(target=_count, args=(tmp_path / "counters", 10**9))
        busy.start()
        while counters.read("name", now=0).hits < before + 100:
            pass
        busy.kill()
        busy.join()
        after = counters.read("name", now=0).hits
        assert after >= before + 100
        assert add(counters, "name") == after + 1


def test_counting_in_memory_by_setting_is_told_as_such(tmp_path: Path) -> None:
    app = create_app({"instance_path": tmp_path, "rate_limit_storage_uri": "memory://"})
    limited = Api(app.test_client(), make_key("admin", rate_limit="1/minute"))
    assert statuses(limited, 2) == [200, 429]
    assert limited.get("/api/health")["rate_limits"] == "per_process"
    assert re.match(r'"key";r=0;t=(59|60)$', limited.call("GET", "/api/stats").headers["RateLimit"])
    close_connection()


# The clock jumps ahead and comes back


def test_a_window_of_the_future_is_over_in_the_file(tmp_path: Path, clock: Clock) -> None:
    counters = SharedFileStorage(f"{SHARED_FILE}{tmp_path / 'counters'}")
    clock.advance(864_000)
    assert counters.incr("key", 60, amount=9) == 9
    clock.advance(-864_000)
    assert counters.get("key") == 0
    assert counters.get_expiry("key") * 1000 <= clock.now
    assert counters.incr("key", 60) == 1


@pytest.mark.parametrize("look", ["incr", "get"])
def test_a_window_of_the_future_is_over_in_memory(
    clock: Clock, look: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library_clock = SimpleNamespace(time=lambda: clock.now / 1000)
    monkeypatch.setattr("limits.storage.memory.time", library_clock)
    counters = GuardedStorage(f"{GUARDED}memory://")
    clock.advance(864_000)
    assert counters.incr("key", 60, amount=9) == 9
    clock.advance(-864_000)
    if look == "get":
        assert counters.get("key") == 0
    assert counters.incr("key", 60) == 1
    assert counters.get_expiry("key") == pytest.approx(clock.now / 1000 + 60)
