"""The driver that runs this very file as the program of the worker command; see ../scenarios.py."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def note(text: str) -> None:
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(f"{text}\n")


def handle(name: str, params: dict, attempt: int) -> object:
    if name == "retry" and attempt == 1:
        sys.exit(75)
    if name == "retry":
        return attempt
    if name == "fail":
        print("It will never work.", file=sys.stderr)
        sys.exit(65)
    if name == "error":
        sys.exit("Something broke.")
    if name in ("slow", "long"):
        note("began")
        time.sleep(params["seconds"])
        note("ended")
        return "done"
    if name in ("wait", "lease"):
        stopped = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
        note("began")
        while not stopped:
            time.sleep(0.02)
        note("stopping")
        return "stopped"
    return params


if "TASKMANAGER_TASK_ID" in os.environ:
    kind = os.environ["TASKMANAGER_TYPE"].removeprefix("scenario.")
    answer = handle(kind, json.load(sys.stdin), int(os.environ["TASKMANAGER_ATTEMPT"]))
    json.dump(answer, sys.stdout)
    sys.exit()

from taskmanager_client import Client  # noqa: E402
from taskmanager_client.command import main  # noqa: E402

if "CREATE" in os.environ:
    client = Client.from_env()
    client.health()
    no_options = os.environ.get("DEDUPE") == ""
    print(client.create(os.environ["CREATE"], **({} if no_options else {"dedupe": "none"})).id)
    sys.exit()
types = ("echo", "retry", "fail", "error", "slow", "long", "wait", "lease")
options = [f"--type=scenario.{name}" for name in types]
options += ["--lease", "6", "--grace", os.environ.get("GRACE", "1")]
options += ["--burst"] if os.environ.get("BURST") == "1" else []
sys.exit(main([*options, "--", sys.executable, __file__]))
