"""The dashboard in a real browser: what people do with mouse, keyboard and thumb."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.conftest import require
from tests.support.browser import PROGRAM, chromium
from tests.support.server import Server

pytestmark = pytest.mark.slow

PHONE = {"width": 360, "height": 740}
SCRIPT = "<script>document.title='hit'</script>"
REFRESHED_AFTER_MS = 6_000
PAGES = [
    *("", "/tasks", "/tasks?status=failed", "/tasks/1", "/tasks/2", "/tasks/new?type=mail.send"),
    *("/errors", "/types", "/types/mail.send", "/schedules", "/workers", "/workers/mailer"),
    *("/admin", "/admin/audit", "/admin/doctor", "/admin/settings", "/tasks/999"),
    *("/webhooks", "/webhooks/1", "/alerts", "/batches", "/batches/1", "/batches/2"),
    *("/tasks/3/change", "/tasks/3/change?json=1", "/schedules/1/change", "/admin/keys/1/change"),
]
SCHEMA = {
    "type": "object",
    "properties": {"to": {"type": "string", "minLength": 3}, "count": {"type": "integer"}},
    "required": ["to"],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    require("Chromium", PROGRAM is not None)
    with chromium() as started:
        yield started


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """On SQLite alone: the other tests of the dashboard run on both."""
    started = Server(tmp_path, workers=1).start()
    yield started
    started.kill()


class Window:
    """A page of a browser of its own that knows the server, and notes what it should not load."""

    def __init__(self, context: BrowserContext, server: Server) -> None:
        self.context, self.server = context, server
        self.page = context.new_page()
        self.faults: list[str] = []
        self.page.on("request", self._judge)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: self._hear(said.type, said.text))

    def _judge(self, request: Any) -> None:
        if not request.url.startswith(f"{self.server.url}/"):
            self.faults.append(f"loads {request.url}")

    def _hear(self, kind: str, text: str) -> None:
        # The browser notes each 4xx, which some pages are meant to be.
        if kind in ("error", "warning") and "Failed to load resource" not in text:
            self.faults.append(text)

    def open(self, path: str = "") -> Page:
        self.page.goto(f"{self.server.url}/dashboard{path}")
        return self.page

    def sign_in(self, key: str | None = None) -> Page:
        page = self.open()
        page.get_by_label("API key").fill(key or self.server.key)
        page.get_by_role("button", name="Sign in").click()
        return page


@pytest.fixture
def open_window(browser: Browser, server: Server) -> Iterator[Callable[..., Window]]:
    """Opens browsers; at the end none has loaded anything from elsewhere or reported an error."""
    windows: list[Window] = []

    def open_one(**options: Any) -> Window:
        windows.append(Window(browser.new_context(**options), server))
        return windows[-1]

    yield open_one
    for window in windows:
        assert window.faults == []
        window.context.close()


def register(server: Server, name: str = "mail.send", schema: Any = None) -> None:
    body = {"name": name, "version": "1", "param_schema": schema or SCHEMA}
    assert server.call("POST", "/api/task-types/register", body).status in (200, 201)


def create(server: Server, count: int = 1, **fields: Any) -> list[int]:
    tasks = [
        {"type": "mail.send", "params": {"to": f"user{n}"}, "dedupe": "none", **fields}
        for n in range(count)
    ]
    ids = []
    for at in range(0, count, 1_000):
        made = server.call("POST", "/api/tasks/batch", {"tasks": tasks[at : at + 1_000]}).data
        ids += [result["task"]["id"] for result in made["results"]]
    return ids


@pytest.fixture
def filled(server: Server) -> Server:
    """One of everything: a failed task, one that runs, one that waits, a schedule, a webhook."""
    register(server)
    create(server, 3, max_attempts=1)
    for success in (False, None):
        held = server.call("POST", "/api/tasks/claim", {"worker_id": "mailer"}).data
        if success is False:
            body = {"worker_id": "mailer", "success": False, "error": SCRIPT, "error_code": "lost"}
            server.call("POST", f"/api/tasks/{held['id']}/complete", body)
        else:
            body = {"worker_id": "mailer", "progress": 40, "message": SCRIPT}
            server.call("POST", f"/api/tasks/{held['id']}/progress", body)
    schedule = {"name": "nightly", "type": "mail.send", "params": {"to": "all"}}
    server.call("POST", "/api/schedules", {**schedule, "cron": "0 3 * * *"})
    hook = {"name": "billing", "url": f"https://nowhere.invalid/{'hook' * 30}"}
    assert server.call("POST", "/api/webhooks", hook).status == 201
    for task_id in create(server, 2, notify="billing"):
        server.call("POST", f"/api/tasks/{task_id}/cancel", {})
    members = [{"type": "mail.send", "params": {"to": f"member{n}"}} for n in range(4)]
    batch = {"name": SCRIPT, "tasks": members, "is_open": True, "metadata": {SCRIPT: "w" * 300}}
    callback = {"type": "mail.send", "params": {"to": "owner"}}
    made = server.call("POST", "/api/batches", {**batch, "on_finished": callback}).data
    server.call("POST", f"/api/tasks/{made['results'][0]['task']['id']}/cancel", {})
    server.call("POST", "/api/batches", {"parent_batch_id": made["id"], "name": "inner"})
    return server


def test_signing_in_leads_to_the_page_that_was_asked_for_and_out_again(
    open_window: Callable[..., Window], filled: Server
) -> None:
    window = open_window()
    page = window.open("/tasks?status=failed")
    page.get_by_label("API key").fill("tm_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("This key is not known")
    page.get_by_label("API key").fill(filled.key)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{filled.url}/dashboard/tasks?status=failed")
    page.get_by_role("button", name="Sign out", exact=True).click()
    page.go_back()
    page.reload()
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_browser_at_the_root_comes_to_the_dashboard(
    open_window: Callable[..., Window], server: Server
) -> None:
    page = open_window().page
    page.goto(server.url)
    expect(page.get_by_label("API key")).to_be_focused()


def test_a_task_moves_through_its_states_without_a_reload(
    open_window: Callable[..., Window], server: Server
) -> None:
    register(server)
    window = open_window()
    window.page.clock.install()
    window.sign_in()
    page = window.open("/tasks")
    page.evaluate("window.kept = true")
    expect(page.get_by_text("There are no tasks yet.")).to_be_visible()
    [task_id] = create(server)
    row = page.get_by_role("row", name=f"#{task_id}")
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("Pending", lambda: None),
        ("Claimed", lambda: server.call("POST", "/api/tasks/claim", {"worker_id": "w"})),
        (
            "Completed",
            lambda: server.call(
                "POST", f"/api/tasks/{task_id}/complete", {"worker_id": "w", "success": True}
            ),
        ),
    ]
    for status, act in steps:
        act()
        page.clock.fast_forward(REFRESHED_AFTER_MS)
        expect(row).to_contain_text(status)
    assert page.evaluate("window.kept")


def test_a_refresh_takes_no_focus_and_no_selection(
    open_window: Callable[..., Window], server: Server
) -> None:
    register(server)
    ids = create(server, 2)
    window = open_window()
    window.page.clock.install()
    window.sign_in()
    page = window.open("/tasks")
    link = page.get_by_role("link", name=f"#{ids[0]}")
    link.focus()
    create(server)
    page.clock.fast_forward(REFRESHED_AFTER_MS)
    expect(page.locator('input[name="id"]')).to_have_count(3)
    expect(page.locator("a:focus")).to_have_count(1)
    page.get_by_label(f"Select task {ids[0]}").check()
    create(server)
    page.clock.fast_forward(REFRESHED_AFTER_MS)
    page.wait_for_timeout(300)
    expect(page.locator('input[name="id"]')).to_have_count(3)
    expect(page.get_by_label(f"Select task {ids[0]}")).to_be_checked()


def test_one_task_is_retried_and_then_three_thousand(
    open_window: Callable[..., Window], server: Server
) -> None:
    register(server)
    create(server, 3_000)
    body = {"filter": {"type": "mail.send"}, "limit": 10_000}
    assert server.call("POST", "/api/tasks/cancel", body).data["changed"] == 3_000
    window = open_window()
    window.sign_in()
    page = window.open("/tasks/1")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status")).to_contain_text("Task #1 will be tried again.")
    page = window.open("/tasks?status=cancelled")
    page.get_by_label("All that match").check()
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("heading", name="Retry 2,999 tasks?")).to_be_visible()
    page.get_by_role("button", name="Retry 2,999 tasks").click(timeout=60_000)
    expect(page.get_by_role("status")).to_contain_text("2,999 tasks done", timeout=60_000)
    counts = server.call("GET", "/api/stats").data["by_status"]
    assert (counts["pending"], counts["cancelled"]) == (3_000, 0)


def test_selected_tasks_are_cancelled(open_window: Callable[..., Window], server: Server) -> None:
    register(server)
    create(server, 5)
    window = open_window()
    window.sign_in()
    page = window.open("/tasks")
    page.get_by_label("Select all on this page").check()
    page.get_by_label("Select task 3").uncheck()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel 4 tasks").click()
    expect(page.get_by_role("status")).to_contain_text("4 tasks done")
    counts = server.call("GET", "/api/stats").data["by_status"]
    assert (counts["pending"], counts["cancelled"]) == (1, 4)


def test_a_task_is_created_with_the_form_first_with_a_mistake(
    open_window: Callable[..., Window], server: Server
) -> None:
    register(server)
    window = open_window()
    page = window.sign_in()
    page.get_by_role("link", name="Create a task").click()
    page.get_by_role("button", name="Go on").click()
    page.get_by_label("to", exact=False).first.fill("me")
    page.get_by_label("count").fill("two")
    page.get_by_role("button", name="Create the task").click()
    expect(page.get_by_label("count")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_text("count must be a number")).to_be_visible()
    page.get_by_label("count").fill("9007199254740993")
    page.get_by_label("to", exact=False).first.fill("me@example.org")
    page.get_by_role("button", name="Create the task").click()
    expect(page.get_by_role("heading", name="#1")).to_be_visible()
    expect(page.locator("#params")).to_contain_text("9007199254740993")


def test_a_waiting_task_is_changed_first_with_a_mistake(
    open_window: Callable[..., Window], server: Server
) -> None:
    register(server)
    create(server)
    window = open_window(java_script_enabled=False)
    window.sign_in()
    page = window.open("/tasks/1")
    page.get_by_role("link", name="Change", exact=True).click()
    page.get_by_label("to", exact=False).first.fill("x")
    page.get_by_label("Priority").fill("9")
    page.get_by_role("button", name="Change the task").click()
    expect(page.get_by_text("to must have at least 3 characters")).to_be_visible()
    page.get_by_label("to", exact=False).first.fill("you@example.org")
    page.get_by_role("button", name="Change the task").click()
    expect(page.get_by_role("status")).to_contain_text("Task #1 is changed.")
    task = server.call("GET", "/api/tasks/1").data
    assert (task["params"], task["priority"]) == ({"to": "you@example.org"}, 9)


def test_the_limits_of_a_type_are_changed(
    open_window: Callable[..., Window], filled: Server
) -> None:
    window = open_window()
    window.sign_in()
    page = window.open("/types/mail.send")
    page.get_by_label("Held at once").fill("none")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Held at once must be a number")).to_be_visible()
    page.get_by_label("Held at once").fill("3")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("limits and defaults of mail.send")
    stored = filled.call("GET", "/api/task-types/mail.send").data
    assert stored["concurrency"] == {"limit": 3}


def test_a_type_is_paused_and_resumed(open_window: Callable[..., Window], filled: Server) -> None:
    window = open_window()
    window.sign_in()
    page = window.open("/types/mail.send")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_contain_text("mail.send is paused")
    assert filled.call("GET", "/api/task-types/mail.send").data["is_paused"] is True
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_a_batch_is_cancelled_and_retried(
    open_window: Callable[..., Window], filled: Server
) -> None:
    window = open_window()
    window.sign_in()
    page = window.open()
    page.get_by_role("link", name="Batches").click()
    page.get_by_role("link", name=SCRIPT).click()
    expect(page.get_by_role("heading", name="25 %")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel 3 tasks").click()
    expect(page.get_by_role("status")).to_contain_text("3 tasks done")
    expect(page.get_by_role("heading", name="100 %")).to_be_visible()
    page.get_by_role("button", name="Retry").click()
    page.get_by_role("button", name="Retry 4 tasks").click()
    expect(page.get_by_role("heading", name="0 %", exact=True)).to_be_visible()


def test_a_key_is_created_works_and_is_revoked(
    open_window: Callable[..., Window], filled: Server
) -> None:
    window = open_window()
    window.sign_in()
    page = window.open("/admin")
    page.get_by_label("Name").fill("screen")
    page.get_by_role("button", name="Create the key").click()
    key = page.locator("#new-key").text_content()
    other = open_window()
    seen = other.sign_in(key)
    expect(seen.get_by_role("heading", name="Overview")).to_be_visible()
    expect(seen.get_by_role("link", name="Admin")).to_have_count(0)
    page.get_by_role("button", name="Revoke screen").click()
    page.get_by_role("button", name="Revoke it").click()
    seen.reload()
    expect(seen.get_by_role("alert")).to_contain_text("revoked")


def test_a_webhook_is_created_switched_off_and_deleted(
    open_window: Callable[..., Window], server: Server
) -> None:
    window = open_window()
    window.sign_in()
    window.open("/admin").get_by_role("link", name="Webhooks").click()
    page = window.page
    page.get_by_label("Name").fill("billing")
    page.get_by_label("Address").fill("https://127.0.0.1/hook")
    page.get_by_role("button", name="Create the webhook").click()
    expect(page.get_by_role("alert")).to_contain_text("127.0.0.1, which is not public")
    page.get_by_label("Address").fill("https://nowhere.invalid/hook")
    page.get_by_role("button", name="Create the webhook").click()
    expect(page.locator("#new-secret")).to_contain_text("whsec_")
    page.get_by_role("link", name="billing").click()
    expect(page.locator("#new-secret")).to_have_count(0)
    page.get_by_role("button", name="Switch off").click()
    expect(page.get_by_role("status")).to_contain_text("billing is off.")
    page.get_by_role("button", name="Rotate the secret").click()
    expect(page.locator("#new-secret")).to_contain_text("whsec_")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("status")).to_contain_text("billing is deleted")
    assert server.call("GET", "/api/webhooks").data["count"] == 0


def test_the_first_visit_leads_to_the_overview_by_its_own_commands(
    open_window: Callable[..., Window], server: Server
) -> None:
    page = open_window().sign_in()
    commands = page.locator("pre").all_text_contents()
    assert len(commands) == 3
    for command in commands[:2]:
        found = re.search(r"-d '(\{.*\})'$", command)
        path = re.search(r"curl \S+?(/api/\S+)", command)
        assert found
        assert path
        assert server.call("POST", path[1], json.loads(found[1])).status == 201
    page.reload()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def test_everything_can_be_done_with_the_keyboard_alone(
    open_window: Callable[..., Window], server: Server
) -> None:
    register(server)
    create(server, 3)
    page = open_window().open()
    page.keyboard.type(server.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("status:pending")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("status=pending"))

    def tab_to(label: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            name = page.evaluate(
                "(document.activeElement.getAttribute('aria-label') "
                "|| document.activeElement.textContent).trim()"
            )
            if name == label:
                return
        raise AssertionError(f"no Tab leads to {label}")

    tab_to("Select task 2")
    page.keyboard.press("Space")
    tab_to("Cancel")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Cancel 1 task?")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel 1 task")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("1 task done")
    assert server.call("GET", "/api/tasks/2").data["status"] == "cancelled"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_fault_that_axe_finds(
    open_window: Callable[..., Window], filled: Server, scheme: str
) -> None:
    """Contrast, names, roles and order; on a large screen and on a phone."""
    found = []
    for size in ({"width": 1280, "height": 850}, PHONE):
        window = open_window(color_scheme=scheme, viewport=size, bypass_csp=True)
        pages = ["/sign-in", *PAGES]
        for path in pages:
            if path == PAGES[0]:
                window.sign_in()
            page = window.open(path)
            for violation in Axe().run(page).response["violations"]:
                if violation["impact"] in ("moderate", "serious", "critical"):
                    nodes = [node["html"][:150] for node in violation["nodes"][:3]]
                    found.append((path, size["width"], violation["id"], nodes))
        page.goto(f"{filled.url}/api/docs#tasks.create")
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        found += [
            ("/api/docs", size["width"], violation["id"], violation["nodes"][0]["html"][:150])
            for violation in Axe().run(page).response["violations"]
            if violation["impact"] in ("moderate", "serious", "critical")
        ]
    assert found == []


def test_on_a_phone_no_page_is_wider_than_the_screen(
    open_window: Callable[..., Window], filled: Server
) -> None:
    window = open_window(viewport=PHONE)
    window.sign_in()
    for path in PAGES:
        page = window.open(path)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], path


def test_without_javascript_every_page_and_form_works(
    open_window: Callable[..., Window], filled: Server
) -> None:
    window = open_window(java_script_enabled=False)
    page = window.sign_in()
    for path in PAGES:
        page = window.open(path)
        expect(page.get_by_role("navigation", name="Main")).to_be_visible()
        assert page.get_by_role("button", name="Copy").count() == 0, path
    page = window.open("/tasks")
    page.get_by_label("Select task 3").check()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel 1 task").click()
    expect(page.get_by_role("status")).to_contain_text("1 task done")
    page.get_by_label("Search").fill("status:cancelled")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("link", name="#3")).to_be_visible()


def test_the_page_of_the_api_finds_calls_and_sends_them(
    open_window: Callable[..., Window], filled: Server
) -> None:
    window = open_window()
    page = window.page
    page.goto(f"{filled.url}/api/docs")
    page.get_by_label("API key").fill(filled.key)
    page.get_by_label("Search").fill("open_tasks limit")
    call = page.locator('details[id="task_types.list_all"]')
    expect(page.locator(".call:visible")).to_have_count(1)
    call.locator("summary").first.click()
    call.get_by_role("button", name="Python").click()
    expect(call.locator("pre").last).to_contain_text('client.call("GET", "/task-types')
    call.get_by_role("button", name="Send").click()
    expect(call).to_contain_text("mail.send")
    expect(page.locator("p code").first).to_have_text("X-API-Key")
    page.reload()
    expect(page.get_by_label("API key")).to_have_value(filled.key)
    other = window.context.new_page()
    other.goto(f"{filled.url}/api/docs")
    expect(other.get_by_label("API key")).to_have_value("")


def test_a_script_that_a_worker_reports_does_not_run(
    open_window: Callable[..., Window], filled: Server
) -> None:
    window = open_window()
    window.sign_in()
    for path in PAGES:
        page = window.open(path)
        assert page.title() != "hit", path
    window.open("/errors")
    expect(page.locator("body")).to_contain_text(SCRIPT)
