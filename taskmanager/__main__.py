"""The entry point of `taskmanager` and `python -m taskmanager`.

`doctor` runs even if a library or a part of the program is missing.
"""

import errno
import os
import sys

UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


def main():  # type: ignore[no-untyped-def]  # old Pythons must be able to read it
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(
            "taskmanager: Python %d.%d is too old. Use 3.11 or newer." % sys.version_info[:2]  # noqa: UP031
        )
    give_closed_streams_a_place()  # type: ignore[no-untyped-call]
    try:
        try:
            run_command()  # type: ignore[no-untyped-call]
        finally:
            sys.stdout.flush()
    except OSError as error:
        # Errors of other files have their name, and those of the database are translated.
        if error.filename is not None or error.errno not in UNWRITTEN:
            raise
        end_without_output(error)  # type: ignore[no-untyped-call]


def give_closed_streams_a_place():  # type: ignore[no-untyped-def]
    """After `>&-`. The next file that is opened, the database, would otherwise be stdout."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            else:
                os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def end_without_output(error):  # type: ignore[no-untyped-def]
    """Exits with status 1 where the result cannot be written, for example to a full disk."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # Python writes what is left in its buffer once more at the end
    if error.errno != errno.EPIPE:  # who reads has seen enough
        sys.stderr.write("taskmanager: The output cannot be written: %s.\n" % error.strerror)  # noqa: UP031
    sys.exit(1)


def run_command():  # type: ignore[no-untyped-def]
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
