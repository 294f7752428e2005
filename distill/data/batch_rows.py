"""Rows of a column that stands in batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64 = npt.NDArray[np.int64]


def take(texts: pa.ChunkedArray, ends: Int64, rows: Int64) -> list[str]:
    """Return the texts of rows, batch by batch: `ChunkedArray.take` joins the whole column first, however few rows.

    Args:
        texts: the column.
        ends: int64 [batches], row after each.
        rows: int64 [rows], in any order.
    """
    found: list[str] = [""] * len(rows)
    batch = np.searchsorted(ends, rows, side="right")
    order = np.argsort(batch, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(batch[order])) + 1) if len(rows) else ():
        chunk = texts.chunk(int(batch[places[0]]))
        inside = rows[places] - (int(ends[batch[places[0]]]) - len(chunk))
        for place, text in zip(places.tolist(), chunk.take(pa.array(inside)).to_pylist(), strict=True):
            found[place] = text
    return found
