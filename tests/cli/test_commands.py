"""The command line: what each command does, prints where, and exits with."""

import json
import re
from pathlib import Path

import pytest
from click.testing import Result

from taskmanager import __version__
from taskmanager.clock import format_time
from taskmanager.db.statements import execute
from taskmanager.files.locks import try_file_lock
from taskmanager.queue.maintenance_runs import last_runs
from tests.conftest import Api, Clock
from tests.support.commands import run_command


@pytest.fixture
def run(api: Api, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> "Run":
    """Runs commands on the same queue as `api`."""
    monkeypatch.setenv("TASKMANAGER_INSTANCE_PATH", str(tmp_path / "instance"))
    monkeypatch.setenv("TASKMANAGER_DATABASE_URL", database_url)
    return Run()


class Run:
    def __call__(self, *arguments: str, exit_code: int = 0) -> Result:
        result = run_command(*arguments)
        assert result.exit_code == exit_code, result.output
        assert "Traceback" not in result.output
        return result


def test_a_key_is_printed_alone_on_stdout_and_works(run: Run, api: Api) -> None:
    for role in ("admin", "producer", "worker", "viewer"):
        made = run("keys", "create", "--name", f"my {role}", "--role", role)
        key = made.stdout.strip()
        assert made.stdout == f"{key}\n"
        assert key not in made.stderr
        assert api.with_key(key).get("/api/tasks")["count"] == 0


def test_a_key_can_be_limited(run: Run, api: Api, clock: Clock) -> None:
    arguments = ["--name", "k", "--role", "worker", "--types", "a.%", "--types", "b"]
    made = run("keys", "create", *arguments, "--rate-limit", "0", "--expires", "2")
    limited = api.with_key(made.stdout.strip())
    row = api.get("/api/admin/keys")["keys"][-1]
    assert (row["task_types"], row["rate_limit"]) == (["a.%", "b"], "0")
    api.register("c")
    assert limited.get("/api/task-types")["count"] == 0
    clock.advance(2 * 86_400)
    assert "expired" in limited.get("/api/tasks", 401)["message"]
    assert "expired" in run("keys", "list").stdout


def test_a_key_has_the_scopes_that_are_named(run: Run, api: Api) -> None:
    made = run("keys", "create", "--name", "k", "--scopes", "tasks:read, task-types:register")
    assert "tasks:read, task-types:register" in made.stderr
    assert api.get("/api/admin/keys")["keys"][-1]["scopes"] == ["tasks:read", "task-types:register"]
    limited = api.with_key(made.stdout.strip())
    assert limited.register("a")["created"]
    limited.claim(status=403)


def test_a_registrar_is_made_for_its_types(run: Run, api: Api) -> None:
    arguments = ["--name", "k", "--role", "worker-registrar", "--types", "mine.%"]
    limited = api.with_key(run("keys", "create", *arguments).stdout.strip())
    assert limited.register("mine.a")["created"]


def test_keys_are_listed_but_never_shown(run: Run, api: Api) -> None:
    key = run("keys", "create", "--name", "ci", "--role", "viewer").stdout.strip()
    listed = run("keys", "list").stdout
    assert "ci" in listed
    assert key[:11] in listed
    assert key not in listed
    rows = json.loads(run("keys", "list", "--json").stdout)
    assert [row["name"] for row in rows] == ["admin", "ci"]
    assert key not in str(rows)


def test_the_list_of_keys_says_what_each_is_limited_to(run: Run, clock: Clock) -> None:
    arguments = ["--name", "k", "--role", "worker", "--types", "a.%", "--types", "b"]
    run("keys", "create", *arguments, "--rate-limit", "7/second", "--expires", "2")
    headings, unlimited, limited = run("keys", "list").stdout.splitlines()
    for heading in ("id", "state", "key", "name", "last used", "expires", "rate limit", "types"):
        assert heading in headings
    expires = format_time(clock.now + 2 * 86_400_000)
    assert expires is not None
    for value in ("active", "k", expires[:19], "7/second", "a.% b", "tasks:claim"):
        assert f"  {value}" in limited
    for value in ("admin", "never", "default", "all"):
        assert f"  {value}" in unlimited


def test_a_key_is_revoked_and_then_refused(run: Run, api: Api) -> None:
    key = run("keys", "create", "--name", "ci", "--role", "viewer").stdout.strip()
    key_id = str(api.get("/api/admin/keys")["keys"][-1]["id"])
    assert "ci" in run("keys", "revoke", key_id).stderr
    assert "revoked" in api.with_key(key).get("/api/tasks", 401)["message"]
    assert "revoked" in run("keys", "list").stdout
    assert run("keys", "revoke", key_id).exit_code == 0
    missing = run("keys", "revoke", "7000000", exit_code=1)
    assert "taskmanager: There is no key with id 7000000." in missing.stderr


def test_a_list_without_keys_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKMANAGER_INSTANCE_PATH", str(tmp_path))
    monkeypatch.setenv("TASKMANAGER_DATABASE_URL", "")
    listed = Run()("keys", "list")
    assert listed.stdout == ""
    assert "taskmanager keys create" in listed.stderr
    assert json.loads(Run()("keys", "list", "--json").stdout) == []


@pytest.mark.parametrize(
    "arguments",
    [
        *(["no-such-command"], ["keys", "create"], ["keys", "create", "--name", "x"]),
        ["keys", "create", "--name", "x", "--role", "root"],
        ["keys", "create", "--name", "x", "--role", "viewer", "--scopes", "tasks:read"],
        ["keys", "create", "--name", "x", "--role", "viewer", "--expires", "0"],
        ["keys", "create", "--name", "x", "--role", "viewer", "--rate-limit", "many"],
        *(["keys", "revoke"], ["keys", "revoke", "x"], ["keys", "revoke", "0"]),
        *(["serve", "--port", "0"], ["serve", "--workers", "x"], ["stats", "--xml"]),
        ["demo", "/no/such/folder"],
    ],
)
def test_wrong_usage_exits_with_2_and_says_so_on_stderr(run: Run, arguments: list[str]) -> None:
    wrong = run(*arguments, exit_code=2)
    assert wrong.stdout == ""
    assert "Error" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--name", "x" * 256, "--role", "viewer"], "1 to 255 printable characters"),
        (["--name", "", "--role", "viewer"], "1 to 255 printable characters"),
        (["--name", "k", "--role", "viewer", "--types", "a b"], "no pattern of task types"),
        (["--name", "k", "--role", "worker-registrar"], "--types"),
        (["--name", "k", "--scopes", "tasks:red"], "No such scope: 'tasks:red'"),
        (["--name", "k", "--scopes", ","], "at least one scope"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(
    run: Run, api: Api, arguments: list[str], complaint: str
) -> None:
    refused = run("keys", "create", *arguments, exit_code=1)
    assert complaint in refused.stderr
    assert api.get("/api/admin/keys")["count"] == 1


def test_init_db_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKMANAGER_INSTANCE_PATH", str(tmp_path / "new"))
    monkeypatch.setenv("TASKMANAGER_DATABASE_URL", "")
    assert "have been created" in Run()("init-db").stderr
    assert "up to date" in Run()("init-db").stderr
    assert (tmp_path / "new" / "taskmanager.db").exists()


def test_migrate_names_the_types_whose_schema_can_no_longer_be_used(run: Run, api: Api) -> None:
    api.register("old")
    assert "refused" not in run("migrate").stderr
    execute("UPDATE task_type_versions SET param_schema = ?", ('{"pattern": "("}',))
    assert "New tasks of type 'old' (version 1) are refused" in run("migrate").stderr
    refused = api.post("/api/tasks", {"type": "old", "params": {}}, 400)
    assert refused["details"][0]["message"].startswith("cannot be checked: param_schema.pattern")


def test_stats_are_shown_to_people_and_to_scripts(run: Run, api: Api) -> None:
    api.register("job")
    api.create()
    api.complete(api.claim())
    api.create()
    shown = run("stats").stdout
    assert "pending               1" in shown
    assert "job: 1 pending, 1 completed" in shown
    assert "last minute: 1 completed, 0 failed, 0 cancelled" in shown
    figures = json.loads(run("stats", "--json").stdout)
    assert figures == api.get("/api/stats") | {
        "oldest_pending_seconds": figures["oldest_pending_seconds"],
        "counted_at": figures["counted_at"],
    }
    assert re.search(r"^counted at \d{4}-\d\d-\d\dT[\d:.]+Z$", shown, re.MULTILINE)


def test_maintenance_by_command_says_only_what_it_did(
    run: Run, api: Api, clock: Clock, tmp_path: Path
) -> None:
    api.register()
    for command in ("requeue-stale", "prune", "maintain"):
        silent = run(command)
        assert (silent.stdout, silent.stderr) == ("", "")
    api.create()
    api.claim(lease_seconds=10)
    api.create(delay_seconds=20)
    clock.advance(30)
    with try_file_lock(tmp_path / "instance" / "maintenance.lock"):
        assert run("maintain").stderr == ""  # another run is under way
    assert run("requeue-stale").stderr == "requeued: 1\nstarted: 1\n"
    for _ in range(2):
        api.complete(api.claim())
    clock.advance(31 * 86_400)
    assert run("prune").stderr == "pruned: 2\n"
    assert run("maintain").stderr == ""
    assert api.get("/api/tasks")["count"] == 0


def test_every_run_by_command_is_noted_but_not_one_that_gave_way(
    run: Run, clock: Clock, tmp_path: Path
) -> None:
    with try_file_lock(tmp_path / "instance" / "maintenance.lock"):
        run("maintain")
    assert last_runs() == {}
    for command in ("maintain", "requeue-stale", "prune"):
        clock.advance(60)
        run(command)
        assert {road: noted.last_run_at for road, noted in last_runs().items()} == {
            "command": clock.now
        }


def test_the_maintenance_url_does_the_same(api: Api, clock: Clock) -> None:
    api.register()
    api.create()
    api.claim(lease_seconds=10)
    api.create(delay_seconds=20)
    clock.advance(30)
    done = api.post("/api/maintenance/run")
    assert (done["requeued"], done["started"], done["pruned"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("TASKMANAGER_LEASE_SECOND", "5", "Did you mean TASKMANAGER_LEASE_SECONDS?"),
        ("TASKMANAGER_LEASE_SECONDS", "soon", "a whole number from 1 to 86400"),
        ("TASKMANAGER_DATABASE_URL", "mysql://host", "mysql://user:password@host:3306/name"),
    ],
)
@pytest.mark.parametrize("command", [["stats"], ["init-db"], ["keys", "list"], ["serve"]])
def test_bad_settings_end_every_command_with_one_sentence(
    command: list[str],
    name: str,
    value: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TASKMANAGER_INSTANCE_PATH", str(tmp_path))
    monkeypatch.setenv(name, value)
    failed = Run()(*command, exit_code=1)
    assert failed.stderr.startswith("taskmanager: ")
    assert sentence in failed.stderr
    assert failed.stdout == ""


@pytest.mark.parametrize("command", [["stats"], ["init-db"], ["keys", "list"], ["maintain"]])
def test_a_database_that_cannot_be_opened_ends_a_command_with_one_sentence(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TASKMANAGER_INSTANCE_PATH", str(tmp_path))
    monkeypatch.setenv("TASKMANAGER_DATABASE_URL", "sqlite:////dev/null/x.db")
    failed = Run()(*command, exit_code=1)
    assert failed.stderr.startswith("taskmanager: The database file cannot be opened.")
    assert failed.stdout == ""


def test_the_version_and_help_are_there() -> None:
    assert __version__ in Run()("--version").stdout
    shown = Run()("-h").stdout
    for command in ("serve", "init-db", "keys", "stats", "maintain", "demo"):
        assert command in shown
