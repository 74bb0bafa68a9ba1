"""Each rule begins where its threshold is passed, and ends when all is well again."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskmanager import alert_rules
from taskmanager.alerts import findings, state
from taskmanager.alerts.findings import find_all
from taskmanager.clock import format_time
from taskmanager.config import Settings, load_settings
from taskmanager.db.connection import database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import execute
from tests.conftest import Api, Clock

Alerts = Callable[[], dict[str, list[str]]]
DAY = 86_400


def test_every_rule_has_its_query_and_no_other() -> None:
    assert findings.QUERIES.keys() == alert_rules.RULES.keys()
    assert all(len(name) <= 32 for name in alert_rules.RULES)


def until_ended(alerts: Alerts, clock: Clock, rule: str) -> dict[str, list[str]]:
    """What is open once a rule has found nothing for long enough."""
    assert rule in alerts()  # it does not end at once
    clock.advance(state.ENDS_AFTER_MS / 1000 + 1)
    return alerts()


def test_a_type_that_nobody_works_on(api: Api, alerts: Alerts, clock: Clock) -> None:
    api.register()
    api.create()
    clock.advance(890)
    assert alerts() == {}
    clock.advance(60)
    assert alerts() == {
        "no_worker": ["job has tasks waiting, the oldest for 15 min, and nobody works on it."]
    }
    clock.advance(3_600)
    assert list(alerts()) == ["no_worker"]  # that its task waits for long is not said again
    api.complete(api.claim())
    clock.advance(60)
    assert until_ended(alerts, clock, "no_worker") == {}
    ended = api.get("/api/alerts")["alerts"][0]
    assert (ended["rule"], ended["notified_at"]) == ("no_worker", None)
    assert ended["began_at"] < ended["last_seen_at"] < ended["ended_at"]


@pytest.mark.parametrize("status", ["claimed", "completed"])
def test_a_type_that_somebody_works_on_is_not_left_alone(
    api: Api, alerts: Alerts, clock: Clock, status: str
) -> None:
    """Also where the newest task was claimed long ago, because others came before it."""
    api.register()
    for priority in (0, 0, 0, 5):
        api.create(priority=priority)
    api.complete(api.claim())
    clock.advance(1_000)
    if status == "claimed":
        api.claim(lease_seconds=3_000)
        clock.advance(1_200)
    else:
        api.complete(api.claim())
    clock.advance(60)
    assert alerts() == {}


def test_a_paused_type_is_meant_to_wait(api: Api, alerts: Alerts, clock: Clock) -> None:
    api.register()
    api.create()
    api.patch("/api/task-types/job", {"is_paused": True})
    clock.advance(DAY)
    assert alerts() == {}


def test_a_task_that_waits_behind_others(api: Api, alerts: Alerts, clock: Clock) -> None:
    api.register()
    api.create()
    clock.advance(3_590)
    api.create(priority=9)
    api.complete(api.claim())
    assert alerts() == {}
    clock.advance(60)
    assert alerts() == {"oldest_pending": ["job has a task that has been waiting for 1 h."]}
    api.complete(api.claim())
    clock.advance(60)
    assert until_ended(alerts, clock, "oldest_pending") == {}


def test_a_task_waits_only_since_it_can_be_claimed(api: Api, alerts: Alerts, clock: Clock) -> None:
    api.register()
    api.create(delay_seconds=DAY)
    clock.advance(DAY + 60)
    assert alerts() == {}
    clock.advance(1_000)
    assert list(alerts()) == ["no_worker"]


def test_a_task_that_is_tried_again_does_not_hide_the_one_behind_it(
    api: Api, alerts: Alerts, clock: Clock
) -> None:
    api.register()
    first = api.create()
    api.create()
    clock.advance(4_000)
    api.complete(api.claim(), success=False)
    assert api.get(f"/api/tasks/{first['id']}")["status"] == "pending"
    assert list(alerts()) == ["oldest_pending"]


def end_tasks(api: Api, failed: int, completed: int) -> None:
    for number in range(failed + completed):
        api.create()
        api.complete(api.claim(), success=number >= failed, is_retryable=False)


def test_many_failures(api: Api, alerts: Alerts, clock: Clock) -> None:
    api.register()
    end_tasks(api, failed=4, completed=0)
    clock.advance(60)
    assert alerts() == {}  # too few to judge by
    end_tasks(api, failed=1, completed=45)
    clock.advance(60)
    assert alerts() == {}  # a tenth of all, and not more
    end_tasks(api, failed=1, completed=0)
    clock.advance(60)
    assert alerts() == {
        "failure_share": ["job has 6 failures among 51 tasks that ended in the last hour."]
    }
    clock.advance(3_600)
    alerts()
    clock.advance(301)
    assert alerts() == {}


def test_maintenance_that_does_not_run(api: Api, loaded: Settings, clock: Clock) -> None:
    """Found by whoever looks without running maintenance, such as the server."""

    def found() -> list[str]:
        now = clock.now
        return [f"{it.subject} {it.sentence}" for it in find_all(settings=loaded, now=now)]

    assert found() == []  # there was no time yet to set up cron
    clock.advance(901)
    assert found()[0].startswith("Maintenance has never run: ")
    api.post("/api/maintenance/run", {})
    clock.advance(900)
    assert found() == []
    clock.advance(120)
    assert found()[0].startswith("Maintenance last ran 17 min ago: ")


def test_little_space(tmp_path: Path, app: Any, clock: Clock, disk: Path) -> None:
    settings = load_settings({"instance_path": disk}, environ={})
    said = {it.subject: it.sentence for it in find_all(settings=settings, now=clock.now)}
    assert said["The disk of the database"] == "has 30 MB left."
    enough = load_settings({"instance_path": disk, "alert_rules": "disk_space=10"}, environ={})
    said = {it.subject: it.sentence for it in find_all(settings=enough, now=clock.now)}
    assert "The disk of the database" not in said


def test_a_disk_without_room_for_more_files(
    app: Any, loaded: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(loaded.instance_path)
    few = os.statvfs_result((*real[:5], 2_000, 300, 300, *real[8:10]))
    monkeypatch.setattr("taskmanager.files.space.os.statvfs", lambda _: few)
    [found] = [
        it for it in find_all(settings=loaded, now=clock.now) if it.rule.name == "disk_space"
    ]
    assert found.sentence == "has room for 300 more files."


def test_a_disk_that_does_not_answer_silences_no_other_rule(
    api: Api, loaded: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(_: object) -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr("taskmanager.files.space.os.statvfs", stale)
    clock.advance(901)
    found = find_all(settings=loaded, now=clock.now)
    assert [it.rule.name for it in found] == ["maintenance_silent"]


def test_a_database_that_has_grown(app: Any, loaded: Settings, clock: Clock) -> None:
    def found(rules: str) -> list[str]:
        settings = load_settings(
            {"instance_path": loaded.instance_path, "alert_rules": rules}, environ={}
        )
        return [it.rule.name for it in find_all(settings=settings, now=clock.now)]

    assert "database_size" not in found("")
    assert "database_size" in found("database_size=0.1")
    assert "database_size" not in found("database_size=4000")


def test_the_size_of_the_database_is_that_of_its_tables(app: Any) -> None:
    before = findings._database_bytes()
    assert before > 100_000
    if dialect() is SQLITE:
        execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert before == os.path.getsize(database.database)


def test_a_key_that_is_about_to_expire(api: Api, alerts: Alerts, clock: Clock) -> None:
    month = {"name": "shop", "role": "producer", "expires_at": iso(clock.now + 30 * DAY * 1000)}
    key = api.post("/api/admin/keys", month, 201)
    short = {**month, "name": "guest", "expires_at": iso(clock.now + 3 * DAY * 1000)}
    api.post("/api/admin/keys", short, 201)
    assert alerts() == {}  # somebody has just decided that it is to be short
    clock.advance(24 * DAY)
    assert alerts() == {"key_expiry": [f"shop ({key['prefix']}…) is a key that expires in 6 days."]}
    api.post(f"/api/admin/keys/{key['id']}/rotate", {}, 201)
    clock.advance(60)
    assert until_ended(alerts, clock, "key_expiry") == {}


def test_a_key_that_was_revoked_or_has_expired_is_no_news(
    api: Api, alerts: Alerts, clock: Clock
) -> None:
    month = {"role": "viewer", "expires_at": iso(clock.now + 30 * DAY * 1000)}
    gone = api.post("/api/admin/keys", {"name": "gone", **month}, 201)
    over = api.post("/api/admin/keys", {"name": "over", **month}, 201)
    api.delete(f"/api/admin/keys/{gone['id']}")
    clock.advance(24 * DAY)
    assert alerts()["key_expiry"] == [f"over ({over['prefix']}…) is a key that expires in 6 days."]
    clock.advance(7 * DAY)
    assert alerts() == {}


class TestWebhooks:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"webhooks_allow_http": "1", "webhooks_allow_networks": "127.0.0.0/8"}

    def test_a_webhook_that_fails_and_is_switched_off(
        self, api: Api, alerts: Alerts, clock: Clock
    ) -> None:
        nowhere = {"name": "billing", "url": "http://127.0.0.1:1/"}
        hook = api.post("/api/webhooks", nowhere, 201)
        api.register(notify="billing")
        api.create()
        api.complete(api.claim())
        assert alerts() == {}
        clock.advance(21_590)
        assert alerts() == {}
        clock.advance(60)
        failing = ["billing is a webhook whose deliveries have failed for 6 h."]
        assert alerts() == {"webhook_failing": failing}
        clock.advance(3 * DAY)
        alerts()
        clock.advance(301)
        off = "billing is a webhook that was switched off 5 min 1 s ago, after three days of "
        off += "failures."
        assert alerts() == {"webhook_off": [off]}
        api.patch(f"/api/webhooks/{hook['id']}", {"is_active": True})
        clock.advance(60)
        assert until_ended(alerts, clock, "webhook_off") == {}

    def test_a_webhook_that_somebody_switched_off_is_meant_to_be_off(
        self, api: Api, alerts: Alerts
    ) -> None:
        body = {"name": "billing", "url": "http://127.0.0.1:1/", "is_active": False}
        api.post("/api/webhooks", body, 201)
        assert alerts() == {}


class TestOff:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"alert_rules": "no_worker=off, oldest_pending=60"}

    def test_a_rule_that_is_off_finds_nothing_and_another_has_its_own_threshold(
        self, api: Api, alerts: Alerts, clock: Clock
    ) -> None:
        api.register()
        api.create()
        clock.advance(61)
        assert list(alerts()) == ["oldest_pending"]
        clock.advance(DAY)
        assert list(alerts()) == ["oldest_pending"]


def iso(milliseconds: int) -> str:
    return str(format_time(milliseconds))
