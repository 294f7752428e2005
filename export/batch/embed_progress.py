"""How far `ranker embed` or `ranker states` is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

LINE_EVERY = 20.0  # seconds between lines where there is no terminal


class EmbedProgress:
    """Counts texts that are done; use as a context manager.

    Args:
        console: that is told.
        total: how many there are, None where it is not known.
        what: is done to them.
    """

    def __init__(self, console: Console, total: int | None, what: str = "embed") -> None:
        self._console, self._total, self._done, self._what = console, total, 0, what
        columns = (what, BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

    def __enter__(self) -> EmbedProgress:
        self._start = self._last = time.monotonic()
        self._bar.start()
        self._task = self._bar.add_task(self._what, total=self._total)
        return self

    def update(self, count: int) -> None:
        """Count `count` more texts as done."""
        self._done += count
        self._bar.advance(self._task, count)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last >= LINE_EVERY:
            self._last = now
            of = "" if self._total is None else f" of {self._total}"
            rate = self._done / (now - self._start)
            self._console.print(f"{self._what}: {self._done}{of} texts, {rate:.0f} a second", highlight=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class _Rate(ProgressColumn):
    """Texts a second."""

    def render(self, task: Task) -> Text:
        """Return the column's text."""
        return Text("" if task.speed is None else f"{task.speed:.0f} texts/s")
