"""What the pages say: of an empty queue, of one at work, and of texts that somebody made up."""

import contextlib
import logging
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pymysql
import pytest
from flask import Flask

from taskmanager.access import keys
from taskmanager.config import HOLDING_SECRETS, load_settings, setting_names
from taskmanager.dashboard.application import create_pages
from taskmanager.db.connection import database
from tests.conftest import Api, Clock
from tests.dashboard.conftest import Person, key_with, text_of

SignIn = Callable[..., Person]
SCRIPT = "<script>alert(1)</script>"
EVIL = f"\"'></pre></title>{SCRIPT}{{{{7*7}}}}&amp;"


def test_the_first_visit_says_what_to_do_with_the_very_commands(person: SignIn) -> None:
    answer = person().get("/dashboard")
    page = text_of(answer)
    for part in ("/api/task-types/register", "/api/tasks -H", "taskmanager worker --url"):
        assert part in page
    assert "http://localhost/api/tasks" in page


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "No type has a task yet"),
        ("/tasks", "There are no tasks yet"),
        ("/tasks?status=failed", "No task matches"),
        ("/errors", "No task has failed"),
        ("/batches", "There is no batch yet"),
        ("/batches?cursor=5", "There are no older batches"),
        ("/schedules", "Nothing recurs yet"),
        ("/workers", "No worker has been seen"),
    ],
)
def test_an_empty_page_says_what_to_do(api: Api, person: SignIn, path: str, said: str) -> None:
    api.register()
    assert said in person().page(f"/dashboard{path}")


def test_the_overview_says_what_needs_somebody(api: Api, person: SignIn, clock: Clock) -> None:
    api.register("forgotten")
    api.register("failing")
    api.register("halted")
    api.create("forgotten")
    api.create("halted")
    api.patch("/api/task-types/halted", {"is_paused": True})
    clock.advance(1_200)
    for _ in range(6):
        api.create("failing")
        api.complete(api.claim(type="failing"), success=False, is_retryable=False)
    assert "Maintenance has never run" in person().page("/dashboard")
    clock.advance(60)
    api.post("/api/maintenance/run")
    page = person().page("/dashboard")
    assert "forgotten has tasks waiting, the oldest for 21 min, and nobody works on it." in page
    assert "halted is paused and has 1 task waiting." in page
    assert "failing has 6 failures among 6 tasks that ended in the last hour." in page
    assert "Maintenance" not in page
    limited = person(["tasks:read"], task_types=["forgotten"]).page("/dashboard")
    assert "forgotten has tasks waiting" in limited
    assert "failing" not in limited


def test_alerts_show_what_is_open_what_has_ended_and_the_rules(
    api: Api, person: SignIn, clock: Clock
) -> None:
    page = person().page("/dashboard/alerts")
    assert "The rules were never looked at" in page
    assert "Alerts are sent nowhere" in page
    api.register()
    api.create()
    clock.advance(1_200)
    api.post("/api/maintenance/run")
    page = person().page("/dashboard/alerts")
    assert "Open job has tasks waiting, the oldest for 20 min, and nobody works on it." in page
    assert "To do: Start a worker for this type" in page
    assert "no_worker a type with waiting tasks that no worker takes 900 seconds" in page
    api.complete(api.claim())
    for _ in range(7):
        clock.advance(60)
        api.post("/api/maintenance/run")
    page = person().page("/dashboard/alerts")
    assert "Nothing is wrong." in page
    assert "Ended job has tasks waiting, the oldest for" in page


def test_a_key_that_is_about_to_expire_is_said_to_admins(
    api: Api, person: SignIn, clock: Clock
) -> None:
    api.register()
    key_with(["tasks:read"], expires_at=clock.now + 30 * 86_400_000)
    assert "is a key that expires" not in person().page("/dashboard")
    clock.advance(27 * 86_400)
    assert "…) is a key that expires in 3 days." in person().page("/dashboard")
    assert "expires" not in person(["tasks:read"]).page("/dashboard")


