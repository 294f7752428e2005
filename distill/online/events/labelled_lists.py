"""Lists of events with their texts: what an update learns from, holds back for the next one, and remembers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.data.records import UNKNOWN, Float32, Int64, Split
from rankdistill.data.tokens import PairTokens, TokenColumn, TokenTable
from rankdistill.errors import StoreError
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.online.events.feedback import Feedback


@dataclass(frozen=True)
class Shown:
    """What was shown in one event.

    Attributes:
        id: of the event.
        time: unix seconds.
        user: "" where not told.
        query: its text.
        items: their texts.
        grades: of each item, `UNKNOWN` where no outcome is told.
        weights: 1 / propensity of each item, clipped.
    """

    id: str
    time: float
    user: str
    query: str
    items: tuple[str, ...]
    grades: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def tells(self) -> bool:
        """Whether its outcomes put one item above another."""
        known = {grade for grade in self.grades if grade != UNKNOWN}
        return len(known) > 1


def lists_of(feedback: Feedback) -> list[Shown]:
    """Return the lists of events that were read, in the log's order."""
    split, found = feedback.split, []
    for number, query in enumerate(split.query.tolist()):
        rows = slice(int(split.offsets[number]), int(split.offsets[number + 1]))
        found.append(
            Shown(
                feedback.ids[number],
                float(feedback.time[number]),
                feedback.users[number],
                feedback.queries[query],
                tuple(feedback.items[item] for item in split.item[rows].tolist()),
                tuple(split.grade[rows].tolist()),
                tuple(feedback.weight[rows].tolist()),
            )
        )
    return found


def cut_newest(lists: Sequence[Shown], share: float) -> tuple[list[Shown], list[Shown]]:
    """Return the older lists and the newest by time, this share of them rounded up; both in the order of time."""
    ordered = sorted(lists, key=lambda each: each.time)
    newest = -(-round(share * len(ordered) * 1e9) // 10**9)  # .1 * 30 is a little more than 3
    return ordered[: len(ordered) - newest], ordered[len(ordered) - newest :]


@dataclass(frozen=True)
class Tokens:
    """Lists as a model reads them: pairs, and what is known of each.

    Attributes:
        pairs: with the split, whose grades may be `UNKNOWN`.
        weight: float32 [pairs].
    """

    pairs: PairTokens
    weight: Float32


def tokenise(lists: Sequence[Shown], encoder: PairEncoder, shorten: Callable[[str], str]) -> Tokens:
    """Return lists as a model reads them.

    Args:
        lists: at least none.
        encoder: of the model.
        shorten: gives what the model reads of an item.
    """
    queries: dict[str, int] = {}
    items: dict[str, int] = {}
    split = Split(
        query=np.array([queries.setdefault(each.query, len(queries)) for each in lists], dtype=np.int32),
        offsets=np.cumsum([0, *(len(each.items) for each in lists)], dtype=np.int64),
        item=np.array([items.setdefault(t, len(items)) for each in lists for t in each.items], dtype=np.int32),
        grade=np.array([grade for each in lists for grade in each.grades], dtype=np.int32),
    )
    table = TokenTable(column(encoder.ids(list(queries))), column(encoder.ids([shorten(text) for text in items])))
    weight = np.array([weight for each in lists for weight in each.weights], dtype=np.float32)
    return Tokens(PairTokens(split, table, encoder), weight)


def column(texts: Sequence[Any]) -> TokenColumn:
    """Return texts of int32 ids as a column in memory."""
    ids = np.concatenate([np.zeros(0, np.int32), *texts]).astype(np.int32)
    return TokenColumn(ids, np.cumsum([0, *(len(text) for text in texts)], dtype=np.int64))


def told(split: Split) -> tuple[Split, Int64]:
    """Return the lists with the candidates of known grade alone, and which pairs those are, int64 [pairs]."""
    kept = np.flatnonzero(split.grade != UNKNOWN)
    offsets = np.searchsorted(kept, split.offsets).astype(np.int64)
    return Split(split.query, offsets, split.item[kept], split.grade[kept]), kept


def save(lists: Sequence[Shown], path: Path) -> None:
    """Write lists, a line each; the same lists give the same bytes."""
    text = "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in lists)
    path.write_bytes(gzip.compress(text.encode("utf-8", "surrogatepass"), compresslevel=6, mtime=0))


def load(path: Path) -> list[Shown]:
    """Return what `save` wrote.

    Raises:
        StoreError: if it is missing or broken.
    """
    try:
        return [*_rows(gzip.decompress(path.read_bytes()).decode("utf-8", "surrogatepass"))]
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path} cannot be read ({error}); roll back: distill-update --rollback") from error


def _rows(text: str) -> Iterator[Shown]:
    for line in text.split("\n"):
        if line:
            row = json.loads(line)
            row |= {name: tuple(row[name]) for name in ("items", "grades", "weights")}
            yield Shown(**row)
