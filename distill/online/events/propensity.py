"""Position bias: how likely an item is looked at where it stood, and the weight that makes up for it."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.data.records import Float32, Int32, Split
from rankdistill.errors import TooFewError
from rankdistill.options.update import Events

log = logging.getLogger(__name__)

ESTIMATED = "estimated"  # of feedback.propensity
STEPS = 100  # of Newton's method, which takes less than ten
LARGEST_STEP = 1.0
CLOSE = 1e-9
MOST_ETA = 5.0  # beyond, position 2 is looked at 1/32 as often as position 1: the log tells clicks at the first alone
MOST_ERROR = 0.25  # standard error of eta, from which on the weight at position 10 is uncertain by a factor of 1.8

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


def pair_weights(split: Split, position: Int32, options: Events) -> Float32:
    """Return the weights float32 [pairs] that are asked for; ones, if none are.

    Args:
        split: the lists.
        position: int32 [pairs], as `power_propensity` takes it.
        options: how the propensity is known.

    Raises:
        TooFewError: if it is to be estimated, and the positions vary too little to tell.
    """
    if options.propensity == "none" or not split.pairs:
        return np.ones(split.pairs, dtype=np.float32)
    eta = options.eta
    if options.propensity == ESTIMATED:
        pair = split.pair_query().astype(np.int64) * (int(split.item.max()) + 1) + split.item
        eta, error = estimate_eta(pair, position, split.grade)
        log.info("position bias: propensity (1 / position)^%.2f, standard error %.2f", eta, error)
    return inverse_weights(position, split.grade, eta, options.max_weight)


def power_propensity(position: Int32, eta: float) -> Float64:
    """Return the probability that an item is looked at, relative to the first position's: (1 / position)^eta.

    Joachims, Swaminathan, Schnabel 2017, "Unbiased learning-to-rank with biased feedback", experiments.

    Args:
        position: int32 [pairs], 1 is the first; 0, not logged, has probability 1.
        eta: severity; 0 is no bias.
    """
    return np.asarray(np.maximum(position, 1).astype(np.float64) ** -eta)


def inverse_weights(position: Int32, grade: Int32, eta: float, max_weight: float) -> Float32:
    """Return weights float32 [pairs]: 1 / propensity of each pair with a gain, 1 of all others.

    Weighted so, the sum over clicks is an unbiased estimate of the sum over relevant pairs, looked at or not (the
    estimator of the same paper, after Horvitz, Thompson 1952). A pair without a gain keeps weight 1: whether it was
    looked at is not known.

    Args:
        position: int32 [pairs], as `power_propensity` takes it.
        grade: int32 [pairs].
        eta: severity of the bias.
        max_weight: weights above are clipped: less variance for a bias towards what stood high.
    """
    weight = np.minimum(1.0 / power_propensity(position, eta), max_weight)
    return np.where(grade > 0, weight, 1.0).astype(np.float32)


def estimate_eta(pair: Array, position: Int32, grade: Int32) -> tuple[float, float]:
    """Return eta and its standard error from items that one query was answered with at several positions.

    A click's probability is relevance * propensity. Given how often a pair was clicked, its relevance cancels out, and
    what is left is which of its positions the clicks fell on: log-concave in eta, solved by Newton's method. It is the
    conditional likelihood of Poisson counts (Hausman, Hall, Griliches 1984), which needs the mean alone to be right, so
    that clicks may be yes or no (Wooldridge 1999, "Distribution-free estimation of some nonlinear panel data models").
    The variation of positions is what Agarwal et al. 2019, "Estimating position bias without intrusive interventions",
    harvest: different models, or a model that changed, answered the same query.

    Args:
        pair: int [shown], which query and item it was.
        position: int32 [shown], 0 where not logged.
        grade: int32 [shown]; a gain is a click, `UNKNOWN` says nothing.

    Raises:
        TooFewError: if the positions vary too little to tell.
    """
    known = (position > 0) & (grade >= 0)
    log_position = np.log(position[known])
    pair = np.unique(pair[known], return_inverse=True)[1]
    clicked = (grade[known] > 0).astype(np.float64)
    clicks = np.asarray(np.bincount(pair, clicked), dtype=np.float64)
    eta = 0.0
    for _ in range(STEPS):
        slope, curvature = _derivatives(eta, pair, log_position, clicked, clicks)
        if curvature <= 0:
            raise TooFewError("feedback.propensity=estimated: no clicked item was shown at two positions for one query")
        step = float(np.clip(slope / curvature, -LARGEST_STEP, LARGEST_STEP))
        eta += step
        if abs(step) < CLOSE or abs(eta) > MOST_ETA:
            break
    error = 1 / math.sqrt(curvature)
    if abs(eta) > MOST_ETA or error > MOST_ERROR:
        told = f"eta {eta:.2f} with standard error {error:.2f}; an error of at most {MOST_ERROR} is needed"
        raise TooFewError(f"feedback.propensity=estimated: the events tell {told}; set feedback.propensity=power")
    return eta, error


def _derivatives(
    eta: float, pair: Array, log_position: Float64, clicked: Float64, clicks: Float64
) -> tuple[float, float]:
    """Return the first and the negative second derivative of the log-likelihood."""
    chance = np.exp(-eta * log_position)
    total = np.bincount(pair, chance)
    mean = np.bincount(pair, chance * log_position) / total
    spread = np.bincount(pair, chance * (log_position - mean[pair]) ** 2) / total
    return float(clicks @ mean - clicked @ log_position), float(clicks @ spread)
