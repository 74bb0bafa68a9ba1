"""The command line: `taskmanager …` or `python -m taskmanager …`. Owns the list of commands.

Exit status: 0 done, 1 failed, 2 wrong usage.
"""

import sys
from typing import Any

import click

from taskmanager import __version__
from taskmanager.cli.alerts import alerts_group
from taskmanager.cli.batches import batches_group
from taskmanager.cli.database import init_db, migrate
from taskmanager.cli.keys import keys_group
from taskmanager.cli.maintenance import maintain, prune, requeue_stale
from taskmanager.cli.overview import schedules_group, types_group, webhooks_group, workers_group
from taskmanager.cli.payloads import payloads_group
from taskmanager.cli.reports import audit, doctor, openapi, stats
from taskmanager.cli.server import demo, serve, worker
from taskmanager.cli.tasks import tasks_group
from taskmanager.cli.terminal import say
from taskmanager.cli.transfer import export, import_, import_php_
from taskmanager.errors import TaskManagerError


class _Group(click.Group):
    """Prints a TaskManagerError or a missing library as one line on stderr; exits with status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TaskManagerError as error:
            say(f"taskmanager: {error.message}")
        except ModuleNotFoundError as error:
            say(
                f"taskmanager: The module {error.name} is missing. To find out what to install or "
                "upload, run: python -m taskmanager doctor"
            )
        sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="taskmanager")
def main() -> None:
    """A task queue behind an HTTP JSON API.

    Settings come from TASKMANAGER_* environment variables or a .env file.
    """


for command in (
    *(serve, demo, worker, init_db, migrate, keys_group, payloads_group, stats, audit, openapi),
    *(tasks_group, types_group, batches_group, workers_group, schedules_group, webhooks_group),
    *(alerts_group, export, import_, import_php_, maintain, requeue_stale, prune, doctor),
):
    main.add_command(command)
