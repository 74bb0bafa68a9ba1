"""Shows the progress of the demo on stderr."""

import shutil
import sys
import time

BAR_SECONDS = 0.1
LINE_SECONDS = 5.0
ERASE_LINE = "\r\033[K"


def say(message: str) -> None:
    """Prints a line, replacing the progress bar if there is one."""
    print(f"{ERASE_LINE if sys.stderr.isatty() else ''}{message}", file=sys.stderr, flush=True)


class Progress:
    """A progress bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._bar = sys.stderr.isatty()
        self._started = self._shown_at = time.monotonic()

    def show(self, done: int) -> None:
        """Shows the progress, unless it was shown a moment ago."""
        now = time.monotonic()
        if now - self._shown_at < (BAR_SECONDS if self._bar else LINE_SECONDS):
            return
        self._shown_at = now
        self._draw(done)

    def finish(self) -> float:
        """Shows the final state and returns the seconds that it took."""
        seconds = time.monotonic() - self._started
        self._draw(self._total)
        if self._bar:
            sys.stderr.write("\n")
        return seconds

    def _draw(self, done: int) -> None:
        seconds = max(time.monotonic() - self._started, 0.001)
        text = f"{done:,} of {self._total:,}, {done / seconds:,.0f} tasks/s"
        if not self._bar:
            say(f"{self._label}: {text}")
            return
        room = max(10, min(40, shutil.get_terminal_size().columns - len(text) - 22))
        filled = room * done // self._total if self._total else room
        bar = "#" * filled + "." * (room - filled)
        sys.stderr.write(f"{ERASE_LINE}{self._label:<16} [{bar}] {text}")
        sys.stderr.flush()
