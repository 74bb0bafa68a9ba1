"""Makes the pictures of docs/images: every page, light and dark, on a desktop and on a phone.

python -m tests.support.screenshots [PAGE …]    all pages, or those that are named
"""

import base64
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from tests.support import sample_queue
from tests.support.browser import chromium
from tests.support.server import Server

IMAGES = Path(__file__).resolve().parent.parent.parent / "docs" / "images"
SCREENS = {
    "desktop": {"width": 1120, "height": 760},
    "phone": {"width": 360, "height": 740},
}
MAX_HEIGHT = 1_500
QUALITY = 82
PAGES = {
    "sign-in": "/sign-in",
    "overview": "",
    "tasks": "/tasks",
    "task-failed": "/tasks?status=failed",
    "task-running": "/tasks?status=claimed",
    "task-change": "/tasks?status=scheduled&type=mail.send",
    "create": "/tasks/new?type=mail.send",
    "batches": "/batches",
    "batch": "/batches/3",
    "errors": "/errors",
    "types": "/types",
    "type": "/types/mail.send",
    "schedules": "/schedules",
    "schedule-change": "/schedules/2/change",
    "workers": "/workers",
    "worker": "/workers/transcoder-1",
    "keys": "/admin",
    "key-change": "/admin/keys/3/change",
    "webhooks": "/webhooks",
    "webhook": "/webhooks/1",
    "alerts": "/alerts",
    "audit": "/admin/audit",
    "doctor": "/admin/doctor",
    "settings": "/admin/settings",
}


def main() -> None:
    wanted = sys.argv[1:] or list(PAGES)
    unknown = [name for name in wanted if name not in PAGES]
    if unknown:
        sys.exit(f"There is no page {', '.join(unknown)}; pages: {', '.join(PAGES)}.")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        key = sample_queue.build(Path(name))
        server = Server(Path(name), workers=1).start()
        for screen, size in SCREENS.items():
            for scheme in ("light", "dark"):
                _take(browser, server, key, wanted, screen, size, scheme)
        server.stop()


def _take(
    browser: Browser,
    server: Server,
    key: str,
    wanted: list[str],
    screen: str,
    size: Any,
    scheme: Any,
) -> None:
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    address = f"{server.url}/dashboard"
    for name in wanted:
        page.goto(f"{address}{PAGES[name]}")
        if name != "sign-in" and page.url.startswith(f"{address}/sign-in"):
            page.get_by_label("API key").fill(key)
            page.get_by_role("button", name="Sign in").click()
            page.goto(f"{address}{PAGES[name]}")
        if name.startswith("task-"):
            page.locator("tbody th a").first.click()
        if name == "task-change":
            page.get_by_role("link", name="Change", exact=True).click()
        file = IMAGES / f"{name}-{scheme}-{screen}.webp"
        file.write_bytes(_picture(page, size["width"]))
        print(file.name)
    context.close()


def _picture(page: Page, width: int) -> bytes:
    """The page as WebP, which Playwright itself does not write."""
    height = min(page.evaluate("document.documentElement.scrollHeight"), MAX_HEIGHT)
    page.set_viewport_size({"width": width, "height": height})
    session = page.context.new_cdp_session(page)
    options = {"format": "webp", "quality": QUALITY}
    return base64.b64decode(session.send("Page.captureScreenshot", options)["data"])


if __name__ == "__main__":
    main()
