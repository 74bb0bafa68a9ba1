"""`taskmanager init-db` and `migrate`: create and upgrade the tables."""

import click

from taskmanager import __version__
from taskmanager.bootstrap import open_database, prepare_database
from taskmanager.cli.terminal import say
from taskmanager.config import Settings, load_settings
from taskmanager.db import schema
from taskmanager.db.dialect import MYSQL, SQLITE
from taskmanager.queue.task_types import unusable_task_types


@click.command("init-db")
@click.option(
    "--print", "prints", is_flag=True, help="Print the SQL to import in phpMyAdmin instead."
)
def init_db(prints: bool) -> None:
    """Create the database tables, or upgrade them.

    You can repeat this, and run it from several processes at once.
    """
    settings = load_settings()
    if not prints:
        _create_or_upgrade_tables(settings)
        return
    is_sqlite = settings.effective_database_url.startswith("sqlite:")
    engine, target = ("SQLite", SQLITE) if is_sqlite else ("MySQL and MariaDB", MYSQL)
    click.echo(f"-- The tables of TaskManager {__version__} for {engine}.")
    for statement in schema.schema_statements(target, settings.table_prefix):
        click.echo(f"\n{statement};")


@click.command()
def migrate() -> None:
    """Upgrade the database tables and keep your data.

    You can repeat this, and run it from several processes at once. An
    interrupted run is continued by the next one. Names the task types whose
    schema this version can no longer use.
    """
    _create_or_upgrade_tables(load_settings())
    for row in unusable_task_types():
        say(
            f"New tasks of type '{row['name']}' (version {row['version']}) are refused: "
            f"{row['problem']} Register the type again; see docs/schemas.md."
        )


def _create_or_upgrade_tables(settings: Settings) -> None:
    open_database(settings)
    done = prepare_database(settings, patience_seconds=schema.COMMAND_PATIENCE_SECONDS, report=say)
    what = {
        schema.Preparation.NOTHING: "are up to date",
        schema.Preparation.MADE: "have been created",
        schema.Preparation.UPGRADED: "have been upgraded",
    }[done]
    say(f"The tables {what} (schema version {schema.SCHEMA_VERSION}): {settings.database_place}")
