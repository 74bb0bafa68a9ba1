"""Health, statistics, and the start of the application."""

import stat
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from taskmanager import __version__
from taskmanager.app import create_app
from taskmanager.clock import format_time
from taskmanager.errors import ConfigurationError
from taskmanager.params.formats import FORMATS
from tests.api.tables import dump_tables
from tests.conftest import Api, Clock
from tests.support.ports import free_port


def test_health_says_that_all_is_well_and_nothing_that_helps_an_attacker(
    api: Api, clock: Clock
) -> None:
    before = dump_tables()
    response = api.client.get("/api/health")
    data = response.get_json()["data"]
    assert response.status_code == 200
    assert (data["status"], data["database"], data["version"]) == (
        "healthy",
        "connected",
        __version__,
    )
    assert data["timestamp"] == format_time(clock.now)
    assert 0 <= data["uptime_seconds"] < 100_000
    assert set(data) == {
        *("status", "database", "version", "uptime_seconds", "timestamp", "rate_limits"),
        "maintenance",
    }
    assert dump_tables() == before


def test_health_shows_a_monitor_that_cron_is_dead(api: Api, clock: Clock) -> None:
    assert api.get("/api/health")["maintenance"] == "running"  # it may still be set up
    clock.advance(901)
    assert b'"maintenance":"silent"' in api.client.get("/api/health").data
    api.post("/api/maintenance/run", {})
    assert api.get("/api/health")["maintenance"] == "running"
    clock.advance(901)
    api.register()
    api.create(delay_seconds=5)
    clock.advance(5)
    api.claim()  # claims do part of it, which is not enough
    assert api.get("/api/health")["maintenance"] == "silent"


def test_an_empty_queue_has_figures(api: Api, clock: Clock) -> None:
    nothing = {"completed": 0, "failed": 0, "cancelled": 0}
    assert api.get("/api/stats") == {
        "by_status": {
            **dict.fromkeys(("blocked", "scheduled", "pending", "claimed"), 0),
            **nothing,
        },
        "by_type": {},
        "total": 0,
        "oldest_pending_seconds": None,
        "finished": {"minute": nothing, "hour": nothing, "day": nothing},
        "counted_at": format_time(clock.now),
        **{name: {} for name in ("wait_seconds", "run_seconds", "drains_at")},
        "failed_attempts": [],
        "measured_until": None,
    }


def test_the_figures_add_up(api: Api, clock: Clock) -> None:
    api.register("a")
    api.register("b")
    api.create("a")
    api.create("b", delay_seconds=86_400 * 3)
    for seconds, report in (
        (0, {"success": True}),
        (86_390, {"success": True}),
        (3_590, {"success": False, "is_retryable": False}),
    ):
        clock.advance(seconds)
        made = api.create("b")
        api.complete(api.claim(type="b"), **report)
        assert made["type"] == "b"
    clock.advance(50)
    api.claim(type="a")
    api.create("a")
    clock.advance(5)
    cancelled = api.create("b")
    api.post(f"/api/tasks/{cancelled['id']}/cancel", {})
    figures = api.get("/api/stats")
    assert figures["by_type"]["a"]["pending"] == figures["by_type"]["a"]["claimed"] == 1
    assert figures["by_status"] == {
        "blocked": 0,
        "scheduled": 1,
        "pending": 1,
        "claimed": 1,
        "completed": 2,
        "failed": 1,
        "cancelled": 1,
    }
    assert figures["total"] == 7
    assert figures["oldest_pending_seconds"] == 5
    assert figures["finished"] == {
        "minute": {"completed": 0, "failed": 1, "cancelled": 1},
        "hour": {"completed": 0, "failed": 1, "cancelled": 1},
        "day": {"completed": 1, "failed": 1, "cancelled": 1},
    }


def unreachable(tmp_path: Path) -> Flask:
    url = f"mysql://root@127.0.0.1:{free_port()}/queue"
    return create_app({"instance_path": tmp_path / "instance", "database_url": url})


