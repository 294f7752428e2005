"""What of a data set does not match: counted, told in one line with an example, refused where it is most of a file."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rankdistill.data.text_files import QUOTES
from rankdistill.errors import DataError

log = logging.getLogger(__name__)

MOST_LEFT_OUT = 0.5  # share of what may be unfit: with more, the set is another than the one that was meant
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mismatch:
    """Tells what of a data set does not match.

    Attributes:
        name: of the data set in reports.
        most: share of a file's lines, or of a split's queries, that may be unfit: `data.max_left_out`.
    """

    name: str
    most: float

    def tell(
        self, count: int, total: int, what: str, advice: str, most: float | None = None, level: int = logging.WARNING
    ) -> None:
        """Warn that `count` of `total` do not match, or refuse them.

        Args:
            count: of those that do not match; nothing is said of none.
            total: of all.
            what: they are and are wrong in, with an example: "lines of FILE have a negative grade (first: FILE:7)".
            advice: what is done with them, or what to do.
            most: share from which on they are refused, in place of the data set's.
            level: of the warning.

        Raises:
            DataError: if more are concerned.
        """
        if not count:
            return
        told = f"{self.name}: {count} of {total} {what}; {advice}"
        allowed = self.most if most is None else most
        if count > allowed * total:
            raise DataError(f"{told}; at most data.max_left_out={allowed:g} of them may be so")
        log.log(level, "%s", told)

    def tell_copies(self, path: Path, keys: Int64, ids: Sequence[str], level: int = logging.WARNING) -> None:
        """Tell of items of a file whose text another item before has.

        Args:
            path: of the file, JSON Lines or a table.
            keys: int64 [items], of `text_key`.
            ids: of the items.
            level: of the warning.

        Raises:
            DataError: if too many have.
        """
        count, (row, other) = copies(keys)
        if count:
            example = f"{line_of(path, ids[row])}: {ids[row]!r} as {ids[other]!r}"
            advice = "a judgement of one says nothing of the other: give each text one id"
            self.tell(
                count, len(ids), f"items of {path.name} have the text of another ({example})", advice, None, level
            )


def text_key(text: str) -> int:
    """Return a number that texts share which differ in case and white space alone; another in every process."""
    return hash(" ".join(text.casefold().split()))


def copies(keys: Int64) -> tuple[int, tuple[int, int]]:
    """Return how many texts stand under another id before, and an example: (a row, the row that it repeats).

    Args:
        keys: int64 [texts], of `text_key`.
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    repeated = np.flatnonzero(first[inverse] != np.arange(len(keys)))
    if not len(repeated):
        return 0, (0, 0)
    row = int(repeated[0])
    return len(repeated), (row, int(first[inverse[row]]))


def line_of(path: Path, identity: str) -> str:
    """Return "file:line" where an id is told first, in JSON Lines or a table; the file if it is written otherwise."""
    name = re.escape(identity.encode())
    wanted = re.compile(rb'"_id"\s*:\s*"\s*' + name + rb'\s*"|^' + name + rb"[\t|]")
    with path.open("rb") as file:
        return next((f"{path}:{number}" for number, line in enumerate(file, start=1) if wanted.search(line)), str(path))


def alike(unknown: str, known: Iterable[str], file: str) -> str:
    """Return a hint at a known id that is written otherwise (quotes, spaces, case, zeros before, a ".0"); or none."""
    wanted = _reduced(unknown)
    found = next((each for each in known if _reduced(each) == wanted), None)
    return "" if found is None else f"; {file} has {found!r}, which is written otherwise"


def _reduced(identity: str) -> str:
    plain = unicodedata.normalize("NFKC", identity).strip(f"{QUOTES} \t\ufeff\u00a0").casefold().removesuffix(".0")
    return plain.lstrip("0") or plain[-1:]
