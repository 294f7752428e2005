"""BM25 over a request's items, with the document frequencies of a catalogue: the cheapest stage of a cascade."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.runtime.text.shortener import CHARACTERS
from rankdistill.export.runtime.untrusted.bounded_files import read_json
from rankdistill.export.runtime.untrusted.json_schema import Schema, Within, broken

K1, B = 1.5, 0.75
# words, or single characters of the scripts that put no space between words
TERM = re.compile(rf"[{CHARACTERS}]|[^\W{CHARACTERS}]+")
COUNT = Within(int, 1, 1 << 53)
# terms stand in a list, not as names of an object: a term may be any text, also one that is refused as a name
SCHEMA: Schema = {"texts": COUNT, "mean_terms": Within(float, 0, 1e9), "terms": [str], "counts": [COUNT]}


def terms_of(text: str) -> list[str]:
    """Return a text's lower-cased terms."""
    return TERM.findall(text.lower())


@dataclass(frozen=True)
class Bm25:
    """Scores texts by the terms that they share with a query.

    The sum over a query's terms of idf * tf / (tf + k1 * (1 - b + b * terms / mean terms)), where
    idf = ln(1 + (N - df + .5) / (df + .5)), N texts, df of them with the term: Lucene's BM25 (Kamphuis et al. 2020,
    "Which BM25 do you mean?", table 1), k1 = 1.5, b = .75. A term of no text of the catalogue has df 0.

    Attributes:
        texts: how many the catalogue has.
        mean_terms: of a text.
        counts: how many texts have a term, by term.
    """

    texts: int
    mean_terms: float
    counts: Mapping[str, int]

    @classmethod
    def of(cls, batches: Iterable[Sequence[str]]) -> Bm25:
        """Count a catalogue's texts, which come in batches and are not kept.

        Raises:
            ValueError: if there are none.
        """
        texts, terms = 0, 0
        counts: Counter[str] = Counter()
        for batch in batches:
            for text in batch:
                found = terms_of(text)
                texts, terms = texts + 1, terms + len(found)
                counts.update(set(found))
        if not texts:
            raise ValueError("a catalogue without texts")
        return cls(texts, terms / texts, counts)

    def scores(self, query: str, items: Sequence[str]) -> Float32:
        """Score a query's items.

        Returns:
            float32 [items], 0 for an item that shares no term with the query.
        """
        asked = {term: times * self._idf(term) for term, times in Counter(terms_of(query)).items()}
        found = np.zeros(len(items), dtype=np.float32)
        for row, item in enumerate(items):
            terms = terms_of(item)
            length = K1 * (1 - B + B * len(terms) / (self.mean_terms or 1.0))
            shared = Counter(term for term in terms if term in asked)
            # in the query's order, so that a sum does not hang on the order of an item's terms
            known = ((idf, shared[term]) for term, idf in asked.items() if shared[term])
            found[row] = sum(idf * times / (times + length) for idf, times in known)
        return found

    def save(self, path: Path) -> None:
        """Write it; equal ones give equal bytes."""
        path.write_text(self._text(), encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: Path) -> Bm25:
        """Read what `save` wrote.

        Raises:
            BundleError: if it is missing or no such file.
        """
        content = read_json(path)
        if problem := next(broken(content, SCHEMA, ""), None):
            raise BundleError(f"{path}: {problem}")
        terms, counts = content["terms"], content["counts"]
        if len(set(terms)) != len(counts) or len(terms) != len(counts):
            raise BundleError(f"{path}: {len(terms)} terms, {len(set(terms))} of them different, {len(counts)} counts")
        if max(counts, default=0) > content["texts"]:
            raise BundleError(f"{path}: a term stands in {max(counts)} of {content['texts']} texts")
        return cls(content["texts"], content["mean_terms"], dict(zip(terms, counts, strict=True)))

    def _idf(self, term: str) -> float:
        count = self.counts.get(term, 0)
        return math.log(1 + (self.texts - count + 0.5) / (count + 0.5))

    def _text(self) -> str:
        terms = sorted(self.counts)
        content = {"texts": self.texts, "mean_terms": self.mean_terms, "terms": terms}
        content["counts"] = [self.counts[term] for term in terms]
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
