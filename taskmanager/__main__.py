"""The entry point of `taskmanager` and `python -m taskmanager`.

`doctor` runs even if a library or a part of the program is missing.
"""

import sys


def main():  # type: ignore[no-untyped-def]  # old Pythons must be able to read it
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(
            "taskmanager: Python %d.%d is too old. Use 3.11 or newer." % sys.version_info[:2]  # noqa: UP031
        )
    try:
        from taskmanager.cli import main as run
    except Exception as error:
        if sys.argv[1:2] != ["doctor"]:
            error.add_note(
                "To find out what is missing or damaged, run: python -m taskmanager doctor"
            )
            raise
        from taskmanager.doctor.__main__ import main as examine

        examine(sys.argv[2:])
    else:
        run(prog_name="taskmanager")


if __name__ == "__main__":
    main()  # type: ignore[no-untyped-call]