def test_without_a_database_the_application_starts_and_says_so(tmp_path: Path) -> None:
    client = unreachable(tmp_path).test_client()
    health = client.get("/api/health", headers={"X-Request-ID": "mine"})
    envelope = health.get_json()
    assert (health.status_code, envelope["code"]) == (503, "database_unavailable")
    assert int(health.headers["Retry-After"]) > 0
    assert health.headers["X-Request-ID"] == "mine"
    assert (envelope["details"]["status"], envelope["details"]["database"]) == (
        "unhealthy",
        "disconnected",
    )
    assert envelope["details"]["maintenance"] is None
    other = client.get("/api/tasks", headers={"X-API-Key": "k", "X-Request-ID": "mine"})
    assert (other.status_code, other.get_json()["code"]) == (503, "database_unavailable")
    assert int(other.headers["Retry-After"]) > 0
    assert other.headers["X-Request-ID"] == "mine"
    assert "127.0.0.1" not in other.get_data(as_text=True)


def test_a_database_that_appears_later_is_made_ready_by_the_next_request(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    url = f"sqlite:///{folder / 'queue.db'}"
    client = create_app({"instance_path": tmp_path, "database_url": url}).test_client()
    assert client.get("/api/health").status_code == 503
    folder.mkdir()
    assert client.get("/api/health").status_code == 200


def test_the_instance_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "instance"
    create_app({"instance_path": folder, "database_url": ""})
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "taskmanager.db").exists()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"instance_path": "/dev/null/instance"}, "TASKMANAGER_INSTANCE_PATH"),
        ({"plugins": "no.such.module"}, "no.such.module"),
        ({"database_url": "sqlite:///"}, "sqlite:///path/to/file.db"),
        ({"database_url": "mysql://host"}, "mysql://user:password@host:3306/name"),
        ({"database_url": "mysql://me@host/"}, "mysql://user:password@host:3306/name"),
        ({"database_url": "mysql://me@host:x/name"}, "mysql://user:password@host:3306/name"),
        ({"database_url": "mysql://me@host:99999/q"}, "mysql://user:password@host:3306/name"),
        ({"database_url": "mysql://me@host/name?charset=latin1"}, "charset"),
    ],
)
def test_settings_that_cannot_work_stop_the_start_and_say_what_to_write(
    tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        create_app({"instance_path": tmp_path, **config})
    assert sentence in refused.value.message


def test_a_plugin_is_imported_and_its_formats_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "order-number", lambda text: True)  # taken away afterwards
    (tmp_path / "order_checks.py").write_text(
        "from taskmanager.params.formats import register_format\n"
        "@register_format('order-number')\n"
        "def is_order_number(text: str) -> bool:\n"
        "    return text.startswith('ORD-')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    key = "a-bootstrap-key-of-more-than-32-characters"
    app = create_app(
        {"instance_path": tmp_path, "plugins": "order_checks", "bootstrap_admin_key": key}
    )
    api = Api(app.test_client(), key)
    api.register(schema={"properties": {"order": {"format": "order-number"}}})
    api.create(params={"order": "ORD-7"})
    refused = api.post("/api/tasks", {"type": "job", "params": {"order": "7"}}, 400)
    assert refused["details"][0]["message"] == 'must be a valid order-number, not "7"'


def test_the_bootstrap_key_is_made_once_and_stays_as_it_is(
    app: Flask, database_url: str, tmp_path: Path
) -> None:
    key = "a-bootstrap-key-of-more-than-32-characters"
    config = {
        "instance_path": tmp_path,
        "database_url": database_url,
        "bootstrap_admin_key": key,
    }
    for _ in range(2):
        api = Api(create_app(config).test_client(), key)
        listed = api.get("/api/admin/keys")["keys"]
        assert [row["name"] for row in listed] == ["bootstrap"]
        assert key[:6] not in str(listed)
