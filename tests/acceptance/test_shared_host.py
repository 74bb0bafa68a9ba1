"""What the owner of a cPanel account does, from the upload to the update, without a shell."""

import re
import time
from pathlib import Path

import pytest

from taskmanager.access.keys import BOOTSTRAP_KEY
from taskmanager.manifest import Difference, Fault, compare_with_manifest
from tests.acceptance.conftest import ADMIN_KEY
from tests.support.mariadb import MariaDB
from tests.support.releases import current
from tests.support.shared_host import LAYOUTS, Site


def test_the_whole_life_of_a_task_over_http(site: Site) -> None:
    schema = {"type": "object", "required": ["n"], "additionalProperties": False}
    schema["properties"] = {"n": {"type": "integer"}}
    register = {"name": "life.of.a.task", "version": "1", "param_schema": schema}
    assert site.call("POST", "/api/task-types/register", register).status == 201

    refused = site.call("POST", "/api/tasks", {"type": "life.of.a.task", "params": {"n": "one"}})
    assert (refused.status, refused.json["details"][0]["path"]) == (400, "params.n")
    created = site.call("POST", "/api/tasks", {"type": "life.of.a.task", "params": {"n": 1}})
    again = site.call("POST", "/api/tasks", {"type": "life.of.a.task", "params": {"n": 1}})
    task_id = created.data["id"]
    assert (created.status, again.status) == (201, 200)
    assert (again.data["id"], again.data["deduplicated"]) == (task_id, True)

    claim = {"worker_id": "worker-1", "type": "life.of.a.task"}
    claimed = site.call("POST", "/api/tasks/claim", claim)
    assert (claimed.status, claimed.data["id"]) == (200, task_id)
    held = {"worker_id": "worker-1", "claim_token": claimed.data["claim_token"]}
    progress = site.call("POST", f"/api/tasks/{task_id}/progress", {**held, "progress": 50})
    assert (progress.status, progress.data["progress"]) == (200, 50)
    done = {**held, "success": True, "result": {"word": "Ünïcode 💥"}}
    assert site.call("POST", f"/api/tasks/{task_id}/complete", done).status == 200

    task = site.call("GET", f"/api/tasks/{task_id}").data
    assert (task["status"], task["result"]) == ("completed", {"word": "Ünïcode 💥"})
    logs = site.call("GET", f"/api/tasks/{task_id}/logs").data["logs"]
    assert [log["event"] for log in logs] == ["created", "claimed", "completed"]
    stats = site.call("GET", "/api/stats").data
    assert stats["by_type"]["life.of.a.task"]["completed"] == 1
    nothing = site.call("POST", "/api/tasks/claim", claim)
    assert (nothing.status, nothing.json["code"]) == (404, "no_task_available")


def test_the_bootstrap_key_has_done_its_service(site: Site) -> None:
    # The processes that knew it may do so for a few seconds more.
    site.wait_for("GET", "/api/stats", 401, key=ADMIN_KEY)
    assert ADMIN_KEY not in (site.app_root / ".env").read_text()
    states = {
        key["name"]: key["revoked_at"] for key in site.call("GET", "/api/admin/keys").data["keys"]
    }
    assert states[BOOTSTRAP_KEY] is not None
    assert states["owner"] is None


def test_the_data_lies_where_only_the_owner_reads_it(site: Site) -> None:
    assert (site.app_root / "instance").stat().st_mode & 0o777 == 0o700
    files = {path.name for path in (site.app_root / "instance").iterdir()}
    assert ("taskmanager.db" in files) is not site.layout.uses_mysql
    assert (site.app_root / "instance").stat().st_uid == site.account.user.pw_uid


def start_delayed_task(site: Site) -> int:
    """A task that only maintenance, of one kind or the other, makes claimable."""
    body = {"name": "delayed", "version": "1", "param_schema": {"type": "object"}}
    site.call("POST", "/api/task-types/register", body)
    task = {"type": "delayed", "params": {}, "dedupe": "none", "delay_seconds": 1}
    created = site.call("POST", "/api/tasks", task)
    assert created.data["status"] == "scheduled"
    return int(created.data["id"])


def run_until_pending(site: Site, task_id: int, script: str) -> str:
    """Runs a line of cron again and again, as cron does; what it printed."""
    deadline = time.monotonic() + 60
    printed = ""
    while site.call("GET", f"/api/tasks/{task_id}").data["status"] != "pending":
        assert time.monotonic() < deadline
        done = site.account.shell(script)
        assert (done.returncode, done.stderr.replace("started: 1\n", "")) == (0, ""), script
        printed += done.stdout + done.stderr
    return printed


def test_a_line_of_cron_does_the_maintenance_with_nothing_but_the_requirements(site: Site) -> None:
    task_id = start_delayed_task(site)
    line = f"cd ~/{site.layout.app_root} && {site.python} -m taskmanager maintain"
    assert run_until_pending(site, task_id, line) == "started: 1\n"


def test_a_line_of_cron_that_can_only_fetch_an_address_does_it_too(site: Site) -> None:
    task_id = start_delayed_task(site)
    line = f"curl -fsS -X POST -H 'X-API-Key: {site.key}' {site.url}/api/maintenance/run"
    assert '"started":1' in run_until_pending(site, task_id, line)


@pytest.fixture(scope="session")
def next_version(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A release whose program differs from the one that was uploaded."""
    tree = tmp_path_factory.mktemp("next")
    current.git(tree, "clone", "--quiet", str(checkout), "tree")
    module = tree / "tree" / "taskmanager" / "__init__.py"
    changed = re.sub(r'"\d+\.\d+\.\d+"', '"99.0.0"', module.read_text(encoding="utf-8"))
    module.write_text(changed, encoding="utf-8")
    current.commit(tree / "tree")
    return current.released_files(Path(current.release(tree / "tree", tree / "out").stdout.strip()))


@pytest.mark.parametrize(
    "site", [layout for layout in LAYOUTS if layout.uses_mysql], indirect=True, ids=str
)
def test_the_processes_of_a_host_that_stops_say_goodbye_to_the_database(
    site: Site, mariadb_server: MariaDB
) -> None:
    before = mariadb_server.aborted_clients()
    with site.another_apache():
        assert site.call("GET", "/api/stats").status == 200
    assert mariadb_server.aborted_clients() == before


def test_an_update_is_an_upload_and_a_restart(site: Site, next_version: dict[str, bytes]) -> None:
    task_id = start_delayed_task(site)
    old = site.call("GET", "/api/health").data["version"]
    files = dict(next_version)
    if site.layout.is_inside:
        del files[".htaccess"]  # what docs/hosting.md says of apps inside the document root
    site.upload(files)
    assert site.call("GET", "/api/health").data["version"] == old != "99.0.0"

    site.restart()
    assert site.wait_for("GET", "/api/health", 200).data["version"] == "99.0.0"
    assert site.call("GET", f"/api/tasks/{task_id}").status == 200
    changed = [Difference(".htaccess", Fault.CHANGED)] if site.layout.is_inside else []
    assert compare_with_manifest(site.app_root) == changed