def test_a_task_says_what_happens_next(api: Api, person: SignIn, clock: Clock) -> None:
    api.register()
    task = api.create(max_attempts=1)
    somebody = person()

    def page() -> str:
        return somebody.page(f"/dashboard/tasks/{task['id']}")

    assert "No worker has taken a task of type 'job' so far." in page()
    held = api.claim("w")
    assert "w works on it, attempt 1 of 1. Without a heartbeat its lease ends in 5 min." in page()
    api.complete(held, success=False, error="no answer", error_code="timeout")
    said = page()
    assert "It has failed in 1 attempt. It stays like this until somebody retries it." in said
    assert "timeout" in said
    assert "no answer" in said
    assert "Failed attempt 1 w timeout after 0.0 s" in said


def test_the_tags_of_a_task_lead_to_the_tasks_that_share_them(api: Api, person: SignIn) -> None:
    api.register()
    task = api.create(tags=["order 5", "shop"])
    api.create()
    somebody = person()
    page = somebody.get(f"/dashboard/tasks/{task['id']}").text
    address = page.split("Tags</dt>")[1].split('href="')[1].split('"')[0]
    found = somebody.get(address).text
    assert re.findall('name="id" value="([0-9]+)"', found) == [str(task["id"])]
    assert 'value="tag:&#34;order 5&#34;"' in found


def test_a_task_shows_its_json_as_it_is_stored(api: Api, person: SignIn) -> None:
    api.register()
    params = '{"big": 123456789012345678, "half": 1.50, "e": [], "o": {}, "t": "a,b:{\\"c\\"}"}'
    body = f'{{"type": "job", "params": {params}}}'
    headers = {"X-API-Key": api.key}
    answer = api.client.post(
        "/api/tasks", data=body, content_type="application/json", headers=headers
    )
    page = person().page(f"/dashboard/tasks/{answer.get_json()['data']['id']}")
    assert '"big": 123456789012345678,' in page.replace(" :", ":")
    assert r'"a,b:{\"c\"}"' in page


def test_a_megabyte_of_params_is_shown_whole(api: Api, person: SignIn) -> None:
    api.register()
    long = "x" * 500_000 + SCRIPT
    task = api.create(params={"long": long})
    answer = person().get(f"/dashboard/tasks/{task['id']}")
    assert "x" * 500_000 + "&lt;script&gt;" in answer.text
    assert SCRIPT not in answer.text


@pytest.fixture
def hostile(api: Api) -> dict[str, Any]:
    """The same text in every field that a stranger fills."""
    api.register(schema={"type": "object", "description": EVIL}, version=SCRIPT)
    worker = EVIL.strip()
    task = api.create(params={EVIL: EVIL}, max_attempts=1, tags=[SCRIPT])
    held = api.claim(worker)
    progress = {"worker_id": worker, "progress": 5, "message": EVIL}
    api.post(f"/api/tasks/{task['id']}/progress", progress)
    api.post("/api/workers/heartbeat", {"worker_id": worker, "metadata": {EVIL: EVIL}})
    running = api.create(params={EVIL: [EVIL]})
    api.complete(held, success=False, error=EVIL, error_code=EVIL)
    api.claim(worker)
    done = api.create(parent_task_id=task["id"])
    api.post(f"/api/tasks/{done['id']}/cancel", {"reason": EVIL})
    schedule = {"name": EVIL, "type": "job", "params": {"a": EVIL}, "cron": "0 0 * * *"}
    api.post("/api/schedules", schedule, 201)
    api.post("/api/admin/keys", {"name": EVIL, "role": "viewer"}, 201)
    waiting = api.create(params={EVIL: EVIL}, tags=[SCRIPT])
    placeholder = {EVIL: {"$result_of": 0, "path": EVIL}}
    blocked = api.create(depends_on=[running["id"]], params=placeholder)
    batch = api.post("/api/batches", {"name": EVIL, "metadata": {EVIL: EVIL}}, 201)
    made = {"batch": batch, "waiting": waiting, "task": task, "running": running, "done": done}
    return {name: one["id"] for name, one in {**made, "blocked": blocked}.items()}


