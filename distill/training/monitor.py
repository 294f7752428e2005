"""Whether a training learns at all: its losses, scores and dev nDCG@10 beside those of equal scores."""

from __future__ import annotations

import itertools
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rankdistill import torchrun
from rankdistill.errors import TrainingError
from rankdistill.export.measure.intervals import mean_interval
from rankdistill.export.measure.quality import CUT
from rankdistill.export.runtime.text.tokens import Int64

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

METRIC = "ndcg@10"
SHARE = 0.5  # of the steps, after which a training is held to this; on labels alone one may stand at chance till then
WINDOW = 0.4  # of the steps: how many of the latest are looked at
LEAST_STEPS = 30  # in the window; fewer decide nothing
STEP = 0.1  # standard deviations: how far equal scores are moved towards the model's, to see whether their loss falls
SURE = 1.5  # standard errors that it must fall by; a healthy teacher had 8, and one at chance is looked at often
FLAT = 0.02  # logits: scores whose standard deviation within a list is less tell nothing apart
LEAST_QUERIES = 50  # of dev, whose lead over chance is then expected to be sure
MOST_STEPS = 2000  # of the latest that are kept: more would make no more sure, and take memory
INTERVAL: Mapping[str, Any] = {"confidence": 0.95, "resamples": 2000, "seed": 0}

Float64 = npt.NDArray[np.float64]


def chance_ndcg(grades: npt.NDArray[np.int32], offsets: Int64) -> Float64:
    """Return the nDCG@10 that a random order has in the mean, float64 [queries]; 0 where nothing gains.

    Every rank holds every candidate as often: the expected DCG is the mean gain times the sum of the discounts.

    Args:
        grades: int32 [pairs].
        offsets: int64 [queries + 1].
    """
    expected = np.zeros(len(offsets) - 1)
    discounts = 1.0 / np.log2(np.arange(2, CUT + 2))
    for query, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
        gains = np.sort(np.exp2(grades[start:stop].astype(np.float64)) - 1.0)[::-1]
        seen = discounts[: len(gains)]
        if ideal := float((gains[:CUT] * seen).sum()):
            expected[query] = gains.mean() * seen.sum() / ideal
    return expected


def best_first(baselines: Mapping[str, Float64]) -> str:
    """Return the means of baselines' nDCG@10, float64 [queries] each, in words: "popularity 0.271, embedding 0.262"."""
    means = sorted(((float(values.mean()), name) for name, values in baselines.items()), reverse=True)
    return ", ".join(f"{name} {mean:.3f}" for mean, name in means)


