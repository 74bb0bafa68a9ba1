"""The README's shell blocks, run as a stranger would run them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SERVE = ".venv/bin/taskmanager serve\n"
BLOCK_ENDS = "--- end of block ---"


class Served(NamedTuple):
    url: str
    key: str


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """The first start of `serve` on an empty folder, and the key that it prints."""
    port = free_port()
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *SERVE.split("/")[-1].split(), "--port", str(port)],
            env={**os.environ, "TASKMANAGER_INSTANCE_PATH": str(tmp_path / "instance")},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        with server.stdout as stdout:  # type: ignore[union-attr]
            key = stdout.readline().strip()
        assert key, (tmp_path / "serve.log").read_text()
        served = Served(f"http://127.0.0.1:{port}", key)
        run("curl -sS --retry 60 --retry-delay 1 --retry-connrefused $URL/api/health", served)
        yield served
    finally:
        server.terminate()
        server.wait(30)


def tour() -> list[str]:
    """The blocks that come after the one in which address and key are set."""
    start = BLOCKS.index(SERVE)
    assert re.fullmatch(r"export URL=\S+\nexport KEY=\S+\n", BLOCKS[start + 1])
    return BLOCKS[start + 2 :]


def run(script: str, served: Served) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, "URL": served.url, "KEY": served.key},
        capture_output=True,
        text=True,
        check=False,
    )


def answers(text: str) -> list[dict[str, object]]:
    """The JSON objects that stand in `text`, one after the other."""
    decoder = json.JSONDecoder()
    found, at = [], text.find("{")
    while at >= 0:
        answer, end = decoder.raw_decode(text, at)
        found.append(answer)
        at = text.find("{", end)
    return found


def test_two_commands_stand_on_one_line_each() -> None:
    start = "python3 -m venv .venv && .venv/bin/pip install --quiet -e "
    assert [block for block in BLOCKS if block.startswith("python3")] == [
        f"{start}. && .venv/bin/taskmanager demo\n",
        f"{start}'.[test]' && .venv/bin/pytest\n",
    ]


@pytest.mark.smoke
def test_tour_works_from_beginning_to_end_with_the_key_that_serve_prints(served: Served) -> None:
    blocks = tour()
    done = run("".join(f"{block}\necho; echo '{BLOCK_ENDS}'\n" for block in blocks), served)
    assert (done.returncode, done.stderr) == (0, "")
    outputs = done.stdout.split(BLOCK_ENDS)[:-1]
    assert len(outputs) == len(blocks) > 8
    assert outputs[0].split() == ["healthy", "0"]
    calls = [answer for output in outputs for answer in answers(output)]
    assert [answer.get("code", answer["message"]) for answer in calls] == [
        "Task type registered successfully",
        "Task created successfully",
        "validation_failed",
        "Progress stored",
        "Task completed successfully",
        "OK",
        "OK",
        "no_task_available",
        "Key created; it is not shown again",
    ]
    task, logs = calls[5]["data"], calls[6]["data"]
    assert isinstance(task, dict)
    assert isinstance(logs, dict)
    assert task["result"] == {"title": "A video", "seconds": 212}
    assert [log["event"] for log in logs["logs"]] == ["created", "claimed", "completed"]


def test_creating_again_is_answered_as_the_tour_says(served: Served) -> None:
    register, create = tour()[1:3]
    done = run(f"{register}\n{create}\n{create}", served)
    first, again = answers(done.stdout)[1:]
    assert first["data"]["id"] == again["data"]["id"]  # type: ignore[index]
    assert again["data"]["deduplicated"] is True  # type: ignore[index]


def test_wrong_key_is_named_on_the_first_step(served: Served) -> None:
    done = run(tour()[0], served._replace(key="paste-the-key-here"))
    assert done.returncode == 1
    assert "This API key is not known." in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_server_is_named_on_the_first_step() -> None:
    done = run(tour()[0], Served(f"http://127.0.0.1:{free_port()}", "any"))
    assert done.returncode != 0
    assert "is the server running, and is URL right?" in done.stderr
    assert "Traceback" not in done.stderr
