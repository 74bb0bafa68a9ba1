"""docs/hosting.md: its commands on a shared host, and its configurations in the real servers."""

import configparser
import gzip
import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping

import pytest

from tests.acceptance.conftest import ADMIN_KEY, DATABASE_PASSWORD
from tests.conftest import require
from tests.support import apache
from tests.support.accounts import Account
from tests.support.mariadb import MariaDB
from tests.support.ports import free_port
from tests.support.releases.current import ROOT
from tests.support.shared_host import LAYOUTS, Site

PAGE = (ROOT / "docs" / "hosting.md").read_text(encoding="utf-8")
recommended = pytest.mark.parametrize("site", LAYOUTS[:1], indirect=True, ids=str)


def blocks(language: str) -> list[str]:
    """The blocks in this language; those in a list are indented."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def block_with(language: str, words: str) -> str:
    (found,) = [block for block in blocks(language) if words in block]
    return found


def run(site: Site, block: str, **variables: str) -> str:
    """What the block prints in the account's shell, where nothing went wrong."""
    known = {"URL": site.url, "KEY": site.key, **variables}
    done = site.account.run(
        *("bash", "-euo", "pipefail", "-c", block), env={**site.account.environment, **known}
    )
    assert done.returncode == 0, (block, done.stdout, done.stderr)
    return done.stdout


def test_every_command_of_the_page_is_run_by_a_test() -> None:
    words = ["-d '{", "-X DELETE", " maintain", "maintenance/run", "activate", "http_code"]
    words += ["doctor", "export", "sqlite3", "mysqldump"]
    assert sorted(block_with("sh", word) for word in words) == sorted(blocks("sh"))


@recommended
def test_the_keys_are_made_and_revoked_as_the_page_says(site: Site) -> None:
    made = json.loads(run(site, block_with("sh", "-d '{")))["data"]
    gone = json.loads(run(site, block_with("sh", "-X DELETE"), KEY=made["key"]))["data"]
    assert gone["revoked_at"] is not None
    assert site.call("GET", "/api/stats", key=made["key"]).status == 200
    site.wait_for("GET", "/api/stats", 401, key=ADMIN_KEY)


@recommended
def test_both_lines_for_cron_say_nothing(site: Site) -> None:
    assert run(site, block_with("sh", " maintain")) == ""
    assert run(site, block_with("sh", "maintenance/run")) == ""


@recommended
def test_the_way_with_a_shell_makes_a_key_that_is_valid(site: Site) -> None:
    key = run(site, block_with("sh", "activate")).strip()
    assert site.call("GET", "/api/stats", key=key).status == 200
    assert (site.app_root / ".env").stat().st_mode & 0o777 == 0o600


@recommended
def test_asking_for_the_settings_prints_404(site: Site) -> None:
    assert run(site, block_with("sh", "http_code")) == "404\n"


@recommended
def test_the_doctor_finds_nothing_wrong_with_such_a_host(site: Site) -> None:
    run(site, block_with("sh", "activate"))
    told = run(site, block_with("sh", "doctor"))
    assert "fetched" in told  # what a problem would end with is status 1


@recommended
def test_backups_hold_the_queue(site: Site) -> None:
    backups = site.account.home / "backups"
    run(site, block_with("sh", "export"))
    assert backups.stat().st_mode & 0o777 == 0o700
    with gzip.open(backups / "queue.jsonl.gz", "rt", encoding="utf-8") as lines:
        assert any('"owner"' in line for line in lines)
    assert run(site, block_with("sh", "sqlite3")) == "ok\n"
    copy = sqlite3.connect(f"file:{backups}/taskmanager.db?mode=ro&immutable=1", uri=True)
    assert copy.execute("SELECT count(*) FROM api_keys WHERE name = 'owner'").fetchone() == (1,)
    copy.close()


@pytest.mark.parametrize("site", LAYOUTS[1:2], indirect=True, ids=str)
def test_a_dump_holds_the_queue(site: Site, mariadb_server: MariaDB) -> None:
    account = site.account
    name = "account_1"
    login = f"user={name}\npassword='{DATABASE_PASSWORD}'\nhost=127.0.0.1\n"
    account.write(account.home / ".my.cnf", f"[client]\n{login}port={mariadb_server.port}\n")
    account.write(account.home / "backups" / "made-before", "")
    run(site, block_with("sh", "mysqldump"), NAME=name)
    with gzip.open(account.home / "backups" / "queue.sql.gz", "rt", encoding="utf-8") as dump:
        assert "'owner'" in dump.read()


