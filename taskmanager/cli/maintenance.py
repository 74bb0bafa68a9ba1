"""`taskmanager maintain`, `requeue-stale` and `prune`: the commands for cron."""

import time
from collections.abc import Callable

import click

from taskmanager.access.caller import OPERATOR
from taskmanager.cli.terminal import open_queue, say
from taskmanager.clock import utc_now
from taskmanager.config import Settings
from taskmanager.files.locks import try_file_lock
from taskmanager.queue import maintenance, maintenance_runs
from taskmanager.queue.task_types import TaskDefaults


def _alone(settings: Settings, work: Callable[[], dict[str, int]]) -> None:
    """Runs `work` unless another run holds the lock; prints a line for each count above zero."""
    now, started = utc_now(), time.monotonic()
    with try_file_lock(settings.instance_path / "maintenance.lock") as locked:
        if not locked:
            return
        done = work()
    maintenance_runs.record_run(
        "command", started_at=now, started=started, tasks_moved=sum(done.values())
    )
    for what, count in done.items():
        if count:
            say(f"{what}: {count}")


@click.command("requeue-stale")
def requeue_stale() -> None:
    """Requeue expired tasks and start due ones.

    Expired tasks are those whose lease has expired. Due tasks are delayed tasks
    whose time has come. maintain does this too.
    """
    settings = open_queue()
    deadline = time.monotonic() + maintenance.MAX_RUN_SECONDS
    now = utc_now()
    _alone(
        settings,
        lambda: {
            "requeued": maintenance.requeue_expired_claims(now=now, deadline=deadline),
            "started": maintenance.start_due_tasks(now=now, deadline=deadline),
        },
    )


@click.command()
def prune() -> None:
    """Delete old finished tasks.

    These are the tasks that finished more than TASKMANAGER_RETENTION_DAYS ago.
    maintain does this too.
    """
    settings = open_queue()
    deadline = time.monotonic() + maintenance.MAX_RUN_SECONDS
    _alone(
        settings,
        lambda: {
            "pruned": maintenance.prune_finished_tasks(
                retention_days=settings.retention_days,
                caller=OPERATOR,
                now=utc_now(),
                deadline=deadline,
            )
        },
    )


@click.command()
def maintain() -> None:
    """Run all maintenance that is due. Run it from cron once a minute."""
    settings = open_queue()
    _alone(
        settings,
        lambda: maintenance.maintain(
            retention_days=settings.retention_days,
            defaults=TaskDefaults.of(settings),
            caller=OPERATOR,
            now=utc_now(),
        ),
    )
