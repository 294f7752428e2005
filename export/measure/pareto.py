"""Which of several measured things no other one beats in everything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def front(values: npt.NDArray[np.float64], maximise: Sequence[bool]) -> npt.NDArray[np.bool_]:
    """Return which rows no other row dominates: is at least as good in every column and better in one.

    A row with a NaN is never on the front and dominates nothing; equal rows are on it together.

    Args:
        values: float64 [rows, columns].
        maximise: whether more is better, one a column.

    Returns:
        bool [rows].

    Raises:
        ValueError: if shapes do not fit.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(maximise):
        raise ValueError(f"values must be [rows, {len(maximise)}], a column for each direction; got {values.shape}")
    losses = np.where(np.asarray(maximise, dtype=bool), -values, values)
    known = ~np.isnan(losses).any(axis=1)
    found = np.zeros(len(losses), dtype=bool)
    for row in np.flatnonzero(known):  # one row at a time: the memory grows with the rows, not their square
        others = losses[known]
        no_worse, better = (others <= losses[row]).all(axis=1), (others < losses[row]).any(axis=1)
        found[row] = not (no_worse & better).any()
    return found
