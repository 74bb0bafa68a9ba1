"""`python -m taskmanager.doctor`: tests the host even if no other command can be loaded.

`taskmanager doctor` falls back to this if click, Flask or a part of the program is missing.
"""

import argparse
import sys

from taskmanager.doctor.report import NO_ADDRESS, is_address, run_doctor


def main(arguments: list[str] | None = None) -> None:
    """Exits with 0, with 1 if there is a problem, or with 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="taskmanager doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.add_argument("--url", metavar="ADDRESS", help="Address of the API.")
    given = parser.parse_args(arguments)
    if given.url is not None and not is_address(given.url):
        parser.error(f"argument --url: {NO_ADDRESS}")
    sys.exit(run_doctor(as_json=given.json, url=given.url))


if __name__ == "__main__":
    main()
