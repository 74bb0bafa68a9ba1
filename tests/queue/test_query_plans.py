"""What the database does for a call, seen in its plans and in the work that it counts.

Two tables are compared: one of a thousand rows of every type and state, and one
of two hundred thousand. A call that is served by its index costs the same on both.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from taskmanager.access.caller import OPERATOR
from taskmanager.alerts.findings import Finding, find_all
from taskmanager.app import create_app
from taskmanager.clock import utc_now
from taskmanager.db.connection import cache, close_connection, database, dialect, skips_locked
from taskmanager.db.dialect import SQLITE
from taskmanager.db.facts import database_facts
from taskmanager.db.statements import Row, execute, fetch_all, insert_many
from taskmanager.db.transactions import write_transaction
from taskmanager.queue.claim_sql import (
    CLAIM_ORDERS,
    LOCK_PENDING,
    ClaimOrder,
    find_heads,
)
from taskmanager.queue.flow import backlog, dependencies, failed_dependencies, graph, lanes
from taskmanager.queue.read import _cursor
from taskmanager.queue.workers import save_metadata
from tests.conftest import ENGINES, Api, Clock, make_key
from tests.support.mariadb import MariaDB

pytestmark = pytest.mark.slow

SMALL, LARGE = 1_000, 200_000
KEYED, FAIR = 101, 102  # ids of types
NO_LANES = {"concurrency": None, "fair": None}
NO_LANE = {"concurrency_key": None, "group_key": None}
NO_KEYS = {"dedupe": "none", "holds_key_forever": None, "holds_key_while_open": None}
LANE_COLUMNS = "id, task_type_id, status, priority, concurrency_key, group_key"
PLAN_TYPES = ("plan.a", "plan.b", "plan.c")
OTHER_TYPES = tuple(f"other.{number:02}" for number in range(20))
FAR_AWAY = 3_000_000_000_000  # milliseconds; in the year 2065
# When tasks have ended: not so long ago that they are pruned, nor so lately that they are counted.
ENDED_AT = utc_now() - 7 * 86_400_000
BY_KEY = ("search", "PRIMARY")


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tables(
    engine: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, str]:
    """Number of rows → address of a database with as many tasks."""
    urls = {}
    for rows in (SMALL, LARGE):
        if engine == "sqlite":
            urls[rows] = f"sqlite:///{tmp_path_factory.mktemp('plans') / 'queue.db'}"
        else:
            server: MariaDB = request.getfixturevalue("mariadb_server")
            urls[rows] = server.create_database(f"plans_{rows}")
        create_app(
            {"instance_path": tmp_path_factory.mktemp("instance"), "database_url": urls[rows]}
        )
        _fill(rows)
        if engine == "mariadb":
            execute("ANALYZE TABLE tasks, task_logs")
        close_connection()
    return urls


def _fill(rows: int) -> None:
    """The same few rows that the calls are about, and `rows` others of every type and state."""
    names = (*PLAN_TYPES, "crowded", *OTHER_TYPES, "empty")
    type_rows = [
        {"id": n, "name": name, "version": "1", "created_at": 1, "updated_at": 1, **NO_LANES}
        for n, name in enumerate(names, 1)
    ]
    type_rows += [
        {**type_rows[0], "id": KEYED, "name": "keyed", "concurrency": '{"limit": 1, "per": "key"}'},
        {**type_rows[0], "id": FAIR, "name": "fair", "fair": 1},
    ]
    versions = [
        {
            "task_type_id": row["id"],
            "version": "1",
            "param_schema": '{"type":"object"}',
            "created_at": 1,
            "updated_at": 1,
        }
        for row in type_rows
    ]
    wanted = [_task(n, type_id=1 + n % 3, status="pending") for n in range(600)]
    wanted += [_task(600 + n, type_id=1, status="claimed", worker_id="me") for n in range(5)]
    others = [_other_task(n, len(names) - 1) for n in range(1_000, 1_000 + rows)]
    # Of one key or group a tenth of the rows waits, and ten of each of a few others.
    of_lanes = [
        {**_task(10**9 + n, type_id=type_id, status="pending"), **NO_KEYS, **NO_LANE, column: key}
        for type_id, column in ((KEYED, "concurrency_key"), (FAIR, "group_key"))
        for n, key in enumerate(["long"] * (rows // 10) + [f"key-{n % 50}" for n in range(500)])
    ]

    @write_transaction
    def store() -> None:
        insert_many("task_types", type_rows)
        insert_many("task_type_versions", versions)
        for start in range(0, len(others), 50_000):
            insert_many("tasks", others[start : start + 50_000])
        insert_many("tasks", wanted)
        insert_many("tasks", of_lanes)

    store()
    _enter_lanes()


def _enter_lanes() -> None:
    tasks = fetch_all(f"SELECT {LANE_COLUMNS} FROM tasks WHERE task_type_id IN ({KEYED}, {FAIR})")
    for start in range(0, len(tasks), 5_000):
        write_transaction(lanes.record)(tasks[start : start + 5_000])


def _other_task(n: int, types: int) -> Row:
    status = (
        *("completed", "completed", "completed", "failed", "cancelled"),
        *("pending", "pending", "claimed", "scheduled", "completed"),
    )[n % 10]
    if status == "pending":
        type_id = 4  # one type with a long backlog, of which every fourth task is another's
        if n % 4 == 0:
            type_id = 5 + n // 10 % (types - 4)
    elif status == "claimed" or status == "scheduled":
        type_id = 5 + n // 10 % (types - 4)
    else:
        type_id = 1 + n // 10 % types
    worker = "veteran" if n % 10 == 0 else f"worker-{n % 50}"
    return _task(n, type_id=type_id, status=status, worker_id=worker)


def _task(n: int, *, type_id: int, status: str, worker_id: str | None = None) -> Row:
    finished = status in ("completed", "failed", "cancelled")
    priority = n * 7 % 11
    return {
        "task_type_id": type_id,
        "type_version": "1",
        "status": status,
        "params": json.dumps({"n": n}),
        "priority": priority,
        "claim_rank": -priority,
        "attempts": 0 if status in ("pending", "scheduled") else 1,
        "max_attempts": 3,
        "dedupe": "forever",
        "dedupe_key": f"{n:064}",
        "holds_key_forever": 1,
        "holds_key_while_open": None if finished else 1,
        "worker_id": None if status in ("pending", "scheduled") else worker_id,
        "claim_token": f"token.{n}" if status == "claimed" else None,
        "lease_seconds": 2_000_000_000 if status == "claimed" else None,  # it began in 2001
        "claimed_at": 1 if status == "claimed" else None,
        "lease_expires_at": FAR_AWAY if status == "claimed" else None,
        "available_at": FAR_AWAY if status == "scheduled" else 1,
        "completed_at": ENDED_AT if finished else None,
        "created_at": n,
        "updated_at": n,
    }


class Plan(NamedTuple):
    """How the rows of `tasks` are reached, and whether they are then sorted or copied."""

    how: str  # "search" in an index, or "scan" of all of it
    index: str | None  # PRIMARY: by id
    sorts: bool


class Watched:
    """The service on one of the tables, with a view of the statements that a call makes."""

    def __init__(self, url: str, folder: Path, engine: str) -> None:
        self._engine = engine
        application = create_app({"instance_path": folder, "database_url": url})
        self.api = Api(application.test_client(), make_key("admin"))
        # The caches are filled and the slice of maintenance that is due has run.
        self.api.get("/api/tasks/1")
        self.api.claim(type="no.such.type", status=404)

    def cost(self, call: Callable[[Api], Any]) -> int:
        """Steps of SQLite's virtual machine, or rows that MariaDB asked its storage engine for."""
        if self._engine == "sqlite":
            return self._steps(call)
        execute("FLUSH STATUS")
        call(self.api)
        counted = fetch_all("SHOW SESSION STATUS LIKE ?", ("Handler_read%",))
        return sum(int(row["Value"]) for row in counted)

    def _steps(self, call: Callable[[Api], Any]) -> int:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        connection = database.connection()
        connection.set_progress_handler(count, 1)
        call(self.api)
        connection.set_progress_handler(None, 1)
        return steps

    def plans(self, call: Callable[[Api], Any]) -> set[Plan]:
        """Those of every statement that reads `tasks`, looking one up by its id left out."""
        statements: list[tuple[str, Any]] = []

        def note(event: Any) -> None:
            statements.append((event.sql, event.params))

        database.query_hooks.append(note)
        call(self.api)
        database.query_hooks.remove(note)
        return {
            plan
            for sql, values in statements
            if sql.startswith(("SELECT", "UPDATE", "DELETE", "(SELECT"))
            for plan in self.explain(sql, values)
            if plan[:2] != BY_KEY
        }

    def explain(self, sql: str, values: Any) -> set[Plan]:
        rows = self.explain_rows(sql, values)
        aliases = {alias: table for table, alias in ALIAS.findall(sql)}
        if self._engine == "sqlite":
            return _sqlite_plans([_with_tables(row["detail"], aliases) for row in rows])
        return _mariadb_plans(
            [{**row, "table": aliases.get(row["table"], row["table"])} for row in rows]
        )

    def explain_rows(self, sql: str, values: Any) -> list[Row]:
        """The database's own words."""
        how = "QUERY PLAN "
        if self._engine != "sqlite":
            # MySQL 9 draws a tree unless asked for the table that MariaDB has no other name for.
            how = "FORMAT=TRADITIONAL " if database_facts().engine == "MySQL" else ""
        cursor = database.execute_sql(f"EXPLAIN {how}{sql}", values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


# Peewee calls the tables of a SELECT t1, t2 and so on.
ALIAS = re.compile(r'["`](\w+)["`] AS ["`](t\d+)["`]')


def _with_tables(detail: str, aliases: dict[str, str]) -> str:
    return re.sub(r"\bt\d+\b", lambda found: aliases.get(found[0], found[0]), detail)


# SQLite calls the id PRIMARY nowhere, and names the index of a UNIQUE constraint by its place.
SQLITE_NAMES = {
    None: "PRIMARY",
    "sqlite_autoindex_tasks_1": "tasks_key_forever",
    "sqlite_autoindex_tasks_2": "tasks_key_while_open",
}


def _sqlite_plans(details: list[str]) -> set[Plan]:
    sorts = any("TEMP B-TREE" in detail for detail in details)
    found = set()
    for detail in details:
        match = re.match(
            # "TABLE" before 3.36
            r"(SEARCH|SCAN) (?:TABLE )?tasks\b"
            r"(?: USING (?:COVERING )?(?:INDEX (\w+)|INTEGER PRIMARY KEY))?",
            detail,
        )
        # Looking for the children of a row that is deleted is not in MariaDB's plans.
        if match and match[2] != "tasks_by_parent":
            found.add(Plan(match[1].lower(), SQLITE_NAMES.get(match[2], match[2]), sorts))
    return found


def _mariadb_plans(rows: list[Row]) -> set[Plan]:
    sorts = any(
        re.search("filesort|temporary", row["Extra"] or "")
        for row in rows
        # What it sorts there are the few rows that each of the members came up with.
        if row["select_type"] != "UNION RESULT"
    )
    return {
        Plan("scan" if row["type"] in ("ALL", "index") else "search", row["key"], sorts)
        for row in rows
        if row["table"] == "tasks"
    }


@pytest.fixture
def small(
    tables: dict[int, str], tmp_path: Path, engine: str, clock: Clock
) -> Callable[[], Watched]:
    return lambda: Watched(tables[SMALL], tmp_path / "small", engine)


@pytest.fixture
def large(
    tables: dict[int, str], tmp_path: Path, engine: str, clock: Clock
) -> Iterator[Callable[[], Watched]]:
    yield lambda: Watched(tables[LARGE], tmp_path / "large", engine)
    close_connection()


def claims(**fields: Any) -> Callable[[Api], Any]:
    return lambda api: api.claim("someone", **fields)


def gets(path: str) -> Callable[[Api], Any]:
    return lambda api: api.get(path)


def look_for_alerts(api: Api) -> list[Finding]:
    settings = api.client.application.extensions["taskmanager"]
    return find_all(settings=settings, now=utc_now())


def from_cursor(query: str) -> Callable[[Api], Any]:
    """A page that begins behind all tasks of one of the priorities."""
    cursor = _cursor({"id": 10**9, "claim_rank": -5}, "claim_rank")
    return gets(f"/api/tasks?limit=5&sort_by=priority&cursor={cursor}&{query}")


def _no_preparation() -> None:
    """Most calls find what they need."""


@dataclass(frozen=True)
class Call:
    """A call of the API, the indexes of `tasks` that are to serve it, and its preparation."""

    run: Callable[[Api], Any]
    indexes: tuple[str, ...]
    prepare: Callable[[], None] = _no_preparation
    sorts: bool = False  # only where what is sorted is what one worker holds
    how: str = "search"


def _let_leases_run_out() -> None:
    _change_some("lease_expires_at = 1", "claimed")


def _let_tasks_fall_due() -> None:
    _change_some("available_at = 1", "scheduled")


def _let_tasks_grow_old() -> None:
    _change_some("completed_at = 1", "failed")


def _let_a_worker_be_seen() -> None:
    save_metadata(worker_id="veteran", metadata=None, caller=OPERATOR, now=utc_now())


def _forget_the_last_look() -> None:
    cache().next_due = None


def _change_some(assignment: str, status: str) -> None:
    rows = fetch_all("SELECT id FROM tasks WHERE status = ? ORDER BY id LIMIT 3", (status,))
    for row in rows:
        execute(f"UPDATE tasks SET {assignment} WHERE id = ?", (row["id"],))


def run_maintenance(api: Api) -> Any:
    return api.post("/api/maintenance/run")


def creates(count: int, **fields: Any) -> Callable[[Api], Any]:
    """The first time they are made, every other time they exist."""
    bodies = [{"type": "plan.b", "params": {"made": n}, **fields} for n in range(count)]
    return lambda api: api.call("POST", "/api/tasks/batch", {"tasks": bodies})


def metrics(api: Api) -> Any:
    return api.call("GET", "/api/metrics")


def complete_one(api: Api) -> Any:
    return api.complete(api.claim("finisher", type="plan.c"))


def complete_of(name: str) -> Callable[[Api], Any]:
    return lambda api: api.complete(api.claim("finisher", type=name))


def create_in_lane(api: Api) -> Any:
    body = {"type": "keyed", "params": {}, "dedupe": "none", "concurrency_key": "long"}
    return api.post("/api/tasks", body, 201)


BY_PRIORITY, BY_ID = "tasks_claim_by_priority", "tasks_claim_by_id"
DUE, EXPIRED, OLD = "tasks_by_available_at", "tasks_by_lease_expires_at", "tasks_by_completed_at"
KEYS = ("tasks_key_forever", "tasks_key_while_open")

CALLS = {
    "claim of one type": Call(claims(type="plan.a"), (BY_PRIORITY,)),
    "claim of a type with a long backlog": Call(claims(type="crowded"), (BY_PRIORITY,)),
    "the rules of alerts": Call(look_for_alerts, (BY_ID,)),
    "claim of three types": Call(claims(task_types=list(PLAN_TYPES)), (BY_PRIORITY,)),
    "claim by a pattern": Call(claims(type_pattern="plan.%"), (BY_PRIORITY,)),
    "claim of anything": Call(claims(), (BY_PRIORITY,)),
    "claim of a type with a limit per key": Call(claims(type="keyed"), (BY_PRIORITY,)),
    "claim of ten of such a type": Call(claims(type="keyed", limit=10), (BY_PRIORITY,)),
    "claim of a fair type": Call(claims(type="fair"), (BY_PRIORITY,)),
    "completion in a lane": Call(complete_of("keyed"), (BY_PRIORITY,)),
    "creation in a lane": Call(create_in_lane, ()),
    "claim of ten": Call(claims(limit=10, type_pattern="plan.%"), (BY_PRIORITY,)),
    "claim by id": Call(claims(sort_by="id"), (BY_ID,)),
    "claim by attempts": Call(claims(sort_by="attempts"), ("tasks_claim_by_attempts",)),
    "claim that finds nothing": Call(
        claims(type="plan.a", status=404, type_pattern="plan.b"),
        (BY_PRIORITY, DUE, EXPIRED),
        _forget_the_last_look,
    ),
    "claim of a type without tasks": Call(
        claims(type="empty", status=404),
        (BY_PRIORITY, DUE, EXPIRED),
        _forget_the_last_look,
    ),
    "claim sent again": Call(
        claims(type="plan.a", request_id="again", limit=3),
        ("tasks_by_worker",),
        sorts=True,
    ),
    "completion": Call(complete_one, (BY_PRIORITY,)),
    "renewal of all leases": Call(
        lambda api: api.post("/api/workers/heartbeat", {"worker_id": "me"}), ("tasks_by_worker",)
    ),
    "maintenance with nothing to do": Call(run_maintenance, (DUE, EXPIRED, OLD, BY_PRIORITY)),
    "expiry": Call(run_maintenance, (DUE, EXPIRED, OLD, BY_PRIORITY), _let_leases_run_out),
    "due tasks": Call(run_maintenance, (DUE, EXPIRED, OLD, BY_PRIORITY), _let_tasks_fall_due),
    "prune": Call(run_maintenance, (DUE, EXPIRED, OLD, BY_PRIORITY), _let_tasks_grow_old),
    "statistics": Call(gets("/api/stats"), (BY_ID,)),
    "metrics": Call(metrics, (BY_ID, DUE, EXPIRED), _forget_the_last_look),
    "creation of a duplicate": Call(creates(1), KEYS),
    "creation of 500 duplicates": Call(creates(500), KEYS),
    "creation of an unfinished duplicate": Call(creates(1, dedupe="active"), KEYS[1:]),
    "trial of a new schema": Call(
        lambda api: api.post("/api/task-types/plan.b/validate", {"param_schema": {}}), (BY_ID,)
    ),
    "task by id": Call(gets("/api/tasks/1100"), ()),
    "task that waits": Call(gets("/api/tasks/6"), (BY_ID,)),
    "history": Call(gets("/api/tasks/1100/logs"), ()),
    "list": Call(gets("/api/tasks?limit=5"), ("PRIMARY",), how="scan"),
    "list by priority": Call(
        gets("/api/tasks?limit=5&sort_by=priority"), ("tasks_by_priority",), how="scan"
    ),
    "list by priority, from a cursor": Call(from_cursor(""), ("tasks_by_priority",)),
    "list of a status by priority": Call(
        gets("/api/tasks?limit=5&status=failed&sort_by=priority"), (BY_PRIORITY,)
    ),
    "list of a status": Call(gets("/api/tasks?limit=5&status=failed"), (BY_ID,)),
    "list of a type": Call(gets("/api/tasks?limit=5&type=plan.a"), (BY_ID,)),
    "list of a type and status": Call(
        gets("/api/tasks?limit=5&type=plan.a&status=completed"), (BY_ID,)
    ),
    "list of a pattern by priority": Call(
        gets("/api/tasks?limit=5&type=plan.%25&sort_by=priority&sort_order=asc"), (BY_PRIORITY,)
    ),
    "list of a worker": Call(gets("/api/tasks?limit=5&worker_id=veteran"), ("tasks_by_worker",)),
    "list of a worker by priority": Call(
        gets("/api/tasks?limit=5&worker_id=veteran&sort_by=priority"),
        ("tasks_by_worker_and_priority",),
    ),
    "list of a worker by priority, from a cursor": Call(
        from_cursor("worker_id=veteran"), ("tasks_by_worker_and_priority",)
    ),
    "list of a worker and status": Call(
        gets("/api/tasks?limit=5&worker_id=veteran&status=completed"), ("tasks_by_worker",)
    ),
    "list of workers": Call(gets("/api/workers"), ("tasks_by_worker",), _let_a_worker_be_seen),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_reads_its_index_and_costs_the_same_on_a_large_table(
    name: str, small: Callable[[], Watched], large: Callable[[], Watched]
) -> None:
    call = CALLS[name]
    costs = []
    for open_table in (small, large):
        watched = open_table()
        call.run(watched.api)
        call.prepare()
        costs.append(watched.cost(call.run))
    call.prepare()
    plans = watched.plans(call.run)

    assert {plan.index for plan in plans} == set(call.indexes), plans
    assert {plan.how for plan in plans} <= {call.how}
    assert call.sorts or not any(plan.sorts for plan in plans), plans
    on_small, on_large = costs
    assert on_large <= on_small * 1.5 + 50, f"{on_small} on the small table"


@pytest.mark.parametrize("types", [1, 3, 24])
@pytest.mark.parametrize("order", sorted(set(CLAIM_ORDERS.values()), key=str))
def test_the_heads_of_types_are_read_from_one_index_in_its_order(
    order: ClaimOrder, types: int, large: Callable[[], Watched]
) -> None:
    watched = large()
    statements: list[tuple[str, Any]] = []
    database.query_hooks.append(lambda event: statements.append((event.sql, event.params)))
    find_heads(range(1, types + 1), order=order, count=2)
    database.query_hooks.pop()

    [(sql, values)] = statements
    assert watched.explain(sql, values) == {Plan("search", order.index_name, sorts=False)}


@pytest.mark.parametrize("order", sorted(set(CLAIM_ORDERS.values()), key=str))
def test_the_next_tasks_are_locked_through_one_index_in_its_order(
    order: ClaimOrder, large: Callable[[], Watched]
) -> None:
    watched = large()
    for template, values in lock_next_statements(order):
        plans = watched.explain(database.spelled(template), values)
        assert plans == {Plan("search", order.index_name, sorts=False)}


def lock_next_statements(order: ClaimOrder) -> list[tuple[str, list[int]]]:
    """What locks the next tasks here, beginning at the first of them."""
    if dialect() is SQLITE:
        return [(order.lock, [4, 2])]
    if not skips_locked():  # the heads are candidates, which are then locked by their ids
        return [(order.heads, [4, 2])]
    [head] = fetch_all(order.heads, [4, 1])
    return [(order.lock_from_head, [4, *order.begin_at(head), 2])]


LANE_STATEMENTS = {
    "the next lanes of a type": (lanes.READY, (FAIR, "group", 5), "lanes_by_turn"),
    "the next tasks of a lane": (lanes.NEXT_TASKS, (1, 5), "lane_members_in_order"),
    "the tasks of a lane that are held": (lanes.HELD_TASKS, (1, 5), "lane_members_in_order"),
    "lanes at their limit": (lanes.FULL, (KEYED, "concurrency", 0, 5), "lanes_by_turn"),
    "tasks in no lane": (lanes.STRAGGLERS, (KEYED, 100), BY_PRIORITY),
    "unfinished tasks of a type": (lanes.WALK, (KEYED, "pending", 1, 500), "tasks_claim_by_id"),
    "the open tasks of a group": (lanes.MEMBERS, (1, 5), "lane_members_in_order"),
    "the open tasks of a type": (backlog.OPEN_OF_TYPE, (FAIR, 5), BY_ID),
    "the lane of a key": (lanes.BY_KEY, (KEYED, "concurrency", "long"), None),
}


@pytest.mark.parametrize("name", LANE_STATEMENTS)
def test_what_lanes_ask_for_is_the_beginning_of_an_index(
    name: str, large: Callable[[], Watched], engine: str
) -> None:
    template, values, index = LANE_STATEMENTS[name]
    rows = large().explain_rows(database.spelled(template), values)
    words = " ".join(str(value) for row in rows for value in row.values())
    if engine == "sqlite":
        index = index or "sqlite_autoindex_lanes_1"
        assert "TEMP B-TREE" not in words or name == "lanes at their limit", words
        assert re.search(rf"SEARCH (TABLE )?\w+ USING (COVERING )?INDEX {index} ", words), words
    else:
        index = index or "lanes_name"
        assert "filesort" not in words or name == "lanes at their limit", words
        assert index in {row["key"] for row in rows}, words
        assert "ALL" not in {row["type"] for row in rows if row["select_type"] != "PRIMARY"}, words


def test_without_skip_locked_candidates_are_locked_by_their_ids(
    large: Callable[[], Watched],
) -> None:
    plans = large().explain(
        database.spelled(LOCK_PENDING).replace("IN %s", "IN (1, 2)").replace("IN ?", "IN (1, 2)"),
        [],
    )

    assert {plan.index for plan in plans} == {BY_KEY[1]}


def test_counting_all_tasks_is_one_pass_over_an_index_that_holds_all_it_needs(
    large: Callable[[], Watched], engine: str
) -> None:
    watched = large()
    execute("DELETE FROM statistics_snapshots")
    statements: list[tuple[str, Any]] = []
    database.query_hooks.append(lambda event: statements.append((event.sql, event.params)))
    total = watched.api.get("/api/stats")["total"]
    database.query_hooks.pop()

    assert total >= LARGE
    [(sql, values)] = [one for one in statements if "COUNT(*)" in one[0]]
    [plan] = watched.explain_rows(sql, values)
    if engine == "sqlite":
        covering = rf"SCAN (TABLE )?tasks USING COVERING INDEX {BY_ID}"
        assert re.fullmatch(covering, plan["detail"]), plan
    else:
        found = (plan["type"], plan["key"], plan["Extra"])
        assert found == ("index", BY_ID, "Using index")


@pytest.fixture
def with_dependencies(large: Callable[[], Watched], engine: str) -> Watched:
    """The large table, in which each of 20,000 tasks depends on the one before; ends of many."""
    watched = large()
    # Other tests may have taken some of the first tasks away.
    ids = [row["id"] for row in fetch_all("SELECT id FROM tasks ORDER BY id LIMIT 20001")]
    links = [
        {
            "task_id": later,
            "depends_on_id": earlier,
            "position": 0,
            "is_open": later % 2,
            "is_filled": 0,
        }
        for earlier, later in pairwise(ids)
    ]
    ends = [{"task_id": n, "status": "failed", "ended_at": n % 7} for n in range(1, 5_000)]

    @write_transaction
    def store() -> None:
        for table, rows in (("task_dependencies", links), ("ended_dependencies", ends)):
            execute(f"DELETE FROM {table}")
            insert_many(table, rows)

    store()
    if engine == "mariadb":
        execute("ANALYZE TABLE task_dependencies, ended_dependencies")
    return watched


BY_TASK, OPEN = "task_dependencies_by_task", "task_dependencies_open"
NOTED_BY = "ended_dependencies_by_ended_at"


@pytest.mark.parametrize(
    ("statement", "values", "index"),
    [
        (dependencies.LINKS_OF, (7, 100), OPEN),
        (dependencies.STILL_OPEN, (7,), BY_TASK),
        (graph.NAMED_BY, (7, 100), BY_TASK),
        (failed_dependencies.FAILED_OF, (7,), BY_TASK),
        (dependencies.LINKS_OF_BLOCKED, (7,), BY_TASK),
        # Any params contain the empty string. MySQL has no plan where it sees that no row matches.
        (dependencies.UNFILLED, (7, ""), BY_TASK),
        (dependencies.POSITIONS, (7,), BY_TASK),
        (dependencies.COUNT, (7,), BY_TASK),
        (dependencies.NOTED, (50,), NOTED_BY),
        (dependencies.NEXT, (), NOTED_BY),
        (graph.NAMING, (7, 100), OPEN),
    ],
)
def test_dependencies_are_found_through_the_indexes_of_both_ways(
    statement: str, values: tuple[Any, ...], index: str, with_dependencies: Watched
) -> None:
    sql = database.spelled(statement.replace("IN ?", "IN (?)"))
    plans = with_dependencies.explain_rows(sql, values)
    # The first entry of an index is no plan of MariaDB: it is read while the plan is made.
    if index == NOTED_BY and any("optimized away" in str(row) for row in plans):
        return
    assert any(index in (row.get("key"), *row.get("detail", "").split()) for row in plans), plans
    for row in plans:
        found = row.get("detail", row.get("Extra") or "")
        assert not re.search(r"filesort|temporary|TEMP B-TREE FOR ORDER BY", found), plans
        if row.get("detail", "").startswith("SCAN") or row.get("type") in ("ALL", "index"):
            assert index == NOTED_BY  # which is read from its first entry on
