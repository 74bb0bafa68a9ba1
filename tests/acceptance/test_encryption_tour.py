"""The commands of "Encryption at rest" in docs/security.md, in their order, on a real server."""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.releases.current import ROOT
from tests.support.server import Server

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("### Encryption at rest\n")[2].partition("\n### ")[0]
BLOCKS = [
    textwrap.dedent(block)
    for block in re.findall(r"^ *```sh\n(.+?)^ *```$", SECTION, re.MULTILINE | re.DOTALL)
]
ADDRESS = "ann@example.org"


class Host:
    """A server with an instance folder, and a shell in the folder above."""

    def __init__(self, folder: Path) -> None:
        (folder / "instance").mkdir()
        self.folder = folder
        self.server = Server(folder / "instance", workers=1)
        self.setting = ""

    def restart_with(self, setting: str) -> None:
        self.server.stop()
        self.setting = self.server.environment["TASKMANAGER_PAYLOAD_KEY"] = setting
        self.server.start()

    def run(self, script: str) -> str:
        """What the script prints on both streams."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        key = {"URL": self.server.url, "KEY": self.server.key}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env={**self.server.environment, **key, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        return done.stdout


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    host.server.start()
    yield host
    host.server.stop()


def test_the_tour_ends_with_a_new_key_and_the_same_tasks(host: Host) -> None:
    new_key, encrypt, rotate = BLOCKS
    body = '{"name": "mail.send", "version": "1", "param_schema": {"type": "object"}}'
    headers = '-H "X-API-Key: $KEY" -H "Content-Type: application/json"'
    host.run(f"curl -fsS $URL/api/task-types/register {headers} -d '{body}'")

    first = host.run(new_key).strip()
    host.restart_with(first)
    shown = host.run(encrypt)
    assert '"is_encrypted":true' in shown.replace(" ", "")
    assert re.search(r"^ *1 +mail\.send +pending", shown, re.MULTILINE), shown
    assert shown.splitlines()[-1] == "not there"

    second = host.run(new_key).strip()
    host.restart_with(f"{second},{first}")
    assert "1 rows encrypted with the first key" in host.run(rotate)
    host.restart_with(second)
    listed = host.run(f"taskmanager tasks list params.to={ADDRESS}")
    assert re.search(r"^ *1 +mail\.send", listed, re.MULTILINE)
    assert host.run(f"grep -rl {ADDRESS} instance || echo 'not there'") == "not there\n"