PAGES = [
    *("", "/tasks", "/tasks?status=failed", "/tasks/{task}", "/tasks/{running}", "/tasks/{done}"),
    "/tasks/{blocked}",
    *("/errors", "/types", "/types/job", "/schedules", "/workers", "/tasks/new?like={task}"),
    *(
        "/batches",
        "/batches/{batch}",
        "/tasks/new?type=job",
        "/admin",
        "/admin/audit",
        f"/workers/{quote(EVIL)}",
    ),
    *(f"/tasks?error={quote(EVIL)}", f"/errors?error={quote(EVIL)}"),
]


@pytest.mark.parametrize("path", PAGES)
def test_a_script_in_every_field_comes_out_as_text(
    person: SignIn, hostile: dict[str, Any], path: str
) -> None:
    for name, number in hostile.items():
        path = path.replace("{" + name + "}", str(number))
    answer = person().get(f"/dashboard{path}")
    assert answer.status_code == 200
    assert "alert(1)" in answer.text or path in ("/tasks/new?type=job",)
    assert SCRIPT not in answer.text
    assert "{49}" not in answer.text
    assert "</pre></title>" not in answer.text


def test_a_task_shows_what_it_depends_on_and_what_depends_on_it_as_far_as_one_may_see(
    api: Api, person: SignIn
) -> None:
    for name in ("seen", "secret"):
        api.register(name)
    before = [api.create(name) for name in ("seen", "secret")]
    task = api.create("seen", depends_on=[one["id"] for one in before])
    after = [api.create(name, depends_on=[task["id"]]) for name in ("seen", "secret")]
    path = f"/dashboard/tasks/{task['id']}"
    everybody = person().get(path).text
    limited = person(["tasks:read"], task_types=["seen"]).get(path).text
    for title, (seen, secret) in {"Depends on": before, "These depend on it": after}.items():
        for page, names_secret in ((everybody, True), (limited, False)):
            section = page.split(f"<h2>{title}</h2>")[1].split("</section>")[0]
            assert f"/dashboard/tasks/{seen['id']}" in section
            assert (f"/dashboard/tasks/{secret['id']}" in section) == names_secret
    assert "secret" not in limited
    assert f"#{before[1]['id']}" not in limited


@pytest.mark.usefixtures("hostile")
def test_a_script_comes_out_as_text_where_people_are_asked(person: SignIn) -> None:
    somebody = person()
    key_id = next(row["id"] for row in keys.list_keys() if row["name"] == EVIL)
    forms: dict[str, dict[str, str]] = {
        "tasks/change": {"action": "retry", "everything": "1", "error": EVIL, "priority": EVIL},
        f"admin/keys/{key_id}/revoke": {},
        "admin/keys": {"name": EVIL, "role": "king", "task_types": EVIL, "rate_limit": EVIL},
        "types/job/check": {"param_schema": EVIL},
        "tasks/new": {"type": "job", "params": EVIL, "priority": EVIL, "delay_seconds": EVIL},
    }
    for path, form in forms.items():
        answer = somebody.post(f"/dashboard/{path}", form)
        assert answer.status_code in (200, 400), path
        assert "alert(1)" in answer.text, path
        assert SCRIPT not in answer.text, path


def test_a_script_in_the_address_comes_out_as_text(api: Api, person: SignIn) -> None:
    api.register()
    somebody = person()
    for path in ("/tasks?error=", "/tasks?type=", "/tasks?q=x:", "/errors?error=", "/nothing/"):
        answer = somebody.get(f"/dashboard{path}", query_string=None)
        answer = somebody.get(f"/dashboard{path}%3Cscript%3Ealert(1)%3C/script%3E")
        assert SCRIPT not in answer.text, path


