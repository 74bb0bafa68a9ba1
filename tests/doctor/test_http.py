"""GET /api/admin/doctor: what it says of the call itself, and what it never says or does."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from jsonschema import Draft202012Validator

from taskmanager import config
from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.doctor import case, network
from taskmanager.doctor.case import Case
from tests.api.tables import dump_tables
from tests.conftest import Api
from tests.doctor.patients import Report

SECRET = "bootstrap-key-of-this-test-0123456789abcdef"


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"bootstrap_admin_key": SECRET}


def examine(api: Api, **environ: str) -> Report:
    headers = {"X-API-Key": api.key}
    response = api.call("GET", "/api/admin/doctor", headers=headers, environ_overrides=environ)
    assert response.status_code == 200, response.get_json()
    return Report(0, response.get_json()["data"]["findings"], "")


def test_it_answers_as_the_document_says_and_changes_nothing(api: Api) -> None:
    api.register()
    api.get("/api/admin/keys")  # which notes that the key is in use
    document = api.client.get("/api/openapi.json").get_json()
    schema = {"$ref": "#/components/schemas/Diagnosis", "components": document["components"]}
    before = dump_tables()

    response = api.call("GET", "/api/admin/doctor")

    answer = response.get_json()
    assert response.status_code == 200
    Draft202012Validator(schema).validate(answer["data"])
    assert answer["data"]["problems"] == 0
    assert answer["data"]["count"] == len(answer["data"]["findings"])
    assert answer["message"] == f"{answer['data']['warnings']} warnings."
    codes = Report(0, answer["data"]["findings"], "").codes()
    assert {"libraries", "instance_folder", "database", "admin_key", "maintenance"} <= codes
    assert not {"not_checked", "check_failed"} & codes
    assert dump_tables() == before


def test_no_secret_and_no_path_of_the_host_is_told(
    api: Api, tmp_path: Path, database_url: str
) -> None:
    text = api.call("GET", "/api/admin/doctor").text
    assert "bootstrap_key" in text
    for secret in (SECRET, api.key, str(tmp_path), str(case.ROOT), database_url, "127.0.0.1"):
        assert secret not in text


def test_no_path_is_told_where_everything_is_wrong(
    app: Flask, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the release's own files the names are told, as it lists them."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "MANIFEST.sha256").write_text(f"{'0' * 64}  taskmanager/gone.py\n")
    (root / ".env").mkdir(mode=0o777)
    monkeypatch.setattr(case, "ROOT", root)
    monkeypatch.setattr(config, "APP_ROOT", root)
    (tmp_path / "instance").chmod(0o755)

    response = api.call("GET", "/api/admin/doctor", environ_overrides={"DOCUMENT_ROOT": str(root)})

    report = Report(0, response.get_json()["data"]["findings"], "")
    assert {"files_missing", "env_file", "document_root"} <= report.problems()
    assert report.level("instance_mode") == "warning"
    assert "taskmanager/gone.py" in report.of("files_missing")["found"]
    assert str(tmp_path) not in response.text


def test_a_key_that_is_limited_to_task_types_does_not_see_the_host(api: Api) -> None:
    _, key = keys.create_key(
        name="limited", scopes=["admin"], task_types=["A.%"], now=1, caller=OPERATOR
    )
    refused = api.with_key(key).get("/api/admin/doctor", 403)
    assert refused["code"] == "task_type_not_allowed"


# The way that the call took


@pytest.mark.parametrize(
    ("environ", "level"),
    [
        ({"REMOTE_ADDR": "203.0.113.7"}, "warning"),
        ({"REMOTE_ADDR": "203.0.113.7", "wsgi.url_scheme": "https"}, "ok"),
        ({"REMOTE_ADDR": "203.0.113.7", "HTTP_X_FORWARDED_PROTO": "https"}, "ok"),
        ({"REMOTE_ADDR": "127.0.0.1"}, "ok"),
        ({"REMOTE_ADDR": "::1"}, "ok"),
        ({"REMOTE_ADDR": ""}, "ok"),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "203.0.113.7"}, "warning"),
    ],
)
def test_a_call_by_plain_http_from_elsewhere_is_a_warning(
    api: Api, environ: dict[str, str], level: str
) -> None:
    assert examine(api, **environ).level("encryption") == level


class TestWithoutTrustedProxies:
    def test_a_forwarded_address_is_a_warning(self, api: Api) -> None:
        assert examine(api).level("proxies") == "ok"
        report = examine(api, HTTP_X_FORWARDED_FOR="203.0.113.7")
        assert report.level("proxies") == "warning"
        assert "TASKMANAGER_TRUSTED_PROXIES is 0" in report.of("proxies")["found"]


class TestWithTwoTrustedProxies:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"trusted_proxies": 2}

    @pytest.mark.parametrize(
        ("header", "level"),
        [("", "warning"), ("1.1.1.1", "warning"), ("1.1.1.1, 2.2.2.2", "ok"), ("1, 2, 3", "ok")],
    )
    def test_fewer_addresses_than_proxies_are_a_warning(
        self, api: Api, header: str, level: str
    ) -> None:
        report = examine(api, HTTP_X_FORWARDED_FOR=header, REMOTE_ADDR="10.0.0.1")
        assert report.level("proxies") == level


def test_a_program_in_the_document_root_is_a_warning_and_without_htaccess_a_problem(
    api: Api, tmp_path: Path
) -> None:
    assert examine(api).of("document_root")["found"].startswith("Not applicable")
    assert examine(api, DOCUMENT_ROOT=str(tmp_path)).level("document_root") == "ok"
    assert examine(api, DOCUMENT_ROOT=str(case.ROOT.parent)).level("document_root") == "warning"
    bare = Case(root=tmp_path / "queue", call={"DOCUMENT_ROOT": str(tmp_path)})
    assert network.check_document_root(bare).level == "problem"


def test_counts_that_are_not_shared_are_a_warning(api: Api, tmp_path: Path) -> None:
    assert examine(api).level("rate_limits") == "ok"
    counters = tmp_path / "instance" / "rate_limits.counters"
    counters.unlink(missing_ok=True)
    counters.mkdir()
    assert examine(api).level("rate_limits") == "warning"


# What the server never does


def test_the_server_calls_no_address_whatever_the_caller_writes(api: Api) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        environ = {
            "HTTP_HOST": address,
            "HTTP_X_FORWARDED_HOST": address,
            "HTTP_REFERER": f"http://{address}/",
            "HTTP_ORIGIN": f"http://{address}",
        }
        report = examine(api, **environ)
        assert report.of("files_exposed")["found"].startswith("Not checked")
        assert "service_reached" not in report.codes()
        refused = api.get(f"/api/admin/doctor?url=http://{address}/", 400)
        assert "url" in refused["message"]
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.slow
def test_a_start_of_the_application_does_not_load_the_doctor(tmp_path: Path) -> None:
    script = (
        "import json, sys\n"
        "from taskmanager.app import create_app\n"
        "create_app({'instance_path': sys.argv[1], 'database_url': ''})\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('taskmanager.')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stdout)
    assert "taskmanager.api.doctor" in loaded
    assert [name for name in loaded if name.startswith("taskmanager.doctor")] == []
