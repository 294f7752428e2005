"""What a student reads of an item: its title, its first words, or those that tell most. Its teacher reads all."""

from __future__ import annotations

import json
import logging
import math
import operator
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rankdistill.data.records import ITEM_SCHEMA, SPLITS, TEXT, ArrowWriter, RankingData, RankingLayout, TextTable
from rankdistill.errors import ConfigError
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.manifest import SHORTENER
from rankdistill.export.runtime.text.shortener import Shortener, terms_of
from rankdistill.options import Input
from rankdistill.store.stages import Built

log = logging.getLogger(__name__)

BATCH = 4096  # items taken at a time
WHOLE = "whole"  # the column with what a text was before it was shortened
SCHEMA = ITEM_SCHEMA.append(pa.field(WHOLE, TEXT))
KEPT = {  # in words
    "first": "the first {words} words of {items}",
    "idf": "the {words} words of {items} with the highest idf",
    "gradient": "the {words} words of {items} that weigh most in the teacher's gradient",
}

Weights = tuple[dict[str, float], float]  # of terms, and of every other one


@dataclass(frozen=True)
class Read:
    """The data set as one model reads it.

    Attributes:
        data: its texts and candidate lists.
        tokens: its texts as ids.
    """

    data: Built
    tokens: Built


def is_whole(asked: Input) -> bool:
    """Return whether a student reads all that its teacher reads."""
    return asked.fields == "all" and asked.words is None


def told(asked: Input) -> str:
    """Return in words what is read of an item."""
    if asked.words is None:
        return "titles" if asked.fields == "title" else "whole items"
    return KEPT[asked.keep].format(words=asked.words, items="titles" if asked.fields == "title" else "items")


def field_texts(items: TextTable, fields: str) -> Iterator[list[str]]:
    """Yield the items' texts in row order, `BATCH` at a time: "all" of their fields, or the "title" alone."""
    for start in range(0, len(items), BATCH):
        yield _cut(items.table.slice(start, BATCH), fields)


def idf(texts: Iterator[list[str]]) -> Weights:
    """Return ln((n + 1) / (df + 1)) of every term that stands in df of n texts.

    Spärck Jones 1972, smoothed so that a term of no text has a weight too: the highest, ln(n + 1).
    """
    number, counts = 0, Counter[str]()
    for batch in texts:
        number += len(batch)
        for text in batch:
            counts.update({term for term, _, _ in terms_of(text)})
    return {term: math.log((number + 1) / (df + 1)) for term, df in counts.items()}, math.log(number + 1)


def check(data: RankingData, asked: Input) -> None:
    """Check that the items have what is asked for.

    Raises:
        ConfigError: if titles are asked for and no item has anything beside.
    """
    if asked.fields == "title" and all(
        map(operator.eq, field_texts(data.items, "all"), field_texts(data.items, "title"))
    ):
        raise ConfigError(
            f"student.input.fields=title: allowed is all with {data.summary['name']}, whose items have one field each"
        )


def write(folder: Path, asked: Input, weights: Weights, out: Path) -> None:
    """Write a data folder with items as a student reads them, and its shortener where `asked.words` is a number.

    Queries, pairs and their order are those of the data set. The items have one field, and a column `WHOLE` with that
    field's text before it was shortened.

    Args:
        folder: of the data set, as `rankdistill.data.records.RankingWriter` makes it.
        asked: what is read.
        weights: of terms; the first of equals are kept.
        out: folder to write to.

    Raises:
        ConfigError: as `check`.
    """
    data, layout, made = RankingData.open(folder), RankingLayout(folder), RankingLayout(out)
    check(data, asked)
    shortener = None if asked.words is None else Shortener(asked.words, *weights)
    if shortener is not None:
        shortener.save(out / SHORTENER)
        shortener = Shortener.load(out / SHORTENER)  # with the weights that the file has
    shutil.copyfile(folder / layout.queries, out / made.queries)
    for split in SPLITS:
        shutil.copyfile(layout.pairs(split), made.pairs(split))
    characters = {"whole": 0, "read": 0}
    writer = ArrowWriter(out / made.items, SCHEMA)
    with Progress("shorten items", len(data.items), "items") as bar:
        for start in range(0, len(data.items), BATCH):
            rows = data.items.table.slice(start, BATCH)
            ids, popularity = rows.column("id").to_pylist(), rows.column("popularity").to_pylist()
            for item, count, whole in zip(ids, popularity, _cut(rows, asked.fields), strict=True):
                text = whole if shortener is None else shortener.shorten(whole)
                writer.add(item, text, count, len(text), whole)
                characters["read"] += len(text)
            characters["whole"] += sum(map(len, rows.column("text").to_pylist()))
            bar.update(len(ids))
    writer.close()
    means = {name: round(count / max(1, len(data.items)), 1) for name, count in characters.items()}
    log.info("student reads %s: %s of %s characters", told(asked), means["read"], means["whole"])
    if characters["read"] == characters["whole"]:
        log.warning("student.input.words=%s: no item has more; the student reads all", asked.words)
    summary = {**data.summary, "input": told(asked), "mean_characters": means}
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    (out / made.summary).write_text(text, encoding="utf-8")


def shortener_of(folder: Path) -> Shortener | None:
    """Return the shortener of a data folder; None where texts stand there as they are given."""
    return Shortener.load(folder / SHORTENER) if (folder / SHORTENER).is_file() else None


def _cut(rows: pa.Table, fields: str) -> list[str]:
    texts: list[str] = rows.column("text").to_pylist()
    if fields == "all":
        return texts
    return [text[:length] for text, length in zip(texts, rows.column("title").to_pylist(), strict=True)]
