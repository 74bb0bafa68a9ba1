"""Who is told, and how often: once when it begins, once when it ends, and never a flood."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskmanager.alerts import state, watch
from taskmanager.alerts.channels import CHANNELS, configured
from taskmanager.config import Settings
from taskmanager.db.connection import database
from taskmanager.db.statements import execute, fetch_all, fetch_value
from taskmanager.db.transactions import write_transaction
from tests.alerts.conftest import LOOPBACK, Mailbox, Receiver
from tests.conftest import Api, Clock
from tests.support.commands import run_command

DAY = 86_400
BEGAN, ENDED = ("no_worker", False), ("no_worker", True)


@pytest.fixture
def settings(receiver: Receiver) -> dict[str, Any]:
    return {
        "alert_webhook": receiver.url,
        "webhooks_allow_http": "1",
        "webhooks_allow_networks": LOOPBACK,
        "alert_rules": "oldest_pending=off, disk_space=off, maintenance_silent=off",
    }


class Watched:
    """The queue, looked at once a minute; `begin` and `end` are about one alert."""

    def __init__(self, api: Api, clock: Clock, settings: Settings) -> None:
        self.api, self.clock, self.settings = api, clock, settings
        api.register()

    def run(self, minutes: int = 1) -> None:
        for _ in range(minutes):
            self.clock.advance(60)
            watch.run(self.settings)

    def begin(self) -> None:
        self.api.create()
        self.clock.advance(1_000)
        self.run()

    def end(self) -> None:
        self.api.complete(self.api.claim())
        self.run(7)


@pytest.fixture
def watched(api: Api, clock: Clock, loaded: Settings) -> Watched:
    return Watched(api, clock, loaded)


def test_one_message_when_it_begins_and_one_when_it_ends(
    watched: Watched, receiver: Receiver
) -> None:
    watched.run(3)
    assert receiver.received == []
    watched.begin()
    watched.run(20)
    assert receiver.told() == [[BEGAN]]
    watched.end()
    watched.run(20)
    assert receiver.told() == [[BEGAN], [ENDED]]
    began, ended = receiver.received
    assert "job has tasks waiting, the oldest for" in began["text"]
    assert "Start a worker for this type" in began["text"]
    assert ended["text"].startswith("[TaskManager] Ended: job has tasks waiting")
    alert = began["alerts"][0]
    assert (alert["subject"], alert["ended_at"]) == ("job", None)
    assert watched.api.get("/api/alerts")["channels"] == [
        {
            "name": "webhook",
            "last_sent_at": watched.api.get("/api/alerts")["channels"][0]["last_sent_at"],
            "error": None,
        }
    ]


def test_several_alerts_are_one_message(watched: Watched, receiver: Receiver) -> None:
    watched.api.register("second")
    watched.api.create("second")
    watched.begin()
    assert receiver.told() == [[BEGAN, BEGAN]]
    assert receiver.received[0]["text"].startswith("[TaskManager] Alerts: 2 began\n")


def test_what_is_away_for_a_moment_is_one_alert(watched: Watched, receiver: Receiver) -> None:
    watched.begin()
    for _ in range(5):
        watched.api.patch("/api/task-types/job", {"is_paused": True})
        watched.run(3)
        watched.api.patch("/api/task-types/job", {"is_paused": False})
        watched.run(3)
    assert receiver.told() == [[BEGAN]]


@pytest.mark.slow
def test_what_comes_and_goes_all_day_is_no_flood(watched: Watched, receiver: Receiver) -> None:
    """The first six messages are sent as it happens, and then one an hour has all that is new."""
    watched.api.create()
    watched.clock.advance(1_000)
    for _ in range(DAY // 60 // 14):
        watched.run(7)
        is_paused = not watched.api.get("/api/task-types/job")["is_paused"]
        watched.api.patch("/api/task-types/job", {"is_paused": is_paused})
        watched.run(7)
    assert fetch_value("SELECT COUNT(*) FROM {alerts}") > 40
    assert state.AT_ONCE + 20 <= len(receiver.received) <= state.AT_ONCE + 24
    assert max(map(len, receiver.told())) > 1
    before = len(receiver.received)
    watched.clock.advance(DAY)
    watched.run(7)
    assert len(receiver.received) > before  # another day


def test_many_alerts_are_shown_in_part(watched: Watched, receiver: Receiver) -> None:
    for number in range(60):
        watched.api.register(f"type.{number:02}")
        watched.api.create(f"type.{number:02}")
    watched.begin()
    [message] = receiver.received
    assert len(message["alerts"]) == 61
    assert message["text"].count("has tasks waiting") == 50
    assert "and 11 more." in message["text"]


@pytest.mark.slow
def test_a_receiver_that_was_down_is_told_when_it_is_back(
    watched: Watched, receiver: Receiver
) -> None:
    receiver.answer = 500
    watched.begin()
    [channel] = watched.api.get("/api/alerts")["channels"]
    assert channel["error"] == "The receiver answered 500."
    tried = len(receiver.received)
    watched.run()
    assert len(receiver.received) == tried + 1  # by the very next run
    watched.run(120)
    assert len(receiver.received) < tried + 20  # and then less and less often
    watched.end()  # all of it while nobody heard
    receiver.answer = 200
    receiver.received.clear()
    watched.run(20)
    assert receiver.told() == [[ENDED]]
    assert watched.api.get("/api/alerts")["channels"][0]["error"] is None
    watched.run(20)
    assert receiver.told() == [[ENDED]]


def test_an_end_is_told_however_late_and_what_nobody_heard_of_only_for_a_day(
    watched: Watched, receiver: Receiver
) -> None:
    watched.begin()
    assert receiver.told() == [[BEGAN]]
    receiver.answer = 500
    watched.end()
    watched.api.register("second")
    watched.api.create("second")
    watched.clock.advance(1_000)
    watched.run()
    watched.api.complete(watched.api.claim())
    watched.run(7)
    watched.clock.advance(2 * DAY)
    receiver.answer = 200
    receiver.received.clear()
    watched.run(2)
    assert receiver.told() == [[ENDED]]
    assert receiver.received[0]["alerts"][0]["subject"] == "job"


class TestBothChannels:
    @pytest.fixture
    def settings(self, settings: dict[str, Any], mailbox: Mailbox) -> dict[str, Any]:
        return {**settings, "alert_email": "me@example.org", "smtp_url": mailbox.url()}

    def test_each_channel_is_told_by_itself(
        self, watched: Watched, receiver: Receiver, mailbox: Mailbox
    ) -> None:
        mailbox.stop()
        watched.begin()
        watched.run(3)
        assert receiver.told() == [[BEGAN]]
        error = watched.api.get("/api/alerts")["channels"][0]["error"]
        assert error.endswith("Nothing takes the connection there. Is the port right?")
        mailbox.start(mailbox.port)
        watched.run(5)
        assert receiver.told() == [[BEGAN]]
        [mail] = mailbox.mails
        assert mail["Subject"].startswith("[TaskManager] job has tasks waiting")

    def test_one_run_does_not_work_longer_than_its_budget(
        self, watched: Watched, loaded: Settings, mailbox: Mailbox, receiver: Receiver
    ) -> None:
        watched.api.create()
        watched.clock.advance(1_000)
        assert watch.run(loaded, budget_seconds=0.5) == 0  # too little for anything to be sent
        assert (mailbox.mails, receiver.received) == ([], [])
        watched.clock.advance(60)
        assert watch.run(loaded) == 2


def test_without_a_channel_nothing_is_sent_and_all_is_noted(
    watched: Watched, receiver: Receiver, loaded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(loaded.__dict__, "alert_webhook", "")
        watched.begin()
    [alert] = watched.api.get("/api/alerts")["alerts"]
    assert (alert["rule"], alert["notified_at"]) == ("no_worker", None)
    watched.run()
    assert receiver.told() == [[BEGAN]]  # whoever is named later hears what is open


def test_the_rules_are_looked_at_once_a_minute(
    watched: Watched, loaded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(watch, "find_all", lambda *, settings, now: looks.append(now) or [])
    for _ in range(120):
        watched.clock.advance(1)
        watch.run(loaded)
    assert len(looks) in (2, 3)


def test_a_clock_that_was_set_back_stops_nothing(
    watched: Watched, receiver: Receiver, clock: Clock
) -> None:
    clock.advance(10 * DAY)
    watched.begin()
    watched.end()
    for _ in range(6):
        watched.begin()
        watched.end()
    watched.begin()  # and is over when the clock is right
    watched.api.complete(watched.api.claim())
    clock.advance(-10 * DAY)
    receiver.received.clear()
    watched.run(2)
    assert fetch_value("SELECT COUNT(*) FROM {alerts} WHERE is_open = 1") == 0
    watched.api.post("/api/maintenance/run", {})
    watched.begin()
    assert BEGAN in receiver.told()[-1]


def test_nothing_is_written_where_nothing_is_wrong(
    watched: Watched, loaded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.run()
    watched.clock.advance(60)
    written: list[str] = []
    begun: list[str] = []
    own, begin = database.obj.execute_sql, database.obj.begin

    def watch_sql(sql: str, *values: Any, **options: Any) -> Any:
        if sql.startswith(("INSERT", "UPDATE", "DELETE")):
            written.append(sql)
        return own(sql, *values, **options)

    monkeypatch.setattr(database.obj, "execute_sql", watch_sql)
    monkeypatch.setattr(database.obj, "begin", lambda *it: begun.append("begin") or begin(*it))
    watch.run(loaded)
    assert len(begun) == 1
    assert [statement.split()[1].strip('"`') for statement in written] == ["maintenance_runs"]


def test_only_one_process_looks_and_sends(watched: Watched, loaded: Settings) -> None:
    now = watched.clock.now
    assert [state.begin_look(now=now) for _ in range(2)] == [True, False]
    assert [state.begin_look(now=now + 60_000) for _ in range(2)] == [True, False]
    assert [state.claim("webhook", now=now) for _ in range(2)] == [True, False]
    assert state.claim("email", now=now)
    state.release("webhook", now=now)
    assert state.claim("webhook", now=now)
    assert not state.claim("webhook", now=now + state.LEASE_MS - 1)
    assert state.claim("webhook", now=now + state.LEASE_MS)


def test_old_alerts_are_pruned_and_open_ones_are_not(watched: Watched) -> None:
    watched.begin()
    watched.end()
    watched.begin()
    watched.clock.advance(29 * DAY)
    watched.run()
    assert fetch_value("SELECT COUNT(*) FROM {alerts}") == 2
    watched.clock.advance(2 * DAY)
    watched.run()
    assert fetch_all("SELECT is_open FROM {alerts}") == [{"is_open": 1}]


def environment_of(settings: dict[str, Any], database_url: str, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        **{f"TASKMANAGER_{name.upper()}": value for name, value in settings.items()},
        "TASKMANAGER_DATABASE_URL": database_url,
        "TASKMANAGER_INSTANCE_PATH": str(folder / "instance"),
    }


KILLED = """
import os, signal, sys
from taskmanager.alerts import channels, state, watch
from taskmanager.bootstrap import open_database
from taskmanager.clock import utc_now
from taskmanager.config import load_settings

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "before":
    channels.post = die
