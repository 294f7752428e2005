"""Progress of long work: a bar with the time left on a terminal, a plain log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from rankdistill.export import machine_lock

log = logging.getLogger(__name__)

LINE_EVERY = 20.0  # seconds between lines where there is no terminal


class Progress:
    """Counts work of a known size; use as a context manager.

    Args:
        what: what is being done, a few words.
        total: how much there is.
        unit: what is counted, in the plural.
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self._done = 0

    def __enter__(self) -> Progress:
        from tqdm import tqdm  # here: what only reads measurements does without it

        self._start = self._last = time.monotonic()
        self._bar = tqdm(
            total=self.total, desc=self.what, unit=f" {self.unit}", leave=False, disable=not sys.stderr.isatty()
        )
        return self

    def update(self, amount: int, note: str = "") -> None:
        """Count `amount` more as done; `note` stands beside the count. Gives way to those who measure time."""
        machine_lock.give_way()
        self._done += amount
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(amount)
        now = time.monotonic()
        if self._bar.disable and now - self._last >= LINE_EVERY:
            self._last = now
            left = (now - self._start) / max(self._done, 1) * (self.total - self._done)
            share = self._done / max(self.total, 1)
            aside = f", {note}" if note else ""
            log.info(
                "%s: %d of %d %s (%.0f%%), %s left%s",
                self.what,
                self._done,
                self.total,
                self.unit,
                100 * share,
                minutes(left),
                aside,
            )

    def skip(self, amount: int) -> None:
        """Count work that an earlier run did: it says nothing of the time left."""
        self.total -= amount
        self._bar.total = self.total

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


def minutes(seconds: float) -> str:
    """Return a duration as m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
