"""`taskmanager maintain`, `requeue-stale` and `prune`: what cron runs."""

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
    """Runs maintenance unless another run is under way, and reports only what was done."""
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
    """Take back tasks whose worker went silent, and start those whose time has come. For cron."""
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
    """Remove tasks that were finished TASKMANAGER_RETENTION_DAYS ago. For cron."""
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
    """Do all maintenance that is due. One cron line a minute is enough."""
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
