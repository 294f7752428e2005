"""A request in flight, all who wait for it, and what becomes of it."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import NamedTuple

from rankdistill.export.runtime.plan import Step, Steps, Work
from rankdistill.export.runtime.scorer import Float32


class QueueFull(Exception):  # noqa: N818 - what happened, no fault
    """As many requests wait as may.

    Attributes:
        retry_after: seconds after which half of them should be done.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the queue is full; again in {retry_after:.1f} s")
        self.retry_after = retry_after


class DeadlinePassed(Exception):  # noqa: N818
    """A request was not done before its deadline; what was left of it is dropped."""


class Answer(NamedTuple):
    """What became of a request.

    Attributes:
        scores: float32 [items], higher is better.
        waited_s: seconds until a thread began it; 0 if nothing had to be scored.
        worked_s: seconds that threads were at it.
        cpu_s: CPU time of these threads meanwhile.
        scored: items that models scored, each step's counted; the others were known.
        shared: whether an equal request's scores were used that was in flight already.
    """

    scores: Float32
    waited_s: float
    worked_s: float
    cpu_s: float
    scored: int
    shared: bool


@dataclass(eq=False)
class Job:
    """A request in flight, and all who wait for it."""

    key: tuple[object, ...]
    place: float
    steps: Steps
    step: Step | None  # None: it is not begun yet
    texts: int  # that its first step asks for: what a cache knows costs nothing; all, before that is known
    arrived: float
    waiters: list[tuple[Future[Answer], float]] = field(default_factory=list)  # each with its deadline
    entry: int = -1  # in the queue; -1 while it is not
    begun: float | None = None
    pairs: Work | None = None
    handed: int = 0  # tasks of this step that threads have taken
    running: int = 0  # threads that work on it
    worked_s: float = 0.0
    cpu_s: float = 0.0
    scored: int = 0


def fail(job: Job, error: BaseException) -> None:
    """End a request with an error, for all who wait for it."""
    with contextlib.suppress(ValueError):  # a thread is in its midst; it will find the job gone
        job.steps.close()
    for future, _ in job.waiters:
        settle(future, error)


def settle(future: Future[Answer], outcome: Answer | BaseException) -> None:
    """Set what became of a request, unless nobody waits for it any more."""
    with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
