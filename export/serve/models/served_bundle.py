"""What the service needs of a bundle to answer requests."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rankdistill.export.runtime.embedder import Embedder
from rankdistill.export.runtime.plan import Plan
from rankdistill.export.runtime.ranker import Ranker
from rankdistill.export.serve.models.governor import Governor
from rankdistill.export.serve.scheduling.job import Answer


@dataclass(frozen=True)
class ServedLevel:
    """A way to score requests.

    Attributes:
        name: of a cascade's level; without a cascade, of the graph.
        plan: what scores requests, with the cache if there is one.
        bare: the same without the cache.
        begins_slowly: whether its first step is preceded by work that an event loop should not do.
    """

    name: str
    plan: Plan
    bare: Plan
    begins_slowly: bool = False


@dataclass(frozen=True)
class Served:
    """A bundle's models, ready to answer.

    Attributes:
        ranker: the bundle's own model, for what is told of it.
        levels: from the dearest to the cheapest.
        governor: chooses among them; None where there is but one.
        embedder: of single texts; None where the bundle has none.
    """

    ranker: Ranker
    levels: tuple[ServedLevel, ...]
    governor: Governor | None = None
    embedder: Embedder | None = None

    @property
    def name(self) -> str:
        """What answers call it."""
        return str(self.ranker.manifest.content["name"])

    @property
    def bare(self) -> Plan:
        """The dearest level without the cache: what two bundles are compared by."""
        return self.levels[0].bare

    def begin(self, backlog_s: float) -> int:
        """Count a request and return the level that is to answer it: its place."""
        if self.governor is None:
            return 0
        now = time.monotonic()
        self.governor.arrived(now)
        return self.governor.choose(now, backlog_s)

    def end(self, level: int, began: float, answer: Answer | None) -> None:
        """Learn what became of a request.

        Args:
            level: that `begin` returned.
            began: time.monotonic() of its arrival.
            answer: None if its deadline passed.
        """
        if self.governor is not None:
            now = time.monotonic()
            worked_s = 0.0 if answer is None or answer.shared else answer.worked_s
            self.governor.ended(level, now - began, worked_s, now)
