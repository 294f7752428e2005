"""A worker beside the service: it takes events as they come and updates on their number, on time, or on drift."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from rankdistill.errors import TooFewError
from rankdistill.export.errors import UserError
from rankdistill.export.full_disk import write_problem
from rankdistill.online.events.catalogue import Catalogue
from rankdistill.online.events.feedback import Feedback
from rankdistill.online.events.source import identity
from rankdistill.online.origin import Origin
from rankdistill.online.process_priority import step_back
from rankdistill.online.update import Outcome, first_version, read_events, run_update, source_of
from rankdistill.online.version_state import State
from rankdistill.online.versions import UPDATE, Published, Version
from rankdistill.options import Updating

log = logging.getLogger(__name__)


class Stopped(BaseException):
    """A signal asks the worker to end; no `except Exception` of a library may keep it."""


@dataclass
class Cue:
    """When to update: so many new events, so long after the first of them, or when the served model has drifted.

    Args:
        config: has the bounds.
        clock: seconds, from any beginning.
    """

    config: Updating
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._first: float | None = None
        self._tried = 0
        self._followed = 0
        self._drift: Any = None
        if self.config.follow.drift:
            from rankdistill.online.drift import Drift

            self._drift = Drift(self.config.drift)

    def look(self, feedback: Feedback) -> str | None:
        """Return why to update now, None if not.

        Args:
            feedback: the events that the served version has not seen, all of them.
        """
        new, follow = len(feedback), self.config.follow
        if new == 0:
            self._first = None
            return None
        if self._first is None:
            self._first = self.clock()
        alarms = self._alarms(feedback)
        if new - self._tried < self.config.update.min_events:
            return None
        if new - self._tried >= follow.count:
            return f"{new} events"
        if alarms:
            return alarms
        if follow.every_s is not None and self.clock() - self._first >= follow.every_s:
            return f"{follow.every_s:g} s"
        return None

    def done(self, outcome: Outcome, events: int) -> None:
        """Note what came of it: refused events are tried again only with as many new ones, or as much later."""
        consumed = outcome.what not in ("refused", "waiting")
        self._tried = 0 if consumed else events
        self._followed = 0 if consumed else self._followed
        self._first = None

    def _alarms(self, feedback: Feedback) -> str | None:
        if self._drift is None:
            return None
        from rankdistill.online.drift import shown_scores

        fresh = feedback.take(_placed(feedback, self._followed))
        self._followed = len(feedback)
        if not len(fresh):
            return None
        found = self._drift.add(fresh, shown_scores(fresh))
        if not found:
            return None
        last = found[-1]
        of = last.model or "the served model"
        return f"drift: {self.config.drift.measure} of {of} {last.before:.3f} to {last.after:.3f}"


class Unread:
    """The events that the served version has not seen, read again only when there is something new.

    Args:
        config: says where they are.
        origin: has the texts that they may leave out.
    """

    def __init__(self, config: Updating, origin: Origin) -> None:
        self._config, self._origin = config, origin
        self._source = source_of(config)
        self._read: tuple[object, Feedback] | None = None
        self._texts: tuple[object, Catalogue] | None = None

    def read(self, served: Version) -> Feedback:
        """Return them.

        Raises:
            UserError: if they cannot be read.
        """
        catalogue, found = self.catalogue(), identity(self._source)
        known = (served.number, found, id(catalogue))
        if found is None or self._read is None or self._read[0] != known:
            self._read = (known, read_events(self._config, State.load(served.state), catalogue))
        return self._read[1]

    def catalogue(self) -> Catalogue:
        """Return the texts that events may leave out; those of a run do not change, those of a folder may."""
        folder = self._config.catalogue
        found = None if folder is None else identity(os.path.expanduser(folder))  # noqa: PTH111
        if self._texts is None or self._texts[0] != found:
            self._texts = (found, self._origin.catalogue(folder))
        return self._texts[1]


def follow(config: Updating, origin: Origin, published: Published, tell: Callable[[Outcome], None]) -> None:
    """Update again and again, until SIGTERM or SIGINT; what is under way then is left out, nothing of it is seen.

    Args:
        config: the validated options.
        origin: of the first version.
        published: the folder of versions.
        tell: is told of every update.

    Raises:
        UserError: if another worker has the folder, or events cannot be read.
    """
    with published.locked(), _until_stopped():
        step_back(config.follow.nice)
        cue, unread = Cue(config), Unread(config, origin)
        served = first_version(published, origin, config.feedback.remembered)
        with suppress(TooFewError):  # of a young log
            unread.read(served)  # a mistake in the options ends here
        log.info("following %s for %s", config.events, published.folder)
        told = ""
        while True:
            try:
                outcome, trouble = _step(config, origin, published, cue, unread), ""
            except Exception as error:  # a full disk, a log that is being replaced: it may pass
                problem = write_problem(error, [published.folder])
                if problem is None and not isinstance(error, UserError | OSError):
                    raise
                outcome, trouble = None, problem or str(error)
            if trouble != told:  # once, however long it lasts
                log.warning("not updated: %s", trouble) if trouble else log.info("going on")
                told = trouble
            if outcome is None:
                time.sleep(config.follow.poll_s)
            else:
                tell(outcome)


def _step(config: Updating, origin: Origin, published: Published, cue: Cue, unread: Unread) -> Outcome | None:
    """Update, if it is time to; returns what came of it."""
    feedback = unread.read(first_version(published, origin, config.feedback.remembered))
    why = cue.look(feedback)
    if why is None:
        return None
    log.info("updating: %s", why)
    threads = config.follow.threads
    outcome = run_update(config, origin, published, cue=why, catalogue=unread.catalogue(), threads=threads)
    cue.done(outcome, len(feedback))
    if outcome.what == UPDATE and (gone := published.prune(config.keep)):
        log.info("deleted old versions: %s", ", ".join(map(str, gone)))
    return outcome


@contextmanager
def _until_stopped() -> Iterator[None]:
    """End the block, and nothing more, when a signal comes."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except Stopped as stopped:
        log.info("%s: ended; the next worker goes on with the events after the served version", stopped)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _placed(feedback: Feedback, start: int) -> Any:
    """Return the lists from `start` on whose items all have a position, int64 [such lists]."""
    import numpy as np

    first = np.minimum.reduceat(feedback.position, feedback.split.offsets[:-1])
    return start + np.flatnonzero(first[start:] > 0)
