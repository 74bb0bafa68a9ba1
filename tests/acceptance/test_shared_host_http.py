"""What Apache and Passenger make of requests and answers: the contract holds through them."""

import json
import ssl
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.conftest import require
from tests.support.browser import PROGRAM, chromium
from tests.support.ports import free_port
from tests.support.shared_host import LAYOUTS, Reply, Site

recommended = pytest.mark.parametrize("site", LAYOUTS[:1], indirect=True, ids=str)


def assert_error(reply: Reply, status: int, code: str) -> None:
    """An envelope of ours, not a page of the server's."""
    assert reply.status == status, reply.content[:300]
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["X-Request-ID"]
    assert (reply.json["success"], reply.json["code"]) == (False, code)
    assert reply.json["error"] == reply.json["message"]


def test_links_lead_where_the_app_is_mounted(site: Site) -> None:
    document = site.request("GET", "/api/openapi.json").json
    assert document["servers"] == [{"url": site.layout.base_uri}]
    page = site.request("GET", "/api/docs").content.decode()
    assert f'data-document="{site.prefix}/api/openapi.json"' in page


def test_the_dashboard_works_where_the_app_is_mounted(site: Site) -> None:
    require("Chromium", PROGRAM is not None)
    body = {"name": "mail.send", "version": "1", "param_schema": {"type": "object"}}
    assert site.call("POST", "/api/task-types/register", body).status in (200, 201)
    root = f"http://127.0.0.1:{site.port}{site.prefix}"
    with chromium() as browser:
        page = browser.new_page()
        failed: list[str] = []
        page.on("response", lambda answer: failed.append(answer.url) if not answer.ok else None)
        page.goto(f"{root}/dashboard/types/mail.send")
        page.get_by_label("API key").fill(site.key)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("status")).to_contain_text("mail.send is paused")
        page.get_by_role("button", name="Resume").click()
        page.get_by_role("link", name="Overview").click()
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        assert page.url == f"{root}/dashboard"
        assert page.evaluate("getComputedStyle(document.body).margin") == "0px"
        assert [url for url in failed if not url.startswith(root)] == []
        assert [url for url in failed if "/static/" in url] == []


def test_the_key_may_come_as_a_bearer_token(site: Site) -> None:
    reply = site.request("GET", "/api/stats", headers={"Authorization": f"Bearer {site.key}"})
    assert reply.status == 200
    wrong = site.request("GET", "/api/stats", headers={"Authorization": "Bearer wrong"})
    assert_error(wrong, 401, "not_authenticated")
    assert wrong.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["", "/", "/nothing", "/api", "/api/", "/api/nothing.html"])
def test_what_is_not_there_is_told_in_an_envelope(site: Site, path: str) -> None:
    if not site.prefix and not path:
        path = "/"
    assert_error(site.call("GET", path), 404, "not_found")


def test_methods_arrive_as_they_are(site: Site) -> None:
    head = site.request("HEAD", "/api/health")
    assert (head.status, head.content) == (200, b"")
    options = site.call("OPTIONS", "/api/tasks")
    assert set(options.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}
    wrong = site.call("DELETE", "/api/tasks")
    assert_error(wrong, 405, "method_not_allowed")
    assert "POST" in wrong.headers["Allow"]
    assert_error(site.call("PROPFIND", "/api/tasks"), 405, "method_not_allowed")


def test_refusals_of_a_body_arrive(site: Site) -> None:
    headers = {"X-API-Key": site.key, "Content-Type": "application/json"}
    assert_error(site.request("POST", "/api/tasks", b"{", headers), 400, "malformed_json")
    plain = {**headers, "Content-Type": "text/plain"}
    assert_error(site.request("POST", "/api/tasks", b"{}", plain), 415, "not_json")


def test_large_bodies_pass_and_too_large_ones_are_told_so(site: Site) -> None:
    body = {"name": "large", "version": "1", "param_schema": {"type": "object"}}
    site.call("POST", "/api/task-types/register", body)
    task = {"type": "large", "params": {"text": "x" * 1_000_000 + "ü"}, "dedupe": "none"}
    created = site.call("POST", "/api/tasks", task)
    assert created.status == 201
    assert site.call("GET", f"/api/tasks/{created.data['id']}").data["params"] == task["params"]
    task["params"] = {"text": "x" * 3_000_000}
    assert_error(site.call("POST", "/api/tasks", task), 413, "body_too_large")


def test_a_body_in_chunks_arrives_whole(site: Site) -> None:
    body = json.dumps({"name": "chunks", "version": "1", "param_schema": {"type": "object"}})
    half = len(body) // 2
    chunks = "".join(f"{len(part):x}\r\n{part}\r\n" for part in (body[:half], body[half:], ""))
    headers = {"X-API-Key": site.key, "Content-Type": "application/json"}
    headers["Transfer-Encoding"] = "chunked"
    reply = site.request("POST", "/api/task-types/register", chunks.encode(), headers)
    assert (reply.status, reply.data["name"]) == (201, "chunks")


@recommended
def test_tls_is_known_from_the_server_and_not_from_what_a_stranger_says(site: Site) -> None:
    folder = site.account.folder
    made = site.account.run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", folder / "tls.key", "-out", folder / "tls.crt"),
    )
    assert made.returncode == 0, made.stderr
    port = free_port()
    over_tls = (
        f"Listen 127.0.0.1:{port}\n<VirtualHost 127.0.0.1:{port}>\n"
        f"    DocumentRoot {site.document_root}\n    SSLEngine on\n"
        f"    SSLCertificateFile {folder}/tls.crt\n    SSLCertificateKeyFile {folder}/tls.key\n"
        "</VirtualHost>"
    )
    with site.another_apache(modules=["socache_shmcb", "ssl"], more=over_tls):
        trusted = ssl.create_default_context(cafile=Path(folder / "tls.crt"))
        address = f"https://127.0.0.1:{port}/api/health"
        with urllib.request.urlopen(address, context=trusted, timeout=60) as answer:
            assert answer.headers["Strict-Transport-Security"]
        said = {"X-Forwarded-Proto": "https", "X-Forwarded-SSL": "on", "Https": "on"}
        plain = site.request("GET", "/api/health", headers=said)
        assert (plain.status, plain.headers["Strict-Transport-Security"]) == (200, None)
