"""What a message about alerts says: the subject and text of a mail, and the JSON that is posted.

There are no links: the only address that the program knows of itself is what callers claim.
"""

import json
import platform
from collections.abc import Sequence
from typing import NamedTuple

from taskmanager import __version__
from taskmanager.alert_rules import RULES
from taskmanager.clock import format_duration, format_time
from taskmanager.db.statements import Row

SHOWN = 50  # alerts in a text
MAX_SUBJECT = 120


class Message(NamedTuple):
    """`rows` are the alerts that it tells of."""

    subject: str
    text: str
    rows: Sequence[Row]


def about(rows: Sequence[Row]) -> Message:
    """A message about alerts that have begun or ended."""
    began = [row for row in rows if row["ended_at"] is None]
    ended = [row for row in rows if row["ended_at"] is not None]
    parts = []
    for heading, some in (("Began", began), ("Ended", ended)):
        if some:
            lines = [_lines_of(row) for row in some[:SHOWN]]
            more = [f"and {len(some) - SHOWN:,} more."] if len(some) > SHOWN else []
            parts.append("\n\n".join([f"{heading}:", *lines, *more]))
    parts.append(_sender() + " See what is open: taskmanager alerts list")
    return Message(_subject(began, ended), "\n\n".join(parts) + "\n", rows)


def test_message() -> Message:
    """What `taskmanager alerts test` sends."""
    text = f"This is a test. Alerts arrive here.\n\n{_sender()}\n"
    return Message("[TaskManager] Test of alerts", text, ())


def json_of(message: Message, *, now: int) -> bytes:
    """The body of a POST. Receivers of chats show its `text`."""
    body = {
        "type": "alerts" if message.rows else "test",
        "timestamp": format_time(now),
        "text": f"{message.subject}\n\n{message.text}",
        "alerts": [
            {
                "rule": row["rule"],
                "subject": row["subject"],
                "message": row["message"],
                "remedy": remedy_of(row),
                "began_at": format_time(row["began_at"]),
                "ended_at": format_time(row["ended_at"]),
            }
            for row in message.rows
        ],
    }
    return json.dumps(body, separators=(",", ":")).encode()


def sentence_of(row: Row) -> str:
    """What was found, as one sentence."""
    return f"{row['subject']} {row['message']}"


def remedy_of(row: Row) -> str:
    """What to do; empty for a rule that only a later version knows."""
    return RULES[row["rule"]].remedy if row["rule"] in RULES else ""


def _subject(began: Sequence[Row], ended: Sequence[Row]) -> str:
    if len(began) == 1 and not ended:
        said = sentence_of(began[0])
    elif len(ended) == 1 and not began:
        said = f"Ended: {sentence_of(ended[0])}"
    else:
        counts = ((len(began), "began"), (len(ended), "ended"))
        said = "Alerts: " + ", ".join(f"{count:,} {what}" for count, what in counts if count)
    subject = f"[TaskManager] {said}"
    return subject if len(subject) <= MAX_SUBJECT else f"{subject[: MAX_SUBJECT - 1]}…"


def _lines_of(row: Row) -> str:
    if row["ended_at"] is None:
        remedy = remedy_of(row)
        to_do = f" To do: {remedy}" if remedy else ""
        return f"{sentence_of(row)}\nSince {_minute(row['began_at'])}.{to_do}"
    lasted = format_duration(row["last_seen_at"] - row["began_at"])
    return f"{sentence_of(row)}\nFrom {_minute(row['began_at'])}, for {lasted}."


def _minute(moment: int) -> str:
    """`2026-01-31 12:00 UTC`."""
    return f"{str(format_time(moment))[:16].replace('T', ' ')} UTC"


def _sender() -> str:
    return f"TaskManager {__version__} on {platform.node()}."