@dataclass
class Monitor:
    """Follows one training and ends it, or warns, once it has shown that nothing is learned.

    Attributes:
        what: the model that is trained, for messages.
        floor: "stop" raises, "warn" logs once, "none" does nothing.
        hints: what to try instead, for messages.
        baselines: nDCG@10 of each simple ranker on the dev queries that the training evaluates, float64 [queries].
        holds_dev: whether dev nDCG@10 must be above chance: not in a warm-up, which is shown no labels.
    """

    what: str
    floor: str = "stop"
    hints: str = ""
    baselines: Mapping[str, Float64] = field(default_factory=dict)
    holds_dev: bool = True

    def __post_init__(self) -> None:
        self._leads: deque[Tensor] = deque(maxlen=MOST_STEPS)
        self._spreads: deque[Tensor] = deque(maxlen=MOST_STEPS)
        self._warned = False

    def step(self, loss: Callable[[Tensor], Tensor], scores: Tensor, mask: Tensor) -> None:
        """Note a step.

        Args:
            loss: gives the loss of scores, float [groups, size], a scalar.
            scores: the model's, float [groups, size].
            mask: bool [groups, size], False where a group is filled up.
        """
        import torch

        if self.floor == "none":
            return
        with torch.no_grad():
            scores, equal = scores.detach(), torch.zeros_like(scores)
            deviation = spread(scores, mask)
            self._leads.append(loss(equal) - loss(scores * (STEP / deviation.clamp_min(1e-9))))
            self._spreads.append(deviation)

    def check(self, done: int, steps: int) -> None:
        """Look at the latest steps of a training.

        Whether a loss is below that of equal scores hangs on the scores' scale, which a warm-up leaves too large. So
        equal scores are moved a little towards the model's, in units of their standard deviation: their loss falls if
        the model's order tells anything of what it is trained on, whatever the scale.

        Raises:
            TrainingError: if scores hardly vary, or the loss does not surely fall towards them.
        """
        window = self._window(steps)
        if done < SHARE * steps or window < LEAST_STEPS:
            return
        found = self._against(window, steps)
        if torchrun.agree(found != ""):  # torchrun's processes have seen other pairs each, and go on or end together
            self._tell(found or "so the first process found", done, steps)

    def _against(self, window: int, steps: int) -> str:
        """Return what of the latest steps shows that nothing is learned, in words; nothing if something is."""
        found = self.shown(steps)
        if found["spread"] < FLAT:
            return f"scores of a list differ by a standard deviation of {found['spread']:.4f}, less than {FLAT}"
        if found["fall"] >= SURE * found["standard_error"]:
            return ""
        told = f"in the last {window} steps the loss of equal scores falls by {found['fall']:.4f} towards the model's"
        return f"{told}, standard error {found['standard_error']:.4f}"

    def shown(self, steps: int) -> dict[str, float]:
        """Return what the latest steps of a training show; nothing where too few were noted.

        Args:
            steps: of the training.

        Returns:
            `spread`: standard deviation of scores within a list, logits; `fall`: of the loss of equal scores towards
            the model's, and its `standard_error`.
        """
        import torch

        window = self._window(steps)
        if window < 2:
            return {}
        leads, spreads = (torch.stack([*kept][-window:]).double().cpu() for kept in (self._leads, self._spreads))
        return {
            "spread": float(spreads.mean()),
            "fall": float(leads.mean()),
            "standard_error": float(leads.std()) / math.sqrt(window),
        }

    def _window(self, steps: int) -> int:
        return min(len(self._leads), round(WINDOW * steps))

    def evaluated(self, done: int, steps: int, values: Float64, chance: Float64) -> None:
        """Look at an evaluation.

        Args:
            done: steps done.
            steps: of the training.
            values: nDCG@10 of the dev queries, float64 [queries].
            chance: that of a random order.

        Raises:
            TrainingError: as `check`, and if dev is not surely above chance.
        """
        if self.floor == "none":
            return
        self.check(done, steps)
        if not self.holds_dev or done < SHARE * steps or len(values) < LEAST_QUERIES:
            return
        low, high = mean_interval(values - chance, **INTERVAL, low=-1.0)
        if low <= 0:
            lead = f"{float((values - chance).mean()):+.3f} [{low:+.3f}, {high:+.3f}]"
            self._tell(f"dev nDCG@10 {values.mean():.3f} is not surely above chance: {lead}", done, steps)

    def _tell(self, found: str, done: int, steps: int) -> None:
        told = f"{self.what}: nothing is learned by step {done} of {steps}: {found}"
        if self.baselines:
            told += f"; dev nDCG@10 of rankers that cost nothing: {best_first(self.baselines)}"
        told += f"; {self.hints}" if self.hints else ""
        if self.floor == "stop":
            raise TrainingError(told)
        if not self._warned:
            log.warning("%s", told)
            self._warned = True


def spread(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the standard deviation of scores within their groups, the mean over groups of at least two, a scalar.

    Args:
        scores: float [groups, size].
        mask: bool [groups, size].
    """
    count = mask.sum(dim=1)
    mean = (scores * mask).sum(dim=1, keepdim=True) / count.clamp_min(1)[:, None]
    squares = (((scores - mean) * mask) ** 2).sum(dim=1)
    deviations = (squares / (count - 1).clamp_min(1)).sqrt()  # 0 of a group of one
    return deviations.sum() / (count > 1).sum().clamp_min(1)