def test_a_page_that_does_not_exist_says_so(person: SignIn) -> None:
    assert "There is no page at this address." in person().page("/dashboard/nothing", 404)
    assert "there is no task 99" in person().page("/dashboard/tasks/99", 404)


def test_pages_load_nothing_inline_and_nothing_from_elsewhere(api: Api, person: SignIn) -> None:
    api.register()
    api.create()
    answer = person().get("/dashboard")
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "<style" not in answer.text
    assert " style=" not in answer.text
    assert " onclick=" not in answer.text
    assert "http://" not in answer.text.replace("http://www.w3.org", "")


EVERY_PAGE = [
    *("", "/tasks", "/tasks/{task}", "/tasks/{task}/change", "/tasks/new", "/tasks/new?type=job"),
    *("/batches", "/batches/{batch}", "/errors", "/types", "/types/job", "/workers", "/workers/w"),
    *("/schedules", "/schedules/{schedule}/change", "/webhooks", "/webhooks/{webhook}", "/alerts"),
    *("/admin", "/admin/keys/{key}/change", "/admin/audit", "/admin/doctor", "/admin/settings"),
]


@pytest.fixture
def filled(api: Api) -> list[str]:
    """The paths of EVERY_PAGE in a queue that has one of everything, and a few tasks."""
    api.register()
    made = [api.create() for _ in range(5)]
    api.complete(api.claim("w"), success=False, error="E", is_retryable=False)
    api.claim("w")
    timing = {"params": {}, "cron": "0 0 * * *"}
    hook = {"name": "h", "url": "https://nowhere.invalid/"}
    ids = {
        "task": made[-1]["id"],
        "batch": api.post("/api/batches", {"name": "b", "is_open": True}, 201)["id"],
        "schedule": api.post("/api/schedules", {"name": "s", "type": "job", **timing}, 201)["id"],
        "webhook": api.post("/api/webhooks", hook, 201)["id"],
        "key": api.post("/api/admin/keys", {"name": "n", "role": "viewer"}, 201)["id"],
    }
    return [f"/dashboard{path.format(**ids)}" for path in EVERY_PAGE]


def test_every_page_that_can_be_opened_is_among_them(app: Flask, filled: list[str]) -> None:
    pages = create_pages(app, lambda: None)
    adapter = pages.url_map.bind("localhost")
    opened = {adapter.match(path.partition("?")[0], method="GET")[0] for path in filled}
    known = {rule.endpoint for rule in pages.url_map.iter_rules() if "GET" in (rule.methods or ())}
    assert known - opened == {"assets.show", "sign_in.show"}


def test_all_pages_together_are_small_and_load_the_same(
    api: Api, person: SignIn, filled: list[str]
) -> None:
    for _ in range(60):
        api.create()
    somebody = person()

    def size_of(path: str) -> int:
        answer = somebody.client.get(path, headers={"Accept-Encoding": "gzip"})
        assert answer.content_encoding == "gzip" or len(answer.data) < 1_000
        assert answer.content_length == len(answer.data)
        assert "Accept-Encoding" in answer.vary
        return len(answer.data)

    loaded: set[str] = set()
    for path in filled:
        page = somebody.get(path)
        assert page.content_encoding is None  # this client has not said that it takes gzip
        loaded |= set(re.findall(r'<(?:link|script|img)\b[^>]* (?:src|href)="([^"]+)"', page.text))
        alone = len(page.data) + sum(len(somebody.get(address).data) for address in loaded)
        assert alone <= 100_000, path
    assert len(loaded) == 3, loaded
    assert sum(map(size_of, [*filled, *loaded])) <= 100_000


