"""In which order waiting requests are served: a policy gives each a place when it arrives, the smallest goes first.

A place is a time, so that what waits is overtaken by less and less: of two requests the one that is worth less goes
first if it came `age` seconds earlier for each class between them. As all of them grow older alike, places never
change while they wait, and nothing starves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

BACKGROUND = 3  # class of what nobody waits for: behind all others, but it too gets older
LONG = 40_000  # characters: a request as long as this, or longer, is the dearest to sjf


@dataclass(frozen=True)
class Urgency:
    """What a policy knows of a request.

    Attributes:
        arrived: time.monotonic() of its arrival.
        deadline: time.monotonic() after which nobody wants its answer; None for never.
        priority: its class; 0 is the most pressing.
        worth: what it is worth within its class, 0 to 1.
        characters: of its texts: what it costs.
    """

    arrived: float
    deadline: float | None = None
    priority: int = 0
    worth: float = 0.0
    characters: int = 0


Policy = Callable[[Urgency, float], float]  # (request, age in seconds) -> place


def fifo(request: Urgency, age: float) -> float:  # noqa: ARG001 - all policies take it
    """First come, first served."""
    return request.arrived


def priority(request: Urgency, age: float) -> float:
    """By class, within a class by worth."""
    return request.arrived + age * (request.priority + 1 - min(max(request.worth, 0.0), 1.0))


def edf(request: Urgency, age: float) -> float:
    """Earliest deadline first; what has none waits as if it had one of `age` seconds."""
    return request.arrived + age if request.deadline is None else request.deadline


def sjf(request: Urgency, age: float) -> float:
    """Shortest job first."""
    return request.arrived + age * min(1.0, request.characters / LONG)


POLICIES: dict[str, Policy] = {"fifo": fifo, "priority": priority, "edf": edf, "sjf": sjf}
