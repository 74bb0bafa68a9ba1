"""What strangers chose is printed by commands so that it cannot work on the reader's terminal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskmanager.db.connection import close_connection
from taskmanager.db.statements import execute
from taskmanager.db.transactions import write_transaction
from tests.support.commands import run_command

# Clears the screen; the same begun with one character; writes from right to left; ends a line.
HARM = "a\x1b[2J\x9b31m\u202eb\u2028\r\n2026-01-01  forged\U000e0041"


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Runs `taskmanager …` on a queue of its own, which holds such texts wherever one can be."""
    monkeypatch.setenv("TASKMANAGER_INSTANCE_PATH", str(tmp_path))
    monkeypatch.delenv("TASKMANAGER_DATABASE_URL", raising=False)

    def run(*arguments: str) -> Any:
        done = run_command(*arguments)
        assert done.exit_code == 0, done.output
        return done

    run("keys", "create", "--name", "n", "--role", "admin")
    _write_harm()
    close_connection()
    yield run
    close_connection()


@write_transaction
def _write_harm() -> None:
    execute("UPDATE api_keys SET name = ?", (HARM,))
    execute("UPDATE audit_events SET message = ?, address = ?, request_id = ?", (HARM,) * 3)


@pytest.mark.parametrize(
    "arguments",
    [
        ("audit",),
        ("audit", "--json"),
        ("keys", "list"),
        ("keys", "list", "--json"),
        ("keys", "revoke", "1"),
    ],
    ids=" ".join,
)
def test_no_command_prints_what_would_work_on_a_terminal(
    shell: Callable[..., Any], arguments: tuple[str, ...]
) -> None:
    done = shell(*arguments)
    shown = done.stdout + done.stderr
    assert "forged" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert not any(line.startswith("2026-01-01  forged") for line in shown.splitlines())


def test_a_program_reads_from_json_what_was_stored(shell: Callable[..., Any]) -> None:
    assert json.loads(shell("keys", "list", "--json").stdout)[0]["name"] == HARM
    assert json.loads(shell("audit", "--json").stdout)[0]["message"] == HARM
