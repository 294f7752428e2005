"""What a student reads of an item's text where it does not read all of it: the words that weigh most."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.manifest import SHORTENER, Manifest
from rankdistill.export.runtime.untrusted.bounded_files import read_json
from rankdistill.export.runtime.untrusted.json_schema import Schema, Within, broken

# Scripts that put no space between words (CJK ideographs, kana): there a term is one character.
CHARACTERS = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = rf"[^\W{CHARACTERS}]"

MOST_WORDS = 1 << 20
DIGITS = 6  # of a weight: two machines that differ in rounding write the same file
# Terms stand in a list, not as names of an object: a term may be any text, also one that is refused as a name.
SCHEMA: Schema = {"words": Within(int, 1, MOST_WORDS), "unseen": float, "terms": [str], "weights": [float]}


@cache
def _pattern() -> re.Pattern[str]:
    """Return what matches a term; made when it is first needed, since that takes 20 ms."""
    # a vowel sign or an accent of its own is no word character to `re`, but a word without it is another word
    marks = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)).startswith("M"))
    return re.compile(rf"[{CHARACTERS}][{marks}]*|{WORD}+(?:[{marks}]+{WORD}*)*")


def terms_of(text: str) -> list[tuple[str, int, int]]:
    """Return a text's terms as they come: case-folded, where each begins, and where it ends."""
    return [(match[0].casefold(), match.start(), match.end()) for match in _pattern().finditer(text)]


@dataclass(frozen=True)
class Shortener:
    """Keeps of a text the terms that weigh most; a term is a word, or a character of CJK or kana.

    Attributes:
        words: most terms that are kept.
        weights: of case-folded terms, any finite numbers.
        unseen: weight of every other term.
    """

    words: int
    weights: Mapping[str, float]
    unseen: float

    def shorten(self, text: str) -> str:
        """Return a text of the `words` terms that weigh most, each once, in their order and spelling.

        Of equal weights the earlier term is kept. Terms that stood side by side keep what stood between them, any other
        two get a space. A text of at most `words` terms, none of them twice, is returned as it is; so shortening a
        second time changes nothing.
        """
        found = terms_of(text)
        first: dict[str, int] = {}  # a term's first place among the text's terms
        for place, (term, _, _) in enumerate(found):
            first.setdefault(term, place)
        if len(first) == len(found) <= self.words:
            return text
        kept = list(first)
        if len(kept) > self.words:
            kept = sorted(kept, key=lambda term: -self.weights.get(term, self.unseen))[: self.words]
        parts: list[str] = []
        before, end = -1, 0
        for place in sorted(first[term] for term in kept):
            _, start, stop = found[place]
            if parts:
                parts.append(text[end:start] if place == before + 1 else " ")
            parts.append(text[start:stop])
            before, end = place, stop
        return "".join(parts)

    def save(self, path: Path) -> None:
        """Write it; equal shorteners give equal bytes. Weights are rounded to `DIGITS` digits."""
        terms = sorted(self.weights)
        content = {
            "words": self.words,
            "unseen": _rounded(self.unseen),
            "terms": terms,
            "weights": [_rounded(self.weights[term]) for term in terms],
        }
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        path.write_text(text + "\n", encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: Path) -> Shortener:
        """Read what `save` wrote.

        Raises:
            BundleError: if it is missing or no such file.
        """
        content = read_json(path)
        if problem := next(broken(content, SCHEMA, ""), None):
            raise BundleError(f"{path}: {problem}")
        terms, weights = content["terms"], content["weights"]
        if len(terms) != len(weights):
            raise BundleError(f"{path}: {len(terms)} terms with {len(weights)} weights")
        if len(set(terms)) < len(terms):
            raise BundleError(f"{path}: a term stands there twice")
        return cls(content["words"], dict(zip(terms, weights, strict=True)), content["unseen"])

    @classmethod
    def of(cls, manifest: Manifest) -> Shortener | None:
        """Return a bundle's shortener; None if its student reads what it is given.

        Raises:
            BundleError: if it is not the file that the manifest tells of.
        """
        return cls.load(manifest.checked(SHORTENER)) if SHORTENER in manifest.content["files"] else None


def _rounded(weight: float) -> float:
    return float(f"{weight:.{DIGITS}g}")
