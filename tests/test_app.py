"""Several applications in one process, each with a database of its own."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from taskmanager.app import close_app, create_app
from taskmanager.db.connection import close_connection, database
from tests.conftest import Api, make_key


def application(folder: Path, **settings: Any) -> Flask:
    url = f"sqlite:///{folder / 'queue.db'}"
    return create_app({"instance_path": folder, "database_url": url, **settings})


def open_files(folder: Path) -> list[str]:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.exists()]
    return [str(link.readlink()) for link in links if folder in link.resolve().parents]


def test_a_second_application_leaves_the_database_of_the_first_alone(tmp_path: Path) -> None:
    first = application(tmp_path / "first")
    of_first = Api(first.test_client(), make_key("admin"))
    of_first.register("job")
    second = application(tmp_path / "second")
    of_second = Api(second.test_client(), make_key("admin"))

    of_first.create("job")
    of_second.register("other")
    of_second.create("other")
    of_first.create("job")

    assert {t["type"] for t in of_first.get("/api/tasks")["tasks"]} == {"job"}
    assert {t["type"] for t in of_second.get("/api/tasks")["tasks"]} == {"other"}
    assert of_first.call("GET", "/api/stats").get_json()["data"]["total"] == 2
    of_first.with_key(of_second.key).get("/api/stats", 401)
    for app in (first, second):
        close_app(app)


def test_a_closed_application_holds_no_file_open_and_the_other_goes_on(tmp_path: Path) -> None:
    first = application(tmp_path / "first")
    of_first = Api(first.test_client(), make_key("admin"))
    second = application(tmp_path / "second")
    of_first.get("/api/stats")
    assert any("queue.db" in name for name in open_files(tmp_path / "first"))

    close_app(first)

    assert not any("queue.db" in name for name in open_files(tmp_path / "first"))
    of_second = Api(second.test_client(), make_key("admin"))
    assert of_second.get("/api/stats")["total"] == 0
    close_app(second)


def test_after_the_last_application_is_closed_no_database_is_left(tmp_path: Path) -> None:
    app = application(tmp_path / "only")
    close_app(app)
    close_connection()  # does nothing

    with pytest.raises(AttributeError):
        make_key("admin")


def test_a_thread_without_a_choice_never_gets_a_closed_database(tmp_path: Path) -> None:
    first, second = application(tmp_path / "first"), application(tmp_path / "second")
    Api(first.test_client(), "none").call("GET", "/api/health")  # this context chooses the first

    close_app(second)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: database.obj).result() is None
    close_app(first)
