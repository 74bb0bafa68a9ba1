"""The situations that a worker of each language has to master, as data.

A driver is a small worker in one language (`drivers/`). It reads the address of the proxy and a key
from TASKMANAGER_URL and TASKMANAGER_KEY, works in bursts if BURST is 1, with a grace of GRACE
seconds (1), and appends a line to the file in NOTES for what a handler sees. Its handlers, by type:

    scenario.echo   returns its params
    scenario.retry  asks for another attempt at once in the first attempt, then returns the attempt
    scenario.fail   fails for good with the code "broken" and the message "It will never work."
    scenario.error  raises the language's ordinary error with the message "Something broke."
    scenario.slow   notes "began", works for `seconds`, notes "ended", returns "done".
                    Its lease is 6 seconds
    scenario.long   the same, with the lease that the server gives
    scenario.wait   notes "began", waits until it should stop, notes "stopping", returns "stopped"
    scenario.lease  the same, with a lease of 6 seconds
    scenario.hang   notes "began" and never ends by itself. Its timeout is one second

With CREATE set to a type, a driver asks for the server's health, creates a task of the type without
de-duplication, and prints its id; with an empty DEDUPE it leaves that to the type.
"""

from dataclasses import dataclass, field
from typing import Any

from tests.clients.proxy import Fault

# Many requests: for the whole scenario.
ALWAYS = 1_000_000


@dataclass(frozen=True)
class Scenario:
    """One task, what happens on its way, and what has to become of it.

    `expected` are fields of the finished task; `notes` what its handler must have seen in total.
    A request that was refused with Retry-After must not come again within that second.
    """

    name: str
    type: str = "scenario.echo"
    params: dict[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    expected: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


def _done(result: Any, attempts: int = 1) -> dict[str, Any]:
    return {"status": "completed", "result": result, "attempts": attempts}


def _echoed(name: str, params: dict[str, Any], *faults: Fault) -> Scenario:
    return Scenario(name, params=params, faults=faults, expected=_done(params))


_SMALL = {"n": 1}
_CLAIM, _COMPLETE, _HEARTBEAT = "/tasks/claim", "/complete", "/workers/heartbeat"

SCENARIOS = [
    _echoed("success", _SMALL),
    Scenario("retry", type="scenario.retry", expected=_done(2, attempts=2)),
    Scenario(
        "permanent failure",
        type="scenario.fail",
        expected={
            "status": "failed",
            "attempts": 1,
            "error_code": "broken",
            "error_message": "It will never work.",
        },
    ),
    Scenario("error", type="scenario.error", expected={"status": "failed", "attempts": 2}),
    Scenario(
        "timeout",
        type="scenario.hang",
        expected={"status": "failed", "attempts": 2, "error_code": "timed_out"},
        notes=("began", "began"),
    ),
    _echoed("claim lost before the server", _SMALL, Fault(_CLAIM, "lose_request", times=3)),
    _echoed("claim lost after the server", _SMALL, Fault(_CLAIM, "lose_answer", times=2)),
    _echoed("answer to a claim cut", _SMALL, Fault(_CLAIM, "cut_answer")),
    Scenario(
        "answer to a claim cut, and heartbeats late",
        type="scenario.long",
        params={"seconds": 4},
        faults=(Fault(_CLAIM, "cut_answer"), Fault(_HEARTBEAT, "delay", times=ALWAYS, seconds=1)),
        expected=_done("done"),
        notes=("began", "ended"),
    ),
    _echoed("report lost before the server", _SMALL, Fault(_COMPLETE, "lose_request", times=3)),
    _echoed("report lost after the server", _SMALL, Fault(_COMPLETE, "lose_answer", times=2)),
    _echoed("answer to a report cut", _SMALL, Fault(_COMPLETE, "cut_answer")),
    _echoed("429 for a claim", _SMALL, Fault(_CLAIM, "refuse", status=429)),
    _echoed("503 for a claim", _SMALL, Fault(_CLAIM, "refuse", status=503)),
    _echoed("429 for a report", _SMALL, Fault(_COMPLETE, "refuse", status=429)),
    _echoed("503 for a report", _SMALL, Fault(_COMPLETE, "refuse", status=503, times=2)),
    # What a web server answers while the application behind it is being replaced.
    _echoed("404 of another program for a report", _SMALL, Fault(_COMPLETE, "refuse", status=404)),
    Scenario(
        "more work than a lease",
        type="scenario.slow",
        params={"seconds": 8},
        expected=_done("done"),
        notes=("began", "ended"),
    ),
    Scenario(
        "heartbeats lost and refused",
        type="scenario.slow",
        params={"seconds": 8},
        faults=(Fault(_HEARTBEAT, "lose_answer"), Fault(_HEARTBEAT, "refuse")),
        expected=_done("done"),
        notes=("began", "ended"),
    ),
    Scenario(
        "heartbeats late",
        type="scenario.slow",
        params={"seconds": 8},
        faults=(Fault(_HEARTBEAT, "delay", times=ALWAYS, seconds=0.5),),
        expected=_done("done"),
        notes=("began", "ended"),
    ),
    Scenario(
        "lease that cannot be renewed",
        type="scenario.lease",
        faults=(Fault(_HEARTBEAT, "lose_request", times=ALWAYS),),
        expected=_done("stopped"),
        notes=("began", "stopping"),
    ),
    _echoed(
        "unicode",
        {
            "plain": "Příliš žluťoučký kůň",
            "wide": "𝄞 👩‍👩‍👧 \U0010ffff",
            "line\u2028ends": '\u2028\u2029\u0085\r\n\t"\\/',
            "ключ": ["", " ", "\ufeff", "e\u0301", "\u007f\u0001"],
        },
    ),
    _echoed(
        "large numbers",
        {"safe": [2**53 - 1, 1 - 2**53], "real": [1e300, 5e-324, 0.1, -1.7976931348623157e308]},
    ),
    _echoed("a megabyte of params", {"text": "x" * 500_000, "list": list(range(60_000))}),
    _echoed("nested", {"a": {"b": [{"c": [[], [[]], None, True, False, 0, ""]}]}}),
]
