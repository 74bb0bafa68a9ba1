"""`taskmanager doctor`: tests the host and says how to mend what it finds."""

import sys

import click


def _check_address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from taskmanager.doctor.report import is_address

    if value is not None and not is_address(value):
        raise click.BadParameter("must be like https://example.org/queue")
    return value


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--url",
    metavar="ADDRESS",
    callback=_check_address,
    help="Where the API lies: looks what anybody can fetch from there.",
)
def doctor(as_json: bool, url: str | None) -> None:
    """Test the host, and say how to mend what is found.

    Changes nothing. Exit status 1 where there is a problem; warnings alone are 0.
    """
    from taskmanager.doctor.report import run_doctor

    sys.exit(run_doctor(as_json=as_json, url=url))
