"""The commands of `taskmanager`, run in this process."""

from collections.abc import Mapping

from click.testing import CliRunner, Result

from taskmanager.cli import main
from taskmanager.db.connection import close_connection


def run_command(
    *arguments: str, environment: Mapping[str, str] | None = None, program: str = "taskmanager"
) -> Result:
    """What `program` does with the arguments; `environment` is added to the variables.

    The queue that it opened is the current one afterwards.
    """
    result = CliRunner(env=environment).invoke(main, arguments, prog_name=program)
    close_connection()
    return result
