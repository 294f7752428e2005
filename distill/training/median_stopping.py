"""Giving up a student whose dev nDCG@10 is hopeless beside those of a search that cost no more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rankdistill.errors import ConfigError
from rankdistill.export.errors import UserError

Point = tuple[float, float]  # share of the training done, dev nDCG@10


class Pruned(UserError):  # noqa: N818 - no fault: the search goes on
    """A training was given up; the message says beside what."""


@dataclass(frozen=True)
class Curve:
    """What a finished student cost, and how it learned.

    Attributes:
        cost: work per pair: parameters beyond the embeddings x tokens.
        points: dev nDCG@10 by the share of the training done.
    """

    cost: float
    points: Sequence[Point]

    @classmethod
    def read(cls, student: Path) -> Curve | None:
        """Return the curve of a student's stage; None if it was not measured on the way."""
        content = json.loads((student / "training.json").read_text(encoding="utf-8"))
        points = [
            (round(row["step"] / content["steps"], 4), row["eval_ndcg@10"])
            for row in content["history"]
            if "eval_ndcg@10" in row
        ]
        return cls(content["cost"], points) if points else None

    def at(self, share: float) -> float | None:
        """Return the last value known at a share of the training."""
        known = [value for done, value in self.points if done <= share + 0.01]
        return known[-1] if known else None


@dataclass(frozen=True)
class Rivals:
    """The finished students of a search, and when another is hopeless beside them.

    A student that costs less may be worse: it is compared only with those that cost no more, and given up when it is
    below their median (Golovin et al. 2017, section 3.1.2) by more than a margin for the noise of dev.

    Attributes:
        least: rivals of no higher cost that are needed.
        margin: of nDCG@10.
        curves: of the finished students.
    """

    least: int
    margin: float
    curves: Sequence[Curve]

    @classmethod
    def read(cls, path: Path) -> Rivals:
        """Read what `write` wrote.

        Raises:
            ConfigError: if it is no such file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            curves = [Curve(float(curve["cost"]), [tuple(p) for p in curve["points"]]) for curve in content["curves"]]
            return cls(int(content["least"]), float(content["margin"]), curves)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"rivals={path}: no file of a search's curves ({error})") from error

    def as_json(self) -> dict[str, Any]:
        """Return what `read` reads."""
        return asdict(self)

    def check(self, cost: float, share: float, value: float) -> None:
        """Look at a training.

        Args:
            cost: of the student, see `Curve`.
            share: of its training done.
            value: its dev nDCG@10 now.

        Raises:
            Pruned: if it is hopeless.
        """
        found = [curve.at(share) for curve in self.curves if curve.cost <= cost]
        known = [other for other in found if other is not None]
        if known and len(known) >= self.least and value < median(known) - self.margin:
            raise Pruned(
                f"given up after {share:.0%} of the training: dev nDCG@10 {value:.4f}, below {median(known):.4f}, the "
                f"median of {len(known)} students that cost no more, by more than {self.margin:g}"
            )
