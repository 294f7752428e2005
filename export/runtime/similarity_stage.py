"""How near a request's items are to its query by their vectors: a cheap stage of a cascade.

An item's vector hangs on nothing but its text, so it is kept, and an item that is seen again costs a dot product.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rankdistill.export.runtime.embedder import About, Embedder
from rankdistill.export.runtime.manifest import Manifest, Variant
from rankdistill.export.runtime.ranker import KEEP_MB
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.runtime.text.text_cache import Kept
from rankdistill.export.runtime.vectors import pack, prefix, unpack

Int8 = npt.NDArray[np.int8]
DTYPE = "int8"  # of a kept vector: a quarter of float32's memory for the same order (docs/embeddings.md)


class Nearness:
    """Scores a query's items by the cosine of their vectors, -1 to 1; asked as a `Ranker` is.

    Any number of threads may call it at once. An item's score is bitwise the same whether its vector was kept or made
    anew, alone and in any list. Close it in the end.

    Args:
        embedder: that makes the vectors; closed with this.
        variant: its graph.
        keep_mb: memory for items' vectors, in 10^6 bytes; 0 keeps none.
    """

    def __init__(self, embedder: Embedder, variant: Variant, keep_mb: float = KEEP_MB) -> None:
        self.embedder, self.variant = embedder, variant
        self.kept: Kept[Int8] = Kept(int(keep_mb * 1e6))
        self._closed = False
        _alive.add(self)

    @classmethod
    def load(
        cls, bundle: Path, variant: str | None = None, *, threads: int | None = None, keep_mb: float = KEEP_MB
    ) -> Nearness:
        """Load it from a bundle's embedder.

        Args:
            bundle: its folder.
            variant: name of the embedder's graph; None for the one for this processor.
            threads: texts embedded at once; None for every core.
            keep_mb: memory for items' vectors, in 10^6 bytes; 0 keeps none.

        Raises:
            BundleError, ModelError: if the bundle has no embedder, or it cannot be loaded.
        """
        chosen = About.of(Manifest.read(Path(bundle))).variant(variant)
        return cls(Embedder.load(bundle, chosen.name, threads), chosen, keep_mb)

    @property
    def key(self) -> str:
        """Names the model: two of one key give a pair the same score."""
        return f"{self.embedder.key}/nearness/{self.variant.name}"

    def score_items(self, query: str, items: Sequence[str]) -> Float32:
        """Score a query's items.

        Returns:
            Cosines, float32 [items].

        Raises:
            TypeError: if a text is no str.
            RuntimeError: if it is closed.
        """
        work = self.pairs(query, items)
        work.fill(self.embedder.vectors(self.embedder.encoder.ids(work.texts)))
        return work.scores

    def pairs(self, query: str, items: Sequence[str]) -> Vectoring:
        """Return what is to be embedded for a query's items as tasks, for whoever has threads of its own."""
        if isinstance(items, str):
            raise TypeError("items is one str; it is a sequence of them")
        for text in (query, *items):
            if not isinstance(text, str):
                raise TypeError(f"a text is a {type(text).__name__}: {text!r:.40}; queries and items are str")
        if self._closed:
            raise RuntimeError("this embedder is closed")
        return Vectoring(self.embedder, self.kept, query, items)

    def close(self) -> None:
        """End the embedder's threads; closing twice does nothing."""
        self._closed = True
        self.embedder.close()


class Vectoring:
    """A query and its items on the way to scores, parted into tasks that any threads may run in any order.

    Attributes:
        scores: float32 [items], cosines; there when all tasks were run.
        texts: those that must be embedded: the query, and what is not kept, each once.
        tasks: rows of `texts`, one each.
    """

    def __init__(self, embedder: Embedder, kept: Kept[Int8], query: str, items: Sequence[str]) -> None:
        self._embedder, self._kept, self._items = embedder, kept, items
        self._known = kept.known(items)
        unknown = (text for text, vector in zip(items, self._known, strict=True) if vector is None)
        self.texts = [query, *dict.fromkeys(text for text in unknown if text != query)] if items else []
        self.scores = np.empty(len(items), dtype=np.float32)
        self._vectors = np.empty((len(self.texts), embedder.width), dtype=np.float32)
        self.tasks = [[row] for row in range(len(self.texts))]
        self._left = len(self.tasks)
        self._lock = threading.Lock()

    def run(self, rows: Sequence[int]) -> None:
        """Embed a task's rows in the calling thread; who runs the last one also compares."""
        self._vectors[list(rows)] = self._embedder.vectors(self._embedder.encoder.ids([self.texts[r] for r in rows]))
        with self._lock:
            self._left -= len(rows)
            last = not self._left
        if last:
            self.fill(self._vectors)

    def fill(self, vectors: Float32) -> None:
        """Compare, and keep what was made.

        Args:
            vectors: of `texts`, float32 [texts, width], of any length.
        """
        if not len(vectors):
            return
        packed: Int8 = pack(vectors, DTYPE)
        made = dict(zip(self.texts, packed, strict=True))
        rows = [made[text] if row is None else row for text, row in zip(self._items, self._known, strict=True)]
        of_items = unpack(np.stack(rows), DTYPE, self._embedder.width)
        (of_query,) = prefix(vectors[:1], self._embedder.width)
        # no matrix product, whose order of additions hangs on how many items there are
        self.scores[:] = (of_items * of_query).sum(axis=1)
        seen = {*self._items}
        self._kept.keep({text: row.copy() for text, row in made.items() if text in seen})


_alive: weakref.WeakSet[Nearness] = weakref.WeakSet()


def _after_fork() -> None:
    for nearness in list(_alive):
        nearness.kept.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
