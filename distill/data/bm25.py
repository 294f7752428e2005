"""BM25 over the item texts: the candidates of a query where none are judged, and a baseline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import bm25s
import numpy as np
import numpy.typing as npt

from rankdistill.data.records import Int32

Float32 = npt.NDArray[np.float32]

# Words, or single characters of the scripts that put no space between words (CJK ideographs, kana).
CHARACTERS = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
TERM = re.compile(rf"[{CHARACTERS}]|[^\W{CHARACTERS}]+")


def terms(text: str) -> list[str]:
    """Return a text's lower-cased terms."""
    return TERM.findall(text.lower())


class BM25:
    """An index of texts; a row is a text's place in them.

    Lucene's BM25 (k1 = 1.5, b = 0.75), the default of bm25s (Lù 2024).

    Args:
        batches: the texts in row order, in batches; they are tokenised as they come and not kept.
    """

    def __init__(self, batches: Iterable[Sequence[str]]) -> None:
        vocabulary: dict[str, int] = {}
        ids = [
            [vocabulary.setdefault(term, len(vocabulary)) for term in terms(text)]
            for texts in batches
            for text in texts
        ]
        self._size = len(ids)
        self._index = bm25s.BM25() if vocabulary else None
        if self._index is not None:
            self._index.index(bm25s.tokenization.Tokenized(ids=ids, vocab=vocabulary), show_progress=False)
        self._vocabulary = vocabulary

    def _all_scores(self, query: str) -> Float32:
        known = [term for term in terms(query) if term in self._vocabulary]
        if self._index is None or not known:
            return np.zeros(self._size, dtype=np.float32)
        return np.asarray(self._index.get_scores(known), dtype=np.float32)

    def scores(self, query: str, rows: Int32) -> Float32:
        """Return the scores of these rows, float32 [rows]."""
        return self._all_scores(query)[rows]

    def top(self, query: str, k: int) -> tuple[Int32, Float32]:
        """Return the k best rows and their scores, best first; ties by row."""
        scores = self._all_scores(query)
        rows = np.argsort(-scores, kind="stable")[:k]
        return rows.astype(np.int32), scores[rows]
