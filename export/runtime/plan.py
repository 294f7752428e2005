"""How a request's scores come about: which model scores which items, one step after the other.

A plan is a generator of steps. Whoever drives it scores a step's items, sends the scores back, and gets the next step
or, in the end, the request's scores. So one plan serves a library call (`score`), the service's threads
(`dispatcher`), and can be wrapped (`score_cache.Cached`) without knowing of either.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

from rankdistill.export.runtime.manifest import Variant
from rankdistill.export.runtime.scorer import Float32


class Work(Protocol):
    """A step parted into tasks that any threads may run in any order; `scores` are there when all were run."""

    scores: Float32
    tasks: list[list[int]]

    def run(self, rows: Sequence[int]) -> None:
        """Do a task in the calling thread."""


class Model(Protocol):
    """What scores the items of a step: a `Ranker`, or `Nearness`."""

    variant: Variant

    @property
    def key(self) -> str:
        """Names it: two of one key give a pair the same score."""

    def score_items(self, query: str, items: Sequence[str]) -> Float32:
        """Return scores of a query's items, float32 [items], by threads of its own."""

    def pairs(self, query: str, items: Sequence[str]) -> Work:
        """Return the same as tasks, for whoever has threads."""


class Step(NamedTuple):
    """Items that one model is to score for a query; answered with its scores, float32 [items]."""

    ranker: Model
    query: str
    items: Sequence[str]


Steps = Generator[Step, Float32, Float32]


class Plan(Protocol):
    """What scores a request."""

    def steps(self, query: str, items: Sequence[str]) -> Steps:
        """Yield what is to be scored; return the request's scores, float32 [items], higher is better."""


class OneModel:
    """All items by one model.

    Args:
        ranker: the model.
    """

    def __init__(self, ranker: Model) -> None:
        self.ranker = ranker

    def steps(self, query: str, items: Sequence[str]) -> Steps:
        """See `Plan.steps`."""
        return (yield Step(self.ranker, query, items))


def score(plan: Plan, query: str, items: Sequence[str]) -> Float32:
    """Score a query's items by a plan in the calling thread and its models' own threads.

    Returns:
        float32 [items].

    Raises:
        TypeError: if a text is no str.
        RuntimeError: if a model of it is closed.
    """
    steps = plan.steps(query, items)
    try:
        step = next(steps)
        while True:
            step = steps.send(step.ranker.score_items(step.query, step.items))
    except StopIteration as end:
        scores: Float32 = end.value
        return scores
