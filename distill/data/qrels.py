"""Qrels of a BEIR folder: which query's which item has which grade, in tables separated by tabs."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from rankdistill.data.mismatch import Mismatch, alike
from rankdistill.data.records import SPLITS
from rankdistill.data.text_files import column_name, is_number, lines
from rankdistill.errors import DataError

log = logging.getLogger(__name__)

MAX_GRADE = 30  # 2^30 - 1 is still exact as a gain; a greater one is no grade but a score
COLUMNS = ("query-id", "corpus-id", "score")
TREC_COLUMNS = 4  # query, iteration, document, grade
WHOLE = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?")  # int() alone takes 1_0 and digits of other scripts too

Judged = dict[str, dict[str, int]]  # query id -> item id -> grade


def read_judged(folder: Path, dev_fraction: float, seed: int, mismatch: Mismatch) -> dict[str, Judged]:
    """Read the qrels of every split; each line must be sound, and no query stand in two splits.

    Args:
        folder: of the data set.
        dev_fraction: share of train's queries that become dev where there is no qrels/dev.tsv.
        seed: of that share.
        mismatch: tells of negative grades.

    Raises:
        DataError: naming the file and line of the first thing that is wrong.
    """
    judged: dict[str, Judged] = {split: {} for split in SPLITS}
    split_of: dict[str, str] = {}
    _tell_unread(folder / "qrels")
    for split in SPLITS:
        path = folder / "qrels" / f"{split}.tsv"
        if path.is_file():
            _read_split(path, split, judged[split], split_of, mismatch)
    if not (folder / "qrels" / "dev.tsv").is_file():
        ids = sorted(judged["train"])
        drawn = np.random.default_rng(seed).permutation(len(ids))[: max(1, round(len(ids) * dev_fraction))]
        judged["dev"] = {ids[row]: judged["train"].pop(ids[row]) for row in sorted(drawn.tolist())}
    return judged


def _read_split(path: Path, split: str, judged: Judged, split_of: dict[str, str], mismatch: Mismatch) -> None:
    rows = negative = 0
    example = ""
    for where, query, item, grade in read_qrels(path):
        if split_of.setdefault(query, split) != split:
            raise DataError(f"{where}: query {query!r} is in {split_of[query]}.tsv too; a query is in one split")
        grades = judged.setdefault(query, {})
        if item in grades:
            raise DataError(f"{where}: the pair {query!r}, {item!r} stands there twice; leave one of its lines")
        if grade < 0:
            negative, example = negative + 1, example or where
        grades[item] = max(grade, 0)
        rows += 1
    what = f"lines of {path.name} have a negative grade (first: {example})"
    mismatch.tell(negative, rows, what, "they are read as 0")


def read_qrels(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """Yield ("file:line", query id, item id, grade) of a qrels file; a grade may be negative.

    Raises:
        DataError: naming the line that is no judgement.
    """
    for place, (number, line) in enumerate(lines(path)):
        where, columns = f"{path}:{number}", line.split("\t")
        if len(columns) != len(COLUMNS):
            raise DataError(f"{where}: {_columns_problem(line, len(columns))}")
        if place == 0 and _is_header(where, columns):
            continue
        query, item, text = (column.strip() for column in columns)
        match = WHOLE.fullmatch(text)
        if match is None:
            raise DataError(f"{where}: score {text!r} is no whole number; grades are 0 to {MAX_GRADE}")
        grade = int(match[1])
        if grade > MAX_GRADE:
            raise DataError(f"{where}: score {grade} is no grade; at most {MAX_GRADE}")
        yield where, query, item, grade


def first_line(folder: Path, query: str) -> str:
    """Return "file:line" where a query is judged first."""
    files = (path for split in SPLITS if (path := folder / "qrels" / f"{split}.tsv").is_file())
    return next((where for path in files for where, found, _, _ in read_qrels(path) if found == query), str(folder))


def check_known(
    folder: Path,
    judged: Mapping[str, Judged],
    items: Collection[str],
    queries: Collection[str],
    empty: Mapping[str, str],
) -> None:
    """Refuse qrels that name what is not there; the files are read again only to say in which line.

    Args:
        folder: of the data set.
        judged: by split.
        items: ids of those with a text.
        queries: ids.
        empty: "file:line" of items without a text, by id.

    Raises:
        DataError: naming the first such line, how many there are, and an id that is written almost so.
    """
    for split, lists in judged.items():
        if lists.keys() <= set(queries) and all(item in items for grades in lists.values() for item in grades):
            continue
        path = folder / "qrels" / f"{split}.tsv"
        if not path.is_file():  # dev is cut from train
            path = folder / "qrels" / "train.tsv"
        rows, problems = 0, []
        for where, query, item, _ in read_qrels(path):
            rows += 1
            if item not in items or query not in queries:
                problems.append((where, query, item))
        where, query, item = problems[0]
        more = f"; {len(problems)} of {rows} lines name what is not there" if len(problems) > 1 else ""
        if item in empty:
            raise DataError(f"{empty[item]}: item {item!r} has no text, yet {where} judges it; remove one{more}")
        what, name, known, file = (
            ("item", item, items, "corpus.jsonl") if item not in items else ("query", query, queries, "queries.jsonl")
        )
        advice = alike(name, known, file) or "; add it there or remove the line"
        raise DataError(f"{where}: {what} {name!r} is not in {file}{advice}{more}")


def _is_header(where: str, columns: list[str]) -> bool:
    names = [column_name(column) for column in columns]
    if is_number(columns[2]):
        return False
    if names[0] != COLUMNS[0] or names[2] in COLUMNS[:2]:
        raise DataError(
            f"{where}: the first line is no header: {', '.join(COLUMNS)}; nor is {columns[2]!r} a score, a whole number"
        )
    return True


def _columns_problem(line: str, count: int) -> str:
    told = (
        f"{count} column{'s' * (count != 1)}; {', '.join(COLUMNS[:2])} and {COLUMNS[2]}, separated by tabs, are needed"
    )
    if TREC_COLUMNS in (count, len(line.split())):
        told += "; this looks like TREC's qrels (query, 0, item, grade): leave its second column out"
    return told


def _tell_unread(qrels: Path) -> None:
    known = [f"{split}.tsv" for split in SPLITS]
    others = sorted(path.name for path in qrels.iterdir() if path.name not in known and not path.name.startswith("."))
    if others:
        cut = "" if (qrels / "dev.tsv").is_file() else ", and dev is cut from train"
        log.warning("%s: not read: %s; read are %s%s", qrels, ", ".join(others), ", ".join(known), cut)