elif sys.argv[1] == "after":  # the receiver has it, and nobody knows
    state.record_sent = die
else:  # it is noted, and nobody was told
    watch._tell = die
settings = load_settings()
open_database(settings)
watch.run(settings)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "messages"), [("noted", 1), ("before", 1), ("after", 2)])
def test_a_killed_process_costs_a_minute_and_no_message(
    watched: Watched,
    receiver: Receiver,
    settings: dict[str, Any],
    database_url: str,
    tmp_path: Path,
    moment: str,
    messages: int,
) -> None:
    watched.api.create()
    write_transaction(execute)("UPDATE {tasks} SET available_at = available_at - 1000000")
    environment = environment_of(settings, database_url, tmp_path)
    command = [sys.executable, "-c", KILLED, moment]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert fetch_value("SELECT COUNT(*) FROM {alerts} WHERE posted = 0") == 1
    watched.run(2)
    assert receiver.told() == [[BEGAN]] * messages


@pytest.mark.slow
def test_processes_at_once_send_each_message_once(
    watched: Watched,
    receiver: Receiver,
    settings: dict[str, Any],
    database_url: str,
    tmp_path: Path,
) -> None:
    watched.api.create()
    write_transaction(execute)("UPDATE {tasks} SET available_at = available_at - 1000000")
    environment = environment_of(settings, database_url, tmp_path)
    script = KILLED.partition("if sys.argv")[0] + "settings = load_settings()\n"
    script += "open_database(settings)\nfor _ in range(30):\n    watch.run(settings)\n"
    running = [subprocess.Popen([sys.executable, "-c", script], env=environment) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    assert receiver.told() == [[BEGAN]]
    assert fetch_value("SELECT COUNT(*) FROM {alerts}") == 1


def test_maintenance_over_http_tells(watched: Watched, receiver: Receiver) -> None:
    watched.api.create()
    watched.clock.advance(1_000)
    watched.api.post("/api/maintenance/run", {})
    assert receiver.told() == [[BEGAN]]


def test_the_command_for_cron_tells_too(
    watched: Watched,
    receiver: Receiver,
    settings: dict[str, Any],
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment_of(settings, database_url, tmp_path).items():
        monkeypatch.setenv(name, value)
    watched.api.create()
    watched.clock.advance(1_000)
    done = run_command("maintain")
    assert (done.exit_code, done.stderr) == (0, "alert messages: 1\n")
    assert receiver.told() == [[BEGAN]]


Run = Callable[..., Any]


@pytest.fixture
def command(
    settings: dict[str, Any],
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    for name, value in environment_of(settings, database_url, tmp_path).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, exit_code: int = 0) -> Any:
        done = run_command("alerts", *arguments)
        assert done.exit_code == exit_code, done.output
        return done

    return run


def test_the_list_says_what_is_wrong_now(watched: Watched, command: Run) -> None:
    assert "never looked at" in command("list").stderr
    watched.begin()
    shown = command("list")
    assert "no_worker" in shown.stdout
    assert "job has tasks waiting, the oldest for" in shown.stdout
    assert "last looked at" in shown.stderr
    watched.end()
    assert "no_worker" not in command("list").stdout
    listed = json.loads(command("list", "--json").stdout)
    assert [one["rule"] for one in listed["alerts"]] == ["no_worker"]


def test_the_list_says_that_nobody_can_be_told(
    watched: Watched, command: Run, receiver: Receiver
) -> None:
    receiver.answer = 410
    watched.begin()
    assert "cannot be sent by webhook: The receiver answered 410." in command("list").stderr


def test_a_test_says_what_was_answered(
    command: Run, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("test").stdout == "webhook: sent. The server answered 200\n"
    assert [message["type"] for message in receiver.received] == ["test"]
    receiver.answer = 404
    refused = command("test", exit_code=1)
    assert refused.stderr == "webhook: not sent. The receiver answered 404.\n"
    monkeypatch.setenv("TASKMANAGER_WEBHOOKS_ALLOW_NETWORKS", "")
    assert "127.0.0.1, which is not public" in command("test", exit_code=1).stderr
    monkeypatch.setenv("TASKMANAGER_ALERT_WEBHOOK", "")
    assert "TASKMANAGER_ALERT_EMAIL or" in command("test", exit_code=1).stderr


def test_the_address_is_shown_nowhere(
    watched: Watched, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have a token of a chat in it."""
    receiver.answer = 500
    watched.begin()
    assert "alerts cannot be sent by webhook" in caplog.text
    assert "secret-path" not in caplog.text
    assert "secret-path" not in json.dumps(watched.api.get("/api/alerts"))


def test_a_channel_is_configured_by_a_setting_of_its_name(loaded: Settings) -> None:
    assert [channel.name for channel in configured(loaded)] == ["webhook"]
    assert [channel.name for channel in CHANNELS] == ["email", "webhook"]
