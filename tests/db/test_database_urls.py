"""How a database URL becomes the options of a connection; nothing is connected."""

from collections.abc import Iterator
from typing import Any

import pytest

from taskmanager.db.connection import connect_database, database
from taskmanager.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _put_the_database_back() -> Iterator[None]:
    before = database.obj
    yield
    database.initialize(before)


def options(url: str) -> dict[str, Any]:
    connect_database(url)
    return {**database.obj.connect_params, "database": database.obj.database}


def test_a_mysql_url_is_read_whole_and_unquoted() -> None:
    found = options("mysql://m%40e:p%2F%3A%40ss@db.example.org:3307/que%20ue")
    assert (found["user"], found["password"]) == ("m@e", "p/:@ss")
    assert list(database.obj.nodes) == [("db.example.org", 3307)]
    assert (found["database"], found["charset"]) == ("que ue", "utf8mb4")
    assert "ssl_disabled" not in found


def test_what_a_mysql_url_leaves_out_has_defaults() -> None:
    found = options("mysql://me@localhost/queue")
    assert (found["password"], found["ssl_disabled"]) == ("", True)
    assert list(database.obj.nodes) == [("localhost", 3306)]


def test_a_mysql_url_may_name_several_servers() -> None:
    found = options("mysql://me:a,b@node1,node2:3307,[::1]:3308/queue")
    assert list(database.obj.nodes) == [("node1", 3306), ("node2", 3307), ("::1", 3308)]
    assert (found["password"], found["connect_timeout"]) == ("a,b", 2)
    assert "ssl_disabled" not in found
    assert options("mysql://me@127.0.0.1:1,127.0.0.1:2/queue")["ssl_disabled"] is True


def test_a_socket_is_of_one_server() -> None:
    with pytest.raises(ConfigurationError, match="unix_socket is that of one"):
        connect_database("mysql://me@a,b/queue?unix_socket=/run/mysqld.sock")


def test_a_socket_is_an_option() -> None:
    found = options("mysql://me@localhost/queue?unix_socket=/run/mysqld.sock")
    assert (found["unix_socket"], found["ssl_disabled"]) == ("/run/mysqld.sock", True)


def test_a_sqlite_url_names_a_file() -> None:
    assert options("sqlite:////srv/queue.db")["database"] == "/srv/queue.db"
    assert options("sqlite:///queue.db")["database"] == "queue.db"


def test_special_characters_that_need_no_quoting_are_taken_as_they_are() -> None:
    found = options("mysql://me:p@s$%{}:+!@localhost/queue?unix_socket=/run/a+b%20c.sock")
    assert found["password"] == "p@s$%{}:+!"
    assert list(database.obj.nodes) == [("localhost", 3306)]
    assert found["unix_socket"] == "/run/a+b c.sock"
    assert options("sqlite:////srv/a#b?c%20d@e/q.db?journal=wal")["database"] == (
        "/srv/a#b?c%20d@e/q.db"
    )


@pytest.mark.parametrize("password", ["a#b", "a/b", "a?b", "1/b", "1?b", "1#b", "%FC", "a#b/c?d"])
@pytest.mark.parametrize("user", ["me", "me%40here", "me@here"])
def test_a_password_that_ends_early_is_refused_and_not_shown(user: str, password: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        connect_database(f"mysql://{user}:{password}@localhost:3306/queue")
    assert "# is %23" in refused.value.message
    assert f":{password}@" not in refused.value.message


@pytest.mark.parametrize(
    "url",
    [
        *("mysql://me@host/queue#x", "mysql://me@host/queue?ssl_ca=/a#b", "mysql://me@host/q@r"),
        *("mysql://me@host/queue?unix_socket=", "sqlite:////srv/q.db?journal", "sqlite:///~/q.db"),
        *("sqlite:///$HOME/q.db", "sqlite:////srv/q.db?mode=ro"),
        *("sqlite:///", "mysql://", "mysql://me@host", "mysql://host/queue"),
        *("mysql://me@host:1,other:port/queue",),
        *("mysql://me@host:port/queue", "mysql://me@host:70000/queue", "mysql://me@[::1/queue"),
        *("mysql://me@host/queue?charset=latin1", "mysql://me@host/queue?ssl=1"),
    ],
)
def test_a_url_that_cannot_be_understood_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        connect_database(url)
    assert "TASKMANAGER_DATABASE_URL" in refused.value.message
