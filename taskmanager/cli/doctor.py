"""`taskmanager doctor`: tests the host and says how to fix what it finds."""

import sys

import click


def _check_address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from taskmanager.doctor.report import is_address

    if value is not None and not is_address(value):
        raise click.BadParameter("must be an address like https://example.org/queue")
    return value


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--url",
    metavar="ADDRESS",
    callback=_check_address,
    help="Address of the API. Also checks which files anybody can fetch from it.",
)
def doctor(as_json: bool, url: str | None) -> None:
    """Test the host and say how to fix what is wrong.

    Changes nothing. The exit status is 1 if there is a problem, else 0, even
    with warnings.
    """
    from taskmanager.doctor.report import run_doctor

    sys.exit(run_doctor(as_json=as_json, url=url))
