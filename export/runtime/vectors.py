"""Vectors of texts in float32, int8 and single bits, and their similarity to a query's vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.errors import UserError
from rankdistill.export.runtime.scorer import Float32

DTYPES = ("float32", "int8", "binary")
LARGEST = 127  # of an int8 vector's values, of both signs
BLOCK = 65_536  # vectors compared at a time: as float32 of 128 dimensions, 32 MB


def prefix(vectors: Float32, dimensions: int, *, normalize: bool = True) -> Float32:
    """Return the first dimensions of vectors, each of length 1 again (Kusupati et al. 2022, section 3).

    Args:
        vectors: float32 [texts, width].
        dimensions: how many are kept.
        normalize: whether their length is made 1; a vector of zeros stays as it is.
    """
    kept = vectors[:, :dimensions]
    if not normalize:
        return np.ascontiguousarray(kept)
    length = np.linalg.norm(kept, axis=1, keepdims=True)
    return np.asarray(kept / np.where(length > 0, length, 1), dtype=np.float32)


def pack(vectors: Float32, dtype: str) -> npt.NDArray[Any]:
    """Return vectors in a smaller type.

    - int8: round(127 v / max|v|). A vector's direction is kept and its length is not: compare by cosine.
    - binary: a bit a dimension, 1 where it is above 0, eight to a byte, the first in the highest bit (`np.packbits`).

    Args:
        vectors: float32 [texts, dimensions].
        dtype: one of `DTYPES`.

    Returns:
        float32 or int8 [texts, dimensions], or uint8 [texts, dimensions / 8 rounded up].

    Raises:
        UserError: if there is no such type.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype}: allowed is {', '.join(DTYPES)}")
    if dtype == "float32":
        return vectors
    if dtype == "binary":
        return np.packbits(vectors > 0, axis=1)
    largest = np.abs(vectors).max(axis=1, initial=0, keepdims=True)
    shares = vectors / np.where(largest > 0, largest, 1)  # first: LARGEST / largest overflows where largest is denormal
    return np.asarray(np.rint(shares * LARGEST), dtype=np.int8)


def unpack(packed: npt.NDArray[Any], dtype: str, dimensions: int) -> Float32:
    """Return packed vectors as float32 [texts, dimensions] of length 1 (0 for a vector of zeros)."""
    if dtype == "binary":
        bits = np.unpackbits(packed, axis=1, count=dimensions).astype(np.float32)
        return np.asarray((2 * bits - 1) / np.sqrt(np.float32(dimensions)), dtype=np.float32)
    return prefix(packed.astype(np.float32), dimensions)


@dataclass(frozen=True)
class Vectors:
    """A catalogue's vectors as they are kept.

    Attributes:
        packed: of `pack`.
        dtype: one of `DTYPES`.
        dimensions: of a vector.
    """

    packed: npt.NDArray[Any]
    dtype: str
    dimensions: int

    @classmethod
    def of(cls, vectors: Float32, dtype: str) -> Vectors:
        """Pack float32 [texts, dimensions]."""
        return cls(pack(vectors, dtype), dtype, vectors.shape[1])

    def __len__(self) -> int:
        return len(self.packed)

    def similarities(self, queries: Float32) -> Float32:
        """Return the cosine of every query and every kept vector, float32 [queries, texts].

        A query's vector is made when it is asked and need not be packed: against single bits that keeps more of the
        order than comparing bits with bits would.

        Args:
            queries: float32 [queries, dimensions], of length 1.
        """
        found = np.empty((len(queries), len(self)), dtype=np.float32)
        for start in range(0, len(self), BLOCK):
            rows = slice(start, start + BLOCK)
            found[:, rows] = queries @ unpack(self.packed[rows], self.dtype, self.dimensions).T
        return found

    def nearest(self, query: Float32, count: int) -> tuple[npt.NDArray[np.int64], Float32]:
        """Return the `count` nearest of a query's vector, best first, of equal ones the first: rows, and cosines.

        Args:
            query: float32 [dimensions], of length 1.
            count: how many, or all if there are fewer.
        """
        cosines = self.similarities(query[None])[0]
        order = np.argsort(-cosines, kind="stable")[:count]
        return order, cosines[order]