def configuration(language: str, account: Account, changes: Mapping[str, str]) -> str:
    """The page's one block in this language, for this account; each change must apply."""
    (text,) = blocks(language)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text.replace("/home/me", str(account.home))


@recommended
def test_apache_with_mod_wsgi_serves_it_and_passes_bearer_tokens_on(site: Site) -> None:
    require("mod_wsgi", apache.is_installed("wsgi"))
    more = configuration("apache", site.account, {"user=me": f"user={site.account.user.pw_name}"})
    empty = site.account.home / "empty" / "index.html"
    site.account.write(empty, "")
    with site.another_apache(
        empty.parent, modules=["wsgi"], without=["passenger"], more=more
    ) as server:
        reply = site.request("GET", "/api/stats", headers={"Authorization": f"Bearer {site.key}"})
        assert reply.status == 200, server.log()
        for path in ("/.env", "/schema.sql", "/taskmanager/app.py", "/passenger_wsgi.py"):
            assert site.request("GET", path).json["code"] == "not_found"
        body = {"name": "schema.sql", "version": "1", "param_schema": {"type": "object"}}
        assert site.call("POST", "/api/task-types/register", body).status in (200, 201)
        assert site.call("GET", "/api/task-types/schema.sql").status == 200
        # What the page says of restarting: settings count from then on.
        site.settings["TASKMANAGER_MAX_BODY_BYTES"] = "1024"
        site.write_settings()
        large = {**body, "param_schema": {"type": "object", "description": "x" * 2000}}
        # A process that is still starting takes the new time of the file for its own: once more.
        deadline = time.monotonic() + 60
        while site.call("POST", "/api/task-types/register", large).status != 413:
            assert time.monotonic() < deadline
            (site.app_root / "passenger_wsgi.py").touch()
        del site.settings["TASKMANAGER_MAX_BODY_BYTES"]
        site.write_settings()


@pytest.fixture
def behind_nginx(site: Site) -> Iterator[Site]:
    """The site served by the unit's command and nginx before it."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    require("nginx", nginx is not None)
    account, port, inner = site.account, free_port(), free_port()
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(configuration("ini", account, {"--port 8000": f"--port {inner}"}))
    server = configuration("nginx", account, {"80;": f"{port};", ":8000": f":{inner}"})
    folder = account.folder / "nginx"
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    account.write(
        folder / "nginx.conf",
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{server}}}\n",
    )
    site.settings["TASKMANAGER_TRUSTED_PROXIES"] = "1"
    site.write_settings()
    commands = [
        shlex.split(unit["Service"]["ExecStart"]),
        [str(nginx), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"],
    ]
    options = {**account.as_user, "cwd": unit["Service"]["WorkingDirectory"]}
    started = []
    try:
        with (account.folder / "nginx-output").open("wb") as output:
            for command in commands:
                started.append(subprocess.Popen(command, **options, stdout=output, stderr=output))
        with site.through(port):
            yield site
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)
        del site.settings["TASKMANAGER_TRUSTED_PROXIES"]
        site.write_settings()


@recommended
def test_nginx_and_the_unit_serve_it(behind_nginx: Site) -> None:
    site = behind_nginx
    deadline = time.monotonic() + 60
    while True:
        try:
            if site.call("GET", "/api/health").status == 200:
                break
        except OSError:
            pass
        assert time.monotonic() < deadline, (site.account.folder / "nginx-output").read_text()
        time.sleep(0.05)
    assert site.call("GET", "/api/stats").status == 200
    too_large = site.call("POST", "/api/tasks", {"type": "x", "params": {"x": "x" * 2_000_000}})
    assert (too_large.status, too_large.json["code"]) == (413, "body_too_large")
    # Of the caller's address nginx is believed, and not the caller.
    said = {"X-Forwarded-For": "203.0.113.7", "X-API-Key": "wrong", "X-Request-ID": "by-nginx"}
    assert site.request("GET", "/api/stats", headers=said, caller="127.0.0.2").status == 401
    events = site.call("GET", "/api/admin/audit?limit=100").data["events"]
    (event,) = [event for event in events if event["request_id"] == "by-nginx"]
    assert event["address"] == "127.0.0.2"
