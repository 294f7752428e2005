"""One live request put to the model that answers and to a candidate at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial

from rankdistill.export.runtime.plan import Plan
from rankdistill.export.serve.models.model_slot import Lease, Model
from rankdistill.export.serve.models.served_bundle import Served
from rankdistill.export.serve.models.trial import Trial
from rankdistill.export.serve.scheduling.dispatcher import Dispatcher
from rankdistill.export.serve.scheduling.job import Answer, DeadlinePassed, QueueFull
from rankdistill.export.serve.scheduling.policy import BACKGROUND

PATIENCE_S = 10.0  # with a trial request


class _Apart:
    """A plan whose requests are never taken for equal ones in flight: what it costs is to be seen."""

    def __init__(self, plan: Plan) -> None:
        self.steps = plan.steps


class Comparison:
    """One request put to the model that answers and to the candidate at the same time, without their caches."""

    def __init__(self, trial: Trial, end: Callable[[], None]) -> None:
        self._trial, self._end = trial, end
        self._answers: list[Answer | None] = [None, None]
        self._passed: list[DeadlinePassed | None] = [None, None]
        self._left = 2
        self._lock = threading.Lock()

    def begin(
        self, dispatcher: Dispatcher, own: Model[Served], candidate: Model[Served], query: str, items: Sequence[str]
    ) -> None:
        """Line the request up for both; where one of them is gone or there is no room, nothing comes of it."""
        deadline = time.monotonic() + PATIENCE_S
        for place, model in enumerate((own, candidate)):
            lease = model.lease()
            if lease is None:
                self._count()
                continue
            try:
                plan = _Apart(model.content.bare)
                future = dispatcher.submit(plan, query, items, priority=BACKGROUND, deadline=deadline)
            except (QueueFull, RuntimeError):
                lease.release()
                self._count()
                continue
            future.add_done_callback(partial(self._done, place, lease))

    def _done(self, place: int, lease: Lease[Served], future: Future[Answer]) -> None:
        lease.release()
        try:
            self._answers[place] = future.result()
        except DeadlinePassed as passed:
            self._passed[place] = passed
        except CancelledError:
            pass
        except Exception as error:
            if place:
                self._trial.failed(error)
        self._count()

    def _count(self) -> None:
        """Count a model as done; with the second one the two are compared."""
        with self._lock:
            self._left -= 1
            if self._left:
                return
        self._end()
        own, candidate = self._answers
        passed = self._passed[1]
        if own is not None and passed is not None:  # there was time enough for the other
            self._trial.failed(passed)
        if own is not None and candidate is not None:
            self._trial.saw(own.scores, candidate.scores, own.cpu_s, candidate.cpu_s)
