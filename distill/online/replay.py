"""The old pairs that an update is reminded of, with the teacher's scores, and the test set that tells forgetting."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.data.records import UNKNOWN, Float32, Int32, Int64, RankingData, Split
from rankdistill.data.tokens import PairTokens, TokenColumn, TokenTable
from rankdistill.errors import StoreError
from rankdistill.export.measure import predictions
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.models.model_files import RUN
from rankdistill.training import scoring as scores_

STUDENT = "predictions student onnxruntime fp32"
ROLES = ("data", "tokens", "scores", "predictions teacher pytorch fp32")


@dataclass(frozen=True)
class Old:
    """What a run knows of its data.

    Attributes:
        data: folder of the data set as the student reads it.
        texts: folder of the data set with whole items.
        train: the training pairs.
        teacher: the teacher's raw logits of them, float32 [pairs].
        test: the pairs of the measured split.
        reference: the teacher's logits of them, float32 [pairs].
        relevant: least grade that is relevant.
        key: of the data set.
        student: the run's student's logits of the measured split, float32 [pairs]; None where they are not kept.
    """

    data: Path
    texts: Path
    train: PairTokens
    teacher: Float32
    test: PairTokens
    reference: Float32
    relevant: int
    key: str
    student: Float32 | None = None

    @classmethod
    def of(cls, run: Path, encoder: PairEncoder, split: str) -> Old:
        """Find it by the stages that a run stands on.

        Args:
            run: folder of a finished run.
            encoder: of the student.
            split: that the bundle's quality was measured on.

        Raises:
            StoreError: if a stage is gone.
        """
        stages = json.loads((run / RUN).read_text(encoding="utf-8"))["stages"]
        folders = {role: run / stages.get(role, "-") for role in ROLES}
        data, tokens = folders["data"], folders["tokens"]
        if "student input" in stages:
            data, tokens = run / stages["student input"], run / stages["student tokens"]
        for role, folder in [*folders.items(), ("student input", data), ("student tokens", tokens)]:
            if not folder.is_dir():
                raise StoreError(f"{run}: its stage {role} is not there any more; give the run's command again")
        kept = run / stages.get(STUDENT, "-")
        records, table = RankingData.open(data), TokenTable.open(tokens)
        scores_.scale(folders["scores"])  # what the loss takes them for
        return cls(
            data=data,
            texts=folders["data"],
            train=PairTokens(records.splits["train"], table, encoder),
            teacher=scores_.read(folders["scores"]),
            test=PairTokens(records.splits[split], table, encoder),
            reference=predictions.read(folders[ROLES[-1]]),
            relevant=int(records.summary["relevant"]),
            key=folders["data"].resolve().name,
            student=predictions.read(kept) if kept.is_dir() else None,
        )

    def sample(self, lists: int, rng: np.random.Generator, most: int | None = None) -> tuple[PairTokens, Float32]:
        """Return training lists drawn at random, and the teacher's scores of them.

        Their grades are `UNKNOWN`: the teacher alone tells of them. Their tokens are in memory; the rest is not read.

        Args:
            lists: their number; all are taken where there are no more.
            rng: draws.
            most: candidates of a list, drawn too where it has more; None takes all.
        """
        split = self.train.split
        drawn = np.sort(rng.choice(len(split.query), size=min(lists, len(split.query)), replace=False))
        parts = [np.arange(split.offsets[query], split.offsets[query + 1]) for query in drawn]
        if most is not None:
            parts = [rng.permutation(part)[:most] if len(part) > most else part for part in parts]
        rows = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        queries, query = np.unique(split.query[drawn], return_inverse=True)
        items, item = np.unique(split.item[rows], return_inverse=True)
        table = TokenTable(_part(self.train.table.queries, queries), _part(self.train.table.items, items))
        unknown = np.full(len(rows), UNKNOWN, dtype=np.int32)
        small = Split(query.astype(np.int32), offsets, item.astype(np.int32), unknown)
        return PairTokens(small, table, self.train.encoder), self.teacher[rows]


def joined(parts: list[PairTokens]) -> PairTokens:
    """Return the lists of all parts, one after the other."""
    tables = [part.table for part in parts]
    queries, items = tables[0].queries, tables[0].items
    for table in tables[1:]:
        queries, items = queries.followed_by(table.queries), items.followed_by(table.items)
    shifts = np.cumsum([[0, 0, 0], *([len(t.queries.offsets) - 1, len(t.items.offsets) - 1, len(p)]
                                     for t, p in zip(tables, parts, strict=True))], axis=0)  # fmt: skip
    split = Split(
        query=np.concatenate([p.split.query + s[0] for p, s in zip(parts, shifts, strict=False)]).astype(np.int32),
        offsets=np.concatenate(
            [[0], *(p.split.offsets[1:] + s[2] for p, s in zip(parts, shifts, strict=False))]
        ).astype(np.int64),
        item=np.concatenate([p.split.item + s[1] for p, s in zip(parts, shifts, strict=False)]).astype(np.int32),
        grade=np.concatenate([p.split.grade for p in parts]),
    )
    return PairTokens(split, TokenTable(queries, items), parts[0].encoder)


def rows_of(split: Split, queries: Int64) -> Int64:
    """Return the pairs of these lists, in their order, int64 [pairs]."""
    parts = [np.arange(split.offsets[query], split.offsets[query + 1]) for query in queries]
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def calibration(pairs: PairTokens, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return some pairs as a graph's inputs, which int8's smoothing is fitted to."""
    rows = np.sort(rng.choice(len(pairs), size=min(count, len(pairs)), replace=False))
    return [pairs.batch(np.array([row])) for row in rows]


def _part(column: TokenColumn, rows: Int32) -> TokenColumn:
    lengths = column.lengths_of(rows)
    return TokenColumn(column.heads(rows, lengths), np.r_[0, np.cumsum(lengths)].astype(np.int64))
