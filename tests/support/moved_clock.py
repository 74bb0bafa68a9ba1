"""A clock for processes that a test starts: it reads an offset from a file, again and again.

Python imports a `sitecustomize` that it finds on PYTHONPATH before any program, so the
program itself needs no hook. Monotonic clocks are left alone, as by a host whose clock is set.
"""

import os
from pathlib import Path

SITECUSTOMIZE = """
import time

time_ns = time.time_ns


def moved_time_ns():
    with open({path!r}) as file:
        return time_ns() + int(file.read()) * 1_000_000_000


time.time_ns = moved_time_ns
time.time = lambda: moved_time_ns() / 1_000_000_000
"""


class MovedClock:
    """`environment` is for the processes whose clock it is to be."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock-offset"
        self.set(0)
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(SITECUSTOMIZE.format(path=str(self._file)))
        self.environment = {"PYTHONPATH": str(site)}

    def set(self, seconds: int) -> None:
        """Sets the clock so far ahead of the right time, or behind it."""
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        os.replace(new, self._file)