def test_no_page_waits_for_who_writes(
    engine: str,
    person: SignIn,
    filled: list[str],
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each would like to write that the key was used, and what it has counted."""
    monkeypatch.setattr("taskmanager.queue.figures.counts.EXACT_UP_TO_TASKS", 0)
    somebody = person()
    somebody.get("/dashboard")
    caplog.set_level(logging.INFO)
    with nobody_else_writes(engine):
        for path in filled:
            clock.advance(120)
            assert somebody.get(path).status_code == 200, path
    assert "Lost connection" not in caplog.text  # which a statement that waits for long ends with


@contextlib.contextmanager
def nobody_else_writes(engine: str) -> Iterator[None]:
    """Locks everything against writing, as long as the block runs."""
    if engine == "sqlite":
        stranger: Any = sqlite3.connect(database.database, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
    else:
        place = {**database.connect_params, **database.nodes.first._asdict()}
        stranger = pymysql.connect(**place, database=database.database)
        stranger.cursor().execute("FLUSH TABLES WITH READ LOCK")
    try:
        yield
    finally:
        stranger.close()


def test_files_are_kept_by_browsers_under_the_address_of_their_content(person: SignIn) -> None:
    somebody = person()
    page = somebody.get("/dashboard").text
    address = page.split('rel="stylesheet" href="')[1].split('"')[0]
    answer = somebody.get(address)
    assert (answer.mimetype, answer.headers["Cache-Control"]) == (
        "text/css",
        "public, max-age=31536000, immutable",
    )
    assert (
        somebody.get("/dashboard/static/old/dashboard.css").headers["Cache-Control"] == "no-store"
    )
    assert somebody.get("/dashboard/static/x/layout.html").status_code == 404
    assert somebody.get("/dashboard/static/x/..%2fpages.py").status_code == 404


def test_everything_works_below_a_path(app: Flask, api: Api) -> None:
    api.register()
    task = api.create()
    somebody = Person(app.test_client(), "http://localhost/queue")
    assert somebody.sign_in(api.key).headers["Location"] == "/queue/dashboard"
    page = somebody.get(f"/dashboard/tasks/{task['id']}").text
    links = [part.split('"')[0] for part in page.split('href="')[1:]]
    links += [part.split('"')[0] for part in page.split('action="')[1:]]
    assert len(links) > 10
    assert [link for link in links if not link.startswith(("/queue/", "#"))] == []
    assert "http://localhost/queue/api/tasks" in page


def test_no_page_writes(app: Flask, api: Api, person: SignIn, monkeypatch: Any) -> None:
    """Apart from the note that a key was used, which waits for nobody, and the session's start."""
    api.register()
    task = api.create()
    somebody = person()
    from taskmanager.db.connection import database

    begun: list[str] = []
    own = database.obj.execute_sql

    def watch(sql: str, *values: Any, **options: Any) -> Any:
        if sql.lstrip("( ").split()[0].upper() not in ("SELECT", "PRAGMA") or "FOR UPDATE" in sql:
            begun.append(sql)
        return own(sql, *values, **options)

    monkeypatch.setattr(database.obj, "execute_sql", watch)
    for path in ("", "/tasks", f"/tasks/{task['id']}", "/errors", "/types", "/types/job"):
        assert somebody.get(f"/dashboard{path}").status_code == 200
    for path in ("/schedules", "/workers", "/admin", "/alerts", "/admin/audit", "/admin/settings"):
        assert somebody.get(f"/dashboard{path}").status_code == 200
    assert begun == []


def test_the_doctor_shows_its_findings_with_their_remedies(person: SignIn) -> None:
    page = person().page("/dashboard/admin/doctor")
    assert "Maintenance has never run" in page
    assert "To do:" in page


VALID = {
    "instance_path": "/srv/queue",
    "database_url": "mysql://me:hidden@db.example.org/queue",
    "database_idle_seconds": "61",
    "table_prefix": "shop_",
    "sqlite_synchronous": "NORMAL",
    "lease_seconds": "301",
    "heartbeat_seconds": "31",
    "max_attempts": "4",
    "rate_limit": "7/second",
    "rate_limit_storage_uri": "redis://:hidden@localhost",
    "trusted_proxies": "0",
    "api_at_root": "1",
    "webhooks_allow_http": "1",
    "webhooks_allow_networks": "10.1.0.0/16,fd00::/8",
    "alert_email": "me@example.org,you@example.org",
    "smtp_url": "smtp://me:hidden@mail.example.org:587",
    "alert_webhook": "https://chat.example.org/hidden",
    "alert_rules": "oldest_pending=7200, failure_share=off",
    "cors_origins": "https://a.example.org,http://localhost:3000",
    "waiting_calls": "65",
    "log_format": "json",
    "max_body_bytes": "2048",
    "retention_days": "29",
    "bootstrap_admin_key": "hidden" * 6,
    "secret_key": "hidden" * 6,
    "payload_key": f"{'hidden':A<43}=,{'hidden':B<43}=",
    "plugins": "colours,shapes",
}


def shown_settings(somebody: Person) -> dict[str, str]:
    """The value of each setting on its page, by name."""
    page = somebody.get("/dashboard/admin/settings")
    assert page.status_code == 200
    values = re.findall("</th><td>(?:<code>(.*?)</code>|<span)", page.text)
    return dict(zip(setting_names().values(), values, strict=True))


def test_every_setting_is_shown_as_it_is_written(app: Flask, person: SignIn) -> None:
    somebody = person()
    app.extensions["taskmanager"] = load_settings(VALID, environ={})
    expected = {**VALID, "database_url": "mysql://db.example.org/queue"}
    expected |= dict.fromkeys(HOLDING_SECRETS - {"database_url"}, "set")
    assert shown_settings(somebody) == expected


def test_a_setting_without_a_value_is_shown_as_empty(person: SignIn) -> None:
    shown = shown_settings(person())
    assert (shown["waiting_calls"], shown["trusted_proxies"]) == ("", "0")


def test_settings_show_no_secret(app: Flask, person: SignIn) -> None:
    page = person().page("/dashboard/admin/settings")
    assert "TASKMANAGER_LEASE_SECONDS" in page
    secret = app.extensions["taskmanager"].instance_path / "secret_key"
    assert secret.read_text().strip() not in page


def test_the_page_of_a_cancelled_task_says_why(api: Api, clock: Clock, person: SignIn) -> None:
    api.register()
    first = api.create(expires_in_seconds=60)["id"]
    second = api.create(depends_on=[first])["id"]
    third = api.create()["id"]
    api.post(f"/api/tasks/{third}/cancel", {})
    clock.advance(61)
    api.post("/api/maintenance/run", {})
    for task_id, why in (
        (first, "No worker claimed it by its deadline"),
        (second, "A task that it depends on did not complete"),
        (third, "Somebody has cancelled it"),
    ):
        assert why in text_of(person().get(f"/dashboard/tasks/{task_id}"))


NOT_NEEDED = {"asyncio", "cryptography", "deprecated", "gunicorn", "limits.aio", "pymysql", "wrapt"}
OPENS_EVERY_PAGE = f"""
import re, sys
from taskmanager.app import create_app
from taskmanager.access import keys
from taskmanager.config import HOLDING_SECRETS, load_settings, setting_names
from taskmanager.access.caller import OPERATOR
from taskmanager.clock import utc_now

client = create_app({{"instance_path": sys.argv[1]}}).test_client()
client.get("/api/health")
_, key = keys.create_key(name="admin", scopes=["admin"], now=utc_now(), caller=OPERATOR)
form = client.get("/dashboard/sign-in").text
token = re.findall('name="csrf_token" value="([^"]+)"', form)[0]
client.post("/dashboard/sign-in", data={{"csrf_token": token, "key": key}})
pages = ("", "/tasks", "/batches", "/errors", "/types", "/schedules", "/workers", "/webhooks")
for path in (*pages, "/alerts", "/admin", "/admin/audit", "/admin/settings", "/admin/doctor"):
    assert client.get("/dashboard" + path).status_code == 200, path
print(sorted({NOT_NEEDED} & sys.modules.keys()))
"""


@pytest.mark.slow
def test_a_process_that_has_served_every_page_has_loaded_nothing_that_none_needs(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", OPENS_EVERY_PAGE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
