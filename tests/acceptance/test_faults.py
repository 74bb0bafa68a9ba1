"""A bad night: workers, server processes and the database are killed while tasks are worked on.

Other workers only fall asleep and wake up when their leases are over, while another
process works under their name. The clock of the server jumps ahead and back all the while.
Many of the tasks depend on others, some of which fail. Others are members of batches, of which
few may be held at once, have a deadline, or are of a type whose tasks run one at a time for each
key.
"""

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from taskmanager.clock import utc_now
from taskmanager.db.connection import close_connection, connect_database
from taskmanager.db.statements import Row, fetch_all
from taskmanager.queue import clock_jumps
from taskmanager.queue.schedules.runs import TOLERANCE_MS
from tests.conftest import require
from tests.support import mariadb
from tests.support.moved_clock import MovedClock
from tests.support.processes import CONTEXT
from tests.support.server import Server

WORKERS = 12
NAME = "worker"  # of all of them, so that nothing but its token tells an attempt from the next
JOBS = 2_000
TASKS_A_CALL = 1_000
BATCHES, MEMBERS = 15, 20
MEMBERS_AT_ONCE = 3
KEYED, KEYS = 200, 10
HASTY = 200  # tasks with a deadline
HASTY_SECONDS = 3_600
TASKS = JOBS + BATCHES * MEMBERS + KEYED + HASTY
CALLBACKS = 2 * BATCHES  # on_finished of each, and on_completed or on_failed
TASKS_A_ROUND = 30  # at the least, between two rounds of kills
LEASE_SECONDS = 3
WORK_SECONDS = 0.02  # at the most, on one task
# Some take longer: whoever wakes up without its lease finds the next attempt still at work.
SLOW_TASKS = 25
SLOW_SECONDS = 1.5
DATABASE_KILLS_AT = (TASKS // 3, TASKS * 2 // 3)  # so many tasks done
PATIENCE_SECONDS = 900
DAY = 86_400
ENDS = ("completed", "failed", "cancelled")
# A row of the history has the time at which its request began.
LONGEST_REQUEST_MS = 10_000
# How far the clock is ahead, from round to round. It is right in between.
CLOCK = (10 * DAY, 0, 3_600, 0, -10 * DAY, 0, 10 * 365 * DAY, 0, -40, 0)


def tasks_of_one_call(start: int) -> list[dict[str, Any]]:
    """Tasks in tens that depend on each other, as chains, fan-ins and one wide fan-out.

    `params` has `n`, which counts from `start`, `fails` where a worker is to report a failure, and
    `results` with what the tasks that it depends on have returned.
    """
    return [_task(start + at, at) for at in range(TASKS_A_CALL)]


def _task(n: int, at: int) -> dict[str, Any]:
    ten = at - at % 10
    depends_on, policy = {
        3: ([1], "cancel"),
        4: ([3], "cancel"),
        5: ([1, 2], "run"),
        6: ([4, 5], "cancel"),
        7: ([0, 6], "run"),
        # The first of all, with more of them than one transaction follows.
        8: ([-ten], "cancel"),
        9: ([-ten], "run"),
    }.get(at % 10, ([], ""))
    task: dict[str, Any] = {"type": "job", "params": {"n": n}}
    if depends_on:
        results = [{"$result_of": place, "path": "token"} for place in range(len(depends_on))]
        task["params"]["results"] = results
        task["depends_on"] = [{"index": ten + one} for one in depends_on]
        task["on_dependency_failed"] = policy
    elif n % 40 == 1 or n == TASKS_A_CALL:
        task["params"]["fails"] = True
    return task


def members_of_batch(number: int) -> dict[str, Any]:
    """The body of a batch; one task of each second one fails."""
    tasks: list[dict[str, Any]] = [
        {"type": "member", "priority": 1, "params": {"n": n}}
        for n in range(number * MEMBERS, (number + 1) * MEMBERS)
    ]
    if number % 2:
        tasks[3]["params"]["fails"] = True
    callbacks = {
        end: {"type": "after", "params": {"batch": {"$batch": "id"}, "end": end}}
        for end in ("on_finished", "on_completed", "on_failed")
    }
    return {"tasks": tasks, **callbacks}


class Worker:
    """What runs on a worker's machine: claims, completes, and notes each answer it has seen."""

    def __init__(self, port: int, key: str, worker_id: str, notes: Path) -> None:
        self._port, self._key, self._worker_id = port, key, worker_id
        self._notes = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def run(self) -> None:
        while True:
            claim = {"worker_id": self._worker_id, "lease_seconds": LEASE_SECONDS}
            status, body = self._post("/api/tasks/claim", claim)
            if status == 200:
                self._work(body["data"])
            else:
                time.sleep(0.1)

    def _work(self, task: dict[str, Any]) -> None:
        began = time.monotonic()
        is_slow = task["params"].get("n", 1) % SLOW_TASKS == 0
        time.sleep(SLOW_SECONDS if is_slow else random.uniform(0, WORK_SECONDS))
        report = {
            "worker_id": self._worker_id,
            "claim_token": task["claim_token"],
            "success": True,
            "result": {"token": task["claim_token"]},
        }
        if "fails" in task["params"]:
            report |= {"success": False, "result": None, "error": "told to", "is_retryable": False}
        if time.monotonic() - began > LEASE_SECONDS:
            # Whatever the answer is, it reports: the claim token decides.
            holder = {name: report[name] for name in ("worker_id", "claim_token")}
            self._post(f"/api/tasks/{task['id']}/heartbeat", holder)
        while True:
            status, _ = self._post(f"/api/tasks/{task['id']}/complete", report)
            if status == 200:
                # One write of one line: a kill leaves all of it or none.
                os.write(self._notes, f"{task['id']} {task['claim_token']}\n".encode())
            if status in (200, 404, 409):
                return
            time.sleep(0.1)

    def _post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status 0 where there was no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        headers = {"Content-Type": "application/json", "X-API-Key": self._key}
        try:
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return 0, None
        finally:
            connection.close()


def run_worker(port: int, key: str, worker_id: str, notes: Path) -> None:
    Worker(port, key, worker_id, notes).run()


@pytest.fixture
def database(engine: str, tmp_path: Path) -> Iterator[tuple[str, mariadb.MariaDB | None]]:
    """A URL and, for MariaDB, a server of its own that keeps what it has acknowledged."""
    if engine == "sqlite":
        yield f"sqlite:///{tmp_path / 'queue.db'}", None
        return
    require("MariaDB (mariadbd)", mariadb.is_installed())
    server = mariadb.MariaDB(tmp_path, durable=True)
    server.start()
    try:
        yield server.create_database("faults"), server
    finally:
        server.stop()


class Night:
    """The server, its workers, and who gets killed."""

    def __init__(self, folder: Path, database: tuple[str, mariadb.MariaDB | None]) -> None:
        self.database_url, self.mariadb = database
        instance = folder / "instance"
        instance.mkdir()
        self.notes = folder / "notes"
        self.notes.touch()
        self.server = Server(instance, self.database_url, workers=4, threads=2)
        self.clock = MovedClock(folder)
        self.server.environment |= self.clock.environment
        self.offsets = itertools.cycle(CLOCK)
        self.jumps: Counter[int] = Counter()
        self.workers: dict[int, Any] = {}  # by number, the one that has run longest first
        self.asleep: list[tuple[float, Any]] = []  # when it is to wake up, and the process
        self.awake: list[Any] = []

    def start(self) -> None:
        # The workers ask as often as they can: the rate limit has tests of its own.
        self.server.environment["TASKMANAGER_RATE_LIMIT"] = "0"
        self.server.start()
        self._register()
        for number in range(WORKERS):
            self._start_worker(number)
        self._wait_until_every_worker_works()

    def _wait_until_every_worker_works(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if len(self.notes.read_text().splitlines()) > 10 * WORKERS:
                return
            time.sleep(0.1)
        raise AssertionError("not every worker has begun")

    def _register(self) -> None:
        job = {"version": "1", "param_schema": {"type": "object"}, "max_attempts": 10}
        limits = {
            "keyed": {"concurrency": {"limit": 1, "per": "key"}},
            "member": {"concurrency": {"limit": MEMBERS_AT_ONCE}},
        }
        for name in ("job", "member", "after", "keyed", "hasty"):
            body = {"name": name, **job, **limits.get(name, {})}
            assert self.server.call("POST", "/api/task-types/register", body).status == 201
        for start in range(0, JOBS, TASKS_A_CALL):
            self._create(tasks_of_one_call(start))
        for number in range(BATCHES):
            answer = self.server.call("POST", "/api/batches", members_of_batch(number))
            assert answer.status == 201
        keyed = {"type": "keyed", "priority": 1}
        self._create(
            [{**keyed, "params": {"n": n}, "concurrency_key": f"k{n % KEYS}"} for n in range(KEYED)]
        )
        # Half of them are claimed at once, and the others when the clock jumps over their deadline.
        hasty = {"type": "hasty", "expires_in_seconds": HASTY_SECONDS}
        self._create([{**hasty, "params": {"n": n}, "priority": 2 * (n % 2)} for n in range(HASTY)])

    def _create(self, tasks: list[dict[str, Any]]) -> None:
        answer = self.server.call("POST", "/api/tasks/batch", {"tasks": tasks})
        assert answer.data["created"] == len(tasks)

    def _start_worker(self, number: int) -> None:
        process = CONTEXT.Process(
            target=run_worker,
            args=(self.server.port, self.server.key, NAME, self.notes),
            daemon=True,
        )
        process.start()
        self.workers[number] = process

    def _replace_a_worker(self) -> Any:
        """The one that has run longest; another begins under its name, knowing nothing of it."""
        number, process = next(iter(self.workers.items()))
        del self.workers[number]
        self._start_worker(number)
        return process

    def kill_a_worker(self) -> None:
        process = self._replace_a_worker()
        process.kill()
        process.join()

    def put_a_worker_to_sleep(self) -> None:
        process = self._replace_a_worker()
        os.kill(process.pid, signal.SIGSTOP)
        self.asleep.append((time.monotonic() + LEASE_SECONDS + 1, process))

    def wake_sleepers(self) -> None:
        """Those who have lost their leases; for a second they go on as if nothing had happened."""
        for process in self.awake:
            process.kill()
            process.join()
        self.awake.clear()
        while self.asleep and self.asleep[0][0] < time.monotonic():
            _, process = self.asleep.pop(0)
            os.kill(process.pid, signal.SIGCONT)
            self.awake.append(process)

    def kill_a_server_process(self) -> None:
        """gunicorn starts another in its place."""
        assert self.server.process is not None
        master = self.server.process.pid
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        if children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(random.choice(children)), signal.SIGKILL)

    def kill_the_database(self) -> None:
        if self.mariadb is not None:
            self.mariadb.kill()
            time.sleep(0.5)
            self.mariadb.start()

    def finished(self) -> int:
        """How many tasks are; 0 where nobody can tell now."""
        try:
            answer = self.server.call("GET", "/api/stats")
        except (OSError, http.client.HTTPException):  # the process that was asked has been killed
            return 0
        counts = answer.data["by_status"] if answer.status == 200 else {}
        return sum(counts.get(status, 0) for status in ENDS)

    def move_the_clock(self) -> None:
        offset = next(self.offsets)
        self.clock.set(offset)
        self.jumps[offset] += 1

    def set_the_clock_right(self) -> None:
        """And lets claims correct what it stored, as on a host without cron."""
        self.clock.set(0)
        deadline = time.monotonic() + PATIENCE_SECONDS
        connect_database(self.database_url)
        try:
            while ahead := clock_jumps.count_ahead(now=utc_now()):
                assert time.monotonic() < deadline, f"times still lie in the future: {ahead}"
                self.server.call("POST", "/api/tasks/claim", {"worker_id": "last", "type": "job"})
                time.sleep(0.1)
        finally:
            close_connection()

    def kill_until_all_is_finished(self) -> None:
        """Workers and a server process in every round, and the database twice in between."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        database_kills = list(DATABASE_KILLS_AT)
        while (finished := self.finished()) < TASKS + CALLBACKS:
            assert time.monotonic() < deadline, f"not finished in time: {finished}"
            self.kill_a_worker()
            self.put_a_worker_to_sleep()
            self.wake_sleepers()
            self.kill_a_server_process()
            self.move_the_clock()
            if database_kills and finished >= database_kills[0]:
                database_kills.pop(0)
                self.kill_the_database()
            self._let_them_work(finished, deadline)
        assert not database_kills, "the work was done before the database was killed"

    def _let_them_work(self, finished: int, deadline: float) -> None:
        """A second, or longer on a busy machine, where a killed process takes long to come back."""
        time.sleep(1)
        while self.finished() < min(finished + TASKS_A_ROUND, TASKS + CALLBACKS):
            assert time.monotonic() < deadline, f"not finished in time: {finished}"
            time.sleep(0.1)

    def end(self) -> None:
        sleepers = [process for _, process in self.asleep]
        for process in (*self.workers.values(), *sleepers, *self.awake):
            process.kill()
            process.join()
        self.server.stop()


@pytest.mark.timeout(1_800)
def test_nothing_is_lost_when_everything_is_killed(
    tmp_path: Path, database: tuple[str, mariadb.MariaDB | None]
) -> None:
    night = Night(tmp_path, database)
    try:
        night.start()
        night.kill_until_all_is_finished()
        night.set_the_clock_right()
    finally:
        night.end()
    assert "Traceback" not in night.server.log()
    assert {10 * DAY, 0, -10 * DAY} <= night.jumps.keys(), "the clock has not jumped both ways"

    connect_database(night.database_url)
    tasks = {
        row["id"]: row
        for row in fetch_all(
            "SELECT tasks.*, task_types.name AS type FROM tasks "
            "JOIN task_types ON task_types.id = task_type_id"
        )
    }
    logs = fetch_all("SELECT * FROM task_logs WHERE task_id IS NOT NULL ORDER BY id")
    batches = fetch_all("SELECT * FROM batches")
    open_members = fetch_all("SELECT * FROM batch_members WHERE is_open = 1")
    lanes = fetch_all("SELECT * FROM lanes")
    links = fetch_all("SELECT * FROM task_dependencies ORDER BY task_id, position")
    left = fetch_all("SELECT * FROM ended_dependencies")
    close_connection()
    assert len(tasks) == TASKS + CALLBACKS
    assert max(task["completed_at"] for task in tasks.values()) <= utc_now() + 60_000
    for task in tasks.values():
        honest = task["status"] == "failed" and task["error_code"] == "lease_expired"
        as_told = task["status"] == end_as_told(task)
        assert as_told or honest or task["error_code"] in ("dependency_failed", "expired")

    acknowledged = [line.split() for line in night.notes.read_text().splitlines()]
    assert acknowledged
    for task_id, token in acknowledged:
        task = tasks[int(task_id)]
        assert task["status"] == end_as_told(task)
        if task["status"] == "completed":
            assert json.loads(task["result"]) == {"token": token}

    latest_token: dict[int, str] = {}
    completed: set[int] = set()
    expired = 0
    for log in logs:
        assert log["task_id"] not in completed
        if log["event"] == "claimed":
            latest_token[log["task_id"]] = log["claim_token"]
        elif log["event"] == "completed":
            assert log["claim_token"] == latest_token[log["task_id"]]
            reported = json.loads(tasks[log["task_id"]]["result"])
            assert reported == {"token": log["claim_token"]}, "another attempt's report was taken"
            completed.add(log["task_id"])
        expired += log["event"] == "lease_expired"
    assert completed == {task["id"] for task in tasks.values() if task["status"] == "completed"}
    assert expired, "the killing killed nobody at work"
    assert not left
    assert not open_members
    assert not lanes
    events: dict[int, list[Row]] = defaultdict(list)
    for log in logs:
        events[log["task_id"]].append(log)
    assert_dependencies_were_kept(tasks, links, events)
    assert_batches_were_followed(tasks, batches)
    assert_one_of_each_key_ran(tasks, logs)
    assert_few_members_were_held(tasks, logs)
    assert_deadlines_were_kept(tasks, events)


def end_as_told(task: Row) -> str:
    return "failed" if "fails" in json.loads(task["params"]) else "completed"


def assert_dependencies_were_kept(
    tasks: Mapping[int, Row], links: Sequence[Row], events: Mapping[int, Sequence[Row]]
) -> None:
    """By the history: what ran, ran after all that it depends on; the rest was cancelled."""
    named: dict[int, list[int]] = defaultdict(list)
    for link in links:
        assert not link["is_open"]
        named[link["task_id"]].append(link["depends_on_id"])
    assert len(named) == JOBS * 7 // 10
    seen: Counter[tuple[str, str]] = Counter()
    for task_id, depends_on in named.items():
        task = tasks[task_id]
        counted = Counter(log["event"] for log in events[task_id])
        assert counted["unblocked"] + counted["cancelled"] == 1
        begun = next(
            log["id"] for log in events[task_id] if log["event"] in ("claimed", "cancelled")
        )
        ends = [end_before(begun, events[one]) for one in depends_on]
        have_completed = set(ends) == {"completed"}
        is_cancelled = task["on_dependency_failed"] == "cancel" and not have_completed
        assert (task["status"] == "cancelled") == is_cancelled
        assert (task["error_code"] == "dependency_failed") == is_cancelled
        if is_cancelled:
            assert {"failed", "cancelled"} & set(ends)
        else:
            assert None not in ends
            assert json.loads(task["params"])["results"] == [
                json.loads(tasks[one]["result"])["token"] if end == "completed" else None
                for one, end in zip(depends_on, ends, strict=True)
            ]
        seen[task["on_dependency_failed"], "all" if have_completed else "not all"] += 1
    assert len(seen) == 4, "not every case has come up"


def end_before(log_id: int, events: Sequence[Row]) -> str | None:
    """How a task had ended before that row of the history; None: it had not."""
    ends = [log["status"] for log in events if log["id"] < log_id and log["status"] in ENDS]
    return ends[-1] if ends else None


def assert_batches_were_followed(tasks: Mapping[int, Row], batches: Sequence[Row]) -> None:
    """Each has ended, has counted its tasks right, and has created each callback once."""
    assert len(batches) == BATCHES
    made = [row["id"] for row in tasks.values() if row["type"] == "after"]
    named = []
    for batch in batches:
        members = [row for row in tasks.values() if row["batch_id"] == batch["id"]]
        counts = Counter(row["status"] for row in members)
        assert {status: batch[status] for status in ENDS} == {end: counts[end] for end in ENDS}
        assert counts.total() == batch["tasks"] == MEMBERS
        assert batch["finished_at"] is not None
        end = "completed" if counts["completed"] == MEMBERS else "failed"
        assert batch[f"on_{end}_task_id"] is not None
        columns = [f"on_{end}_task_id" for end in ("finished", "completed", "failed")]
        named += [batch[column] for column in columns if batch[column] is not None]
    assert sorted(named) == sorted(made)


def assert_one_of_each_key_ran(tasks: Mapping[int, Row], logs: Sequence[Row]) -> None:
    """A claim takes its place in the history after it has seen that no other task of the key is
    held, so at no row of the history are two.
    """
    held: dict[str, set[int]] = defaultdict(set)
    claims = 0
    for log in logs:
        task = tasks[log["task_id"]]
        if task["type"] == "keyed":
            of_key = held[task["concurrency_key"]]
            if log["status"] == "claimed":
                of_key.add(task["id"])
                claims += 1
            else:
                of_key.discard(task["id"])
            assert len(of_key) <= 1, f"two of {task['concurrency_key']} were held: {of_key}"
    assert len(held) == KEYS
    assert claims >= KEYED


def assert_few_members_were_held(tasks: Mapping[int, Row], logs: Sequence[Row]) -> None:
    """A lease that has run out frees its place before a row of the history says so, so each claim
    is judged by the leases that had not run out by its own time.

    No row says when a lease was corrected because the clock had been set back, nor that a heartbeat
    renewed one, which ends it sooner after the clock was set back a little. So each jump back
    begins anew, and after a jump ahead nothing is judged: a request that began before it takes
    the leases of that time for ones in the future. More may have been held than are counted, and
    never fewer.
    """
    began: dict[int, int] = {}
    latest, most, is_exact = logs[0]["created_at"], 0, True
    for log in logs:
        jump = log["created_at"] - latest
        if jump > TOLERANCE_MS or jump < -LONGEST_REQUEST_MS:
            began.clear()
            is_exact = jump < 0
        latest = log["created_at"]
        if tasks[log["task_id"]]["type"] != "member" or not is_exact:
            continue
        if log["status"] == "claimed":
            began[log["task_id"]] = latest
            held = [one for one, at in began.items() if at + LEASE_SECONDS * 1000 > latest]
            assert len(held) <= MEMBERS_AT_ONCE, f"too many members were held: {held}"
            most = max(most, len(held))
        else:
            began.pop(log["task_id"], None)
    assert most == MEMBERS_AT_ONCE, "the limit was never reached"


def assert_deadlines_were_kept(
    tasks: Mapping[int, Row], events: Mapping[int, Sequence[Row]]
) -> None:
    """What nobody had claimed in time was cancelled, and nothing that somebody had.

    Each by the clock as it was then.
    """
    ends: Counter[str] = Counter()
    for task in tasks.values():
        if task["type"] == "hasty":
            created, then, *_ = events[task["id"]]
            assert then["event"] in ("claimed", "expired")
            is_late = then["created_at"] >= created["created_at"] + HASTY_SECONDS * 1000
            assert (then["event"] == "expired") == is_late == (task["error_code"] == "expired")
            ends[task["status"]] += 1
    assert ends["cancelled"]
    assert ends["completed"]
