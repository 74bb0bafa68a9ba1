"""The driver in Python; ../scenarios.py says what it does."""

import os
import sys
import time
from pathlib import Path

from taskmanager_client import Client, Fail, Retry, Worker

client = Client.from_env()


def note(text: str) -> None:
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(f"{text}\n")


worker = Worker(
    client,
    grace=float(os.environ.get("GRACE", "1")),
    processes=os.environ.get("PROCESSES", "1") == "1",
)


@worker.task("scenario.echo")
def echo(task):
    return task.params


@worker.task("scenario.retry")
async def retry(task):
    if task.attempt == 1:
        raise Retry(after=0)
    return task.attempt


@worker.task("scenario.fail")
def fail(task):
    raise Fail("broken", "It will never work.")


@worker.task("scenario.error")
def error(task):
    raise LookupError("Something broke.")


@worker.task("scenario.long")
@worker.task("scenario.slow", lease_seconds=6)
def slow(task):
    note("began")
    time.sleep(task.params["seconds"])
    note("ended")
    return "done"


@worker.task("scenario.lease", lease_seconds=6)
@worker.task("scenario.wait")
def wait(task):
    note("began")
    while not task.stopping:
        time.sleep(0.02)
    note("stopping")
    return "stopped"


@worker.task("scenario.hang", timeout=1)
def hang(task):
    note("began")
    while True:
        time.sleep(1)


if "CREATE" in os.environ:
    client.health()
    options = {} if os.environ.get("DEDUPE") == "" else {"dedupe": "none"}
    print(client.create(os.environ["CREATE"], **options).id)
    sys.exit()
worker.run(burst=os.environ.get("BURST") == "1")
