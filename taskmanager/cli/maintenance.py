"""`taskmanager maintain`, `requeue-stale` and `prune`: the commands for cron."""

import contextlib
import time
from collections.abc import Callable

import click

from taskmanager.access.caller import OPERATOR
from taskmanager.alerts import watch
from taskmanager.cli.terminal import open_queue, say
from taskmanager.clock import utc_now
from taskmanager.config import Settings
from taskmanager.errors import ConfigurationError
from taskmanager.files.locks import try_file_lock
from taskmanager.notify import deliveries
from taskmanager.queue import maintenance, maintenance_runs
from taskmanager.queue.task_types import TaskDefaults

MAX_SENDING_SECONDS = 40.0


def _run_alone(work: Callable[[Settings, int, float], dict[str, int]]) -> Settings:
    """Opens the queue and calls `work` with the settings, the time and a deadline.

    Returns the settings. Does nothing if another run holds the lock. Prints a line for each
    count above zero.
    """
    settings = open_queue()
    now, started = utc_now(), time.monotonic()
    with contextlib.ExitStack() as stack:
        try:
            lock = try_file_lock(settings.instance_path / "maintenance.lock")
            locked = stack.enter_context(lock)
        except OSError as error:
            raise ConfigurationError(
                f"Nothing was done: {settings.instance_path} cannot be written "
                f"({error.strerror}). Make the user who runs this command the owner of the "
                "folder, check that the disk is neither full nor read-only, or set "
                "TASKMANAGER_INSTANCE_PATH to another folder."
            ) from error
        if not locked:
            return settings
        done = work(settings, now, started + maintenance.MAX_RUN_SECONDS)
    maintenance_runs.record_run(
        "command", started_at=now, started=started, tasks_moved=sum(done.values())
    )
    for what, count in done.items():
        if count:
            say(f"{what}: {count}")
    return settings


@click.command("requeue-stale")
def requeue_stale() -> None:
    """Requeue expired tasks and start due ones.

    Expired tasks are those whose lease has expired. Due tasks are delayed tasks
    whose time has come. maintain does this too.
    """
    _run_alone(
        lambda settings, now, deadline: {
            "requeued": maintenance.requeue_expired_claims(now=now, deadline=deadline),
            "started": maintenance.start_due_tasks(now=now, deadline=deadline),
        }
    )


@click.command()
def prune() -> None:
    """Delete old finished tasks.

    These are the tasks that finished more than TASKMANAGER_RETENTION_DAYS ago.
    maintain does this too.
    """
    _run_alone(
        lambda settings, now, deadline: {
            "pruned": maintenance.prune_finished_tasks(
                retention_days=settings.retention_days, caller=OPERATOR, now=now, deadline=deadline
            )
        }
    )


@click.command()
def maintain() -> None:
    """Run all maintenance that is due. Run it from cron once a minute.

    Sends webhooks and alerts after that.
    """
    settings = _run_alone(
        lambda settings, now, deadline: maintenance.maintain(
            retention_days=settings.retention_days,
            defaults=TaskDefaults.of(settings),
            caller=OPERATOR,
            now=now,
        )
    )
    # Under a lock of its own: a slow receiver does not keep the next run from requeueing.
    with try_file_lock(settings.instance_path / "webhooks.lock") as locked:
        if locked:
            deliveries.correct_times(now=utc_now())
            deliveries.prune(retention_days=settings.retention_days, now=utc_now())
            delivered = deliveries.send_due(
                rules=deliveries.rules_of(settings), budget_seconds=MAX_SENDING_SECONDS
            )
            if delivered:
                say(f"delivered: {delivered}")
    if sent := watch.run(settings):
        say(f"alert messages: {sent}")
