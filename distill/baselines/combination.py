"""The best linear combination of rankers that cost nothing to train, which a teacher learns before it sees labels.

A few weights need a few lists, where a cross-encoder needs thousands: what popularity, BM25 and the untuned embedding
know together it is told as a margin between every two candidates, not as one that was chosen out of fifty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from rankdistill.data.records import Float32, Split
from rankdistill.errors import TrainingError
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.training.monitor import METRIC

POPULARITY = "popularity"  # a count, of which the logarithm is taken: twice as popular is as much more everywhere
RIDGE = 1e-3  # of the standardised weights, beside a mean over lists: keeps them finite where few lists are separable
FILE = "combination.json"

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Combination:
    """A sum of rankers' scores, each less its mean, by its deviation, times its weight.

    Attributes:
        mean: by ranker.
        deviation: by ranker.
        weight: by ranker.
    """

    mean: dict[str, float]
    deviation: dict[str, float]
    weight: dict[str, float]

    @classmethod
    def fit(cls, scores: Mapping[str, Float32], split: Split) -> Combination:
        """Return the combination whose softmax over each list comes nearest to the list's graded gains.

        The loss is `losses.listwise_labels`' over whole lists, so that the sums are logits in its scale.

        Args:
            scores: of each ranker, float32 [pairs].
            split: whose pairs they are.

        Raises:
            TrainingError: if no ranker tells candidates apart, or no list has a relevant one.
        """
        values = {name: _values(name, each) for name, each in sorted(scores.items())}
        mean = {name: float(each.mean()) for name, each in values.items()}
        deviation = {name: float(each.std()) for name, each in values.items() if each.std() > 0}
        lists = _Lists.of(split)
        if not deviation or not lists.gains.any():
            raise TrainingError("warm=baselines: nothing on dev tells relevant candidates apart; try warm=similarity")
        columns = np.stack([(values[name] - mean[name]) / deviation[name] for name in deviation], axis=1)
        found = minimize(lists.loss, np.zeros(columns.shape[1]), args=(columns,), jac=True, method="L-BFGS-B")
        weight = dict(zip(deviation, found.x.tolist(), strict=True))
        return cls({name: mean[name] for name in deviation}, deviation, weight)

    def score(self, scores: Mapping[str, Float32]) -> Float32:
        """Return the sums of pairs with these scores, float32 [pairs]."""
        parts = [
            (_values(name, scores[name]) - self.mean[name]) / self.deviation[name] * weight
            for name, weight in self.weight.items()
        ]
        return np.asarray(np.sum(parts, axis=0), dtype=np.float32)

    def write(self, scores: Mapping[str, Float32], split: Split, out: Path) -> tuple[str, float]:
        """Note it in a folder; return its rankers by weight, and its nDCG@10 on the split that it was fitted to."""
        ndcg = float(np.nanmean(ranking_metrics(self.score(scores), split.grade, split.offsets)[METRIC]))
        (out / FILE).write_text(json.dumps(asdict(self) | {f"dev_{METRIC}": ndcg}, indent=2) + "\n", encoding="utf-8")
        heaviest = sorted(self.weight, key=lambda name: -abs(self.weight[name]))
        return ", ".join(f"{name} {self.weight[name]:.2f}" for name in heaviest), ndcg


@dataclass(frozen=True)
class _Lists:
    """Candidate lists with a relevant candidate, and what each candidate should get of its list.

    Attributes:
        starts: int64 [lists], the first pair of each.
        number: int64 [pairs], the list of each.
        judged: bool [pairs]; candidates that nobody judged take no part.
        gains: float64 [pairs], 2^grade - 1 over its sum in the list; 0 in lists without a relevant candidate.
    """

    starts: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    judged: npt.NDArray[np.bool_]
    gains: Float64

    @classmethod
    def of(cls, split: Split) -> _Lists:
        starts = split.offsets[:-1]
        number = np.repeat(np.arange(len(starts)), np.diff(split.offsets))
        gains = np.exp2(np.maximum(split.grade, 0)) - 1.0
        total = np.add.reduceat(gains, starts)[number]
        shares = np.divide(gains, total, out=np.zeros_like(gains), where=total > 0)
        return cls(starts, number, split.grade >= 0, shares)

    def loss(self, weights: Float64, columns: Float64) -> tuple[float, Float64]:
        """Return the mean cross-entropy with its ridge, and its gradient."""
        logits = columns @ weights
        logits -= np.maximum.reduceat(logits, self.starts)[self.number]
        shares = np.exp(logits) * self.judged
        sums = np.add.reduceat(shares, self.starts)[self.number]
        sums[sums == 0] = 1.0  # of a list that nobody judged
        told = np.add.reduceat(self.gains, self.starts)[self.number]  # 1, or 0 where nothing is relevant
        lists = float(self.gains.sum())
        value = -float(self.gains @ (logits - np.log(sums))) / lists + RIDGE * float(weights @ weights)
        slope = columns.T @ (told * shares / sums - self.gains) / lists + 2 * RIDGE * weights
        return value, slope


def _values(name: str, scores: Float32) -> Float64:
    return np.log1p(scores.astype(np.float64)) if name == POPULARITY else scores.astype(np.float64)
