"""docs/flow.md: its calls, in its order, answer what the page shows."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from typing import Any

from tests.support.releases.current import ROOT
from tests.support.server import Server

PAGE = (ROOT / "docs" / "flow.md").read_text(encoding="utf-8")
STEPS = re.findall(r"```sh\n(.+?)\n```\n\n```json\n(.+?)\n```", PAGE, re.DOTALL)


def test_each_call_answers_what_the_page_shows(start_server: Callable[..., Server]) -> None:
    server = start_server()
    environment = {"TASKMANAGER_URL": server.url, "TASKMANAGER_KEY": server.key, "PATH": os.defpath}
    for command, shown in STEPS:
        answer = subprocess.run(
            ["bash", "-c", command], env=environment, check=True, capture_output=True, timeout=30
        )
        answered: dict[str, Any] = json.loads(answer.stdout)
        data = answered.get("data", answered)  # an error has none
        expected = json.loads(shown)
        assert {name: data[name] for name in expected} == expected, command


def test_every_call_of_the_page_is_run() -> None:
    assert len(STEPS) == PAGE.count("```sh") == PAGE.count("```json")
