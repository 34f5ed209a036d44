"""The line that says how far a run is: rewritten in a terminal, printed now and then in a job's log."""

import sys
import time
from typing import TextIO

LOG_EVERY_S = 10.0


class Progress:
    """Shows stage, what is done, rate and time left.

    `update` may be called as often as one likes; a stage's rate counts from its first update, and what was done before
    does not enter.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._stage = ""
        self._started = self._shown = 0.0
        self._first = 0
        self._line = ""

    def update(self, stage: str, done: int, total: int, unit: str, detail: str = "") -> None:
        """Show that `done` of `total` units of a stage are done."""
        now = time.monotonic()
        if stage != self._stage:
            self.end()
            self._stage, self._started, self._first, self._shown = stage, now, done, 0.0
        line = f"{stage:<8} {done:>{len(str(total))}}/{total} {unit}"
        moved, seconds = done - self._first, now - self._started
        if moved > 0 and seconds > 0:
            rate = moved / seconds
            line += f"  {rate:.3g} {unit}/s" if rate >= 1 else f"  {1 / rate:.3g} s each"
            line += f"  {clock((total - done) / rate)} left" if done < total else ""
        line += f"  {detail}" if detail else ""
        self._show(line, now, last=done >= total)

    def end(self) -> None:
        """Close the line, so that what is printed next starts at a new one."""
        if self._terminal and self._line:
            print(file=self._stream, flush=True)
        self._line = ""

    def say(self, message: str) -> None:
        """Print a message of its own beside the progress line."""
        self.end()
        print(message, file=self._stream, flush=True)

    def _show(self, line: str, now: float, *, last: bool) -> None:
        if line == self._line:
            return
        if self._terminal:
            print(f"\r{line:<{len(self._line)}}", end="", file=self._stream, flush=True)
            self._line = line
        elif last or now - self._shown >= LOG_EVERY_S:
            print(line, file=self._stream, flush=True)
            self._line, self._shown = line, now


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours.

    >>> clock(75), clock(7500)
    ('1:15', '2:05 h')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
