"""An index of a catalogue's vectors, for catalogues so large that every query cannot be compared with all of them.

Hierarchical navigable small worlds (Malkov, Yashunin 2018) by usearch, the extra [index]. The exact comparison
(`vectors.Vectors.nearest`) finds all, in 20 ms of a core for 100,000 vectors of 64.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.errors import UserError
from rankdistill.export.extras import require
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.runtime.untrusted.json_schema import Schema, broken
from rankdistill.export.runtime.vectors import pack

KINDS = {"float32": ("cos", "f32"), "int8": ("cos", "i8"), "binary": ("hamming", "b1")}  # usearch's metric and type
CONNECTIVITY, EXPANSION = 16, 128  # usearch's defaults; neighbours looked at while an item is added
ABOUT = ".json"  # ends the name of the file beside an index
ABOUT_SHAPE: Schema = {"dtype": str, "items": int, "dimensions": int}


class VectorIndex:
    """Finds about the nearest vectors of a catalogue.

    Args:
        index: usearch's.
        dtype: of the vectors, one of `vectors.DTYPES`.
        dimensions: of them.
    """

    def __init__(self, index: Any, dtype: str, dimensions: int) -> None:
        self._index, self.dtype, self.dimensions = index, dtype, dimensions

    @classmethod
    def of(cls, vectors: Float32, dtype: str) -> VectorIndex:
        """Index float32 [texts, dimensions], whose rows are what `nearest` returns.

        Raises:
            UserError: if usearch is not installed, there is no such type, or bits do not fill whole bytes.
        """
        require("index", "usearch")
        from usearch.index import Index

        packed, dimensions = pack(vectors, dtype), vectors.shape[1]
        if dtype == "binary" and dimensions % 8:
            raise UserError(f"dimensions={dimensions}: allowed is a multiple of 8 in an index of single bits")
        metric, kind = KINDS[dtype]
        index = Index(
            ndim=dimensions, metric=metric, dtype=kind, connectivity=CONNECTIVITY, expansion_add=EXPANSION,
            expansion_search=EXPANSION,
        )  # fmt: skip
        if len(packed):
            index.add(np.arange(len(packed), dtype=np.uint64), packed)
        return cls(index, dtype, dimensions)

    def __len__(self) -> int:
        return len(self._index)

    def nearest(self, queries: Float32, count: int) -> list[npt.NDArray[np.int64]]:
        """Return rows of about the `count` nearest vectors of each query, best first.

        Args:
            queries: float32 [queries, dimensions].
            count: how many, or all if there are fewer.
        """
        if not len(self):
            return [np.zeros(0, dtype=np.int64) for _ in queries]
        packed = pack(queries, self.dtype)
        return [self._index.search(row, min(count, len(self))).keys.astype(np.int64) for row in packed]

    def save(self, path: Path) -> None:
        """Write the index, and beside it what its vectors are."""
        self._index.save(str(path))
        about = {"dtype": self.dtype, "dimensions": self.dimensions, "items": len(self)}
        path.with_name(path.name + ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> VectorIndex:
        """Map an index that `save` wrote, without reading it into memory.

        Raises:
            UserError: if usearch is not installed, or the file is no index.
        """
        require("index", "usearch")
        from usearch.index import Index

        try:
            about = json.loads(path.with_name(path.name + ABOUT).read_text(encoding="utf-8"))
            index = Index.restore(str(path), view=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} is no index: {error}") from error
        if next(broken(about, ABOUT_SHAPE, ""), None):
            raise UserError(f"{path} is no index: {path.name}{ABOUT} does not tell of one")
        if index is None or len(index) != about["items"] or index.ndim != about["dimensions"]:
            raise UserError(f"{path} is not the index that {path.name}{ABOUT} tells of")
        index.expansion_search = EXPANSION  # is not kept in the file
        return cls(index, about["dtype"], about["dimensions"])
