"""Rows that travel as JSON inside the database's answer: nothing is lost on the way."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from taskmanager.app import create_app
from taskmanager.db.connection import close_connection
from taskmanager.db.statements import execute
from tests.conftest import Api, make_key, require
from tests.support import mariadb
from tests.support.mariadb import MariaDB

ODD_TEXTS = [
    "💥 ü \u2028 \u200f",
    "quotes \" ' ` and back\\slashes \\\\ \\u0041 \\n",
    "line\nfeed \r\n tab\t \b\f \x01 \x1f \x7f",
    "null true {} [] , :",
    "%s ? %% ??",
    "",
    " spaces at both ends ",
]
ODD_PARAMS = {
    **{f"{number} {text}": text for number, text in enumerate(ODD_TEXTS)},
    "numbers": [0, -1, 2**63 - 1, -(2**63), 0.1, 1e300, 1.0],
    "others": [None, True, False, [], {}],
}


def test_a_claimed_task_is_read_as_it_was_written(api: Api) -> None:
    api.register()
    made = api.create(params=ODD_PARAMS, priority=-7)

    claimed = api.claim()
    api.complete(claimed, result=ODD_PARAMS)
    read = api.get(f"/api/tasks/{made['id']}")

    assert list(claimed["params"].items()) == list(ODD_PARAMS.items())
    assert read["params"] == read["result"] == ODD_PARAMS
    assert (claimed["priority"], claimed["type_version"]) == (-7, "1")
    unchanged = ("id", "type", "created_at", "dedupe_key", "parent_task_id", "max_attempts")
    assert [claimed[name] for name in unchanged] == [made[name] for name in unchanged]


def test_a_worker_of_any_name_reads_its_error_as_it_was_written(api: Api) -> None:
    api.register()
    api.create(max_attempts=1)
    claimed = api.claim(worker_id='w "\\ ü💥')

    api.complete(claimed, success=False, error=ODD_TEXTS[2] + ODD_TEXTS[1], error_code="odd")

    read = api.get(f"/api/tasks/{claimed['id']}")
    assert read["error_message"] == ODD_TEXTS[2] + ODD_TEXTS[1]
    assert (read["error_code"], read["worker_id"]) == ("odd", 'w "\\ ü💥')


@pytest.fixture
def own_mariadb(tmp_path: Path) -> Iterator[MariaDB]:
    require("MariaDB (mariadbd)", mariadb.is_installed())
    server = MariaDB(tmp_path)
    server.start()
    yield server
    close_connection()
    server.stop()


@pytest.fixture
def api_of_own(own_mariadb: MariaDB, tmp_path: Path) -> Api:
    url = own_mariadb.create_database("narrow")
    app = create_app({"instance_path": tmp_path / "instance", "database_url": url})
    api = Api(app.test_client(), make_key("admin"))
    api.register()
    return api


def take_only_short_packets(server: MariaDB) -> None:
    server.run("SET GLOBAL max_allowed_packet = 1048576")
    close_connection()


def test_a_row_too_long_to_be_packed_is_read_in_columns(
    own_mariadb: MariaDB, api_of_own: Api
) -> None:
    api = api_of_own
    long = '"' * 450_000  # twice as long as JSON in the table, four times packed once more
    made = api.create(params={"long": long})
    take_only_short_packets(own_mariadb)
    row = execute("SELECT JSON_ARRAY(params) FROM tasks").fetchone()
    assert row == (None,), "the server packs it all the same: the test shows nothing"

    claimed = api.claim()

    assert (claimed["id"], claimed["params"]) == (made["id"], {"long": long})
    assert api.get(f"/api/tasks/{made['id']}")["params"] == {"long": long}


def test_statements_that_travel_together_make_no_packet_that_is_refused(
    own_mariadb: MariaDB, api_of_own: Api
) -> None:
    api = api_of_own
    for _ in range(2):
        api.create()
    take_only_short_packets(own_mariadb)
    results = ['"' * 30_000, "x" * 980_000]  # quotes are twice as long in SQL
    completions = [
        {"id": task["id"], "claim_token": task["claim_token"], "success": True, "result": result}
        for task, result in zip(api.claim("w", limit=2)["tasks"], results, strict=True)
    ]

    answer = api.post("/api/tasks/complete", {"worker_id": "w", "completions": completions})

    assert [one["outcome"] for one in answer["results"]] == ["completed", "completed"]
    assert [api.get(f"/api/tasks/{one['id']}")["result"] for one in completions] == results
