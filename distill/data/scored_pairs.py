"""What a student is taught: the judged and the drawn pairs of each query in one list, with the teacher's scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from rankdistill.data.records import UNKNOWN, Float32, Int32, Int64, Split
from rankdistill.data.tokens import PairTokens
from rankdistill.errors import ConfigError


@dataclass(frozen=True)
class Lessons:
    """Pairs with what the teacher says of them.

    Attributes:
        pairs: of the training split, and drawn ones, a list a query.
        scores: the teacher's, float32 [pairs].
        scale: what the scores are, `rankdistill.training.scoring.scale`.
    """

    pairs: PairTokens
    scores: Float32
    scale: str

    def with_drawn(self, drawn: Lessons, relevant: int, *, hard_negatives: int, margin: float) -> Lessons:
        """Return these judged pairs and drawn ones together; see `label_hard_negatives` for the options.

        `drawn` has the tokens of all queries, its own behind those of the data set.

        Raises:
            ConfigError: if the scores of the two are of different scales.
        """
        if drawn.scale != self.scale:
            raise ConfigError(f"the teacher's scores are {self.scale} of judged pairs and {drawn.scale} of drawn ones")
        grades = label_hard_negatives(
            self.pairs.split,
            self.scores,
            drawn.pairs.split,
            drawn.scores,
            relevant,
            count=hard_negatives,
            margin=margin,
        )
        split, order = join(self.pairs.split, replace(drawn.pairs.split, grade=grades))
        pairs = PairTokens(split, drawn.pairs.table, self.pairs.encoder)
        return Lessons(pairs, np.concatenate([self.scores, drawn.scores])[order], self.scale)


def label_hard_negatives(
    judged: Split,
    judged_scores: Float32,
    drawn: Split,
    drawn_scores: Float32,
    relevant: int,
    *,
    count: int,
    margin: float,
) -> Int32:
    """Return the drawn pairs' grades: 0 for each query's hardest negatives, unknown for all others.

    A hard negative is what the teacher scores high but at least `margin` below its least score of a relevant
    judged candidate of the query: what scores higher may be relevant and unjudged (Moreira et al. 2024, "NV-Retriever",
    section 3, TopK-MarginPos).

    Args:
        judged: candidate lists with grades.
        judged_scores: the teacher's logits, float32 [judged pairs].
        drawn: unlabelled lists.
        drawn_scores: the teacher's logits, float32 [drawn pairs].
        relevant: least grade that is relevant.
        count: most of a query.
        margin: in logits, >= 0.
    """
    grades = np.full(drawn.pairs, UNKNOWN, dtype=np.int32)
    ceiling: dict[int, float] = {}
    for row, rows in _lists(judged):
        positive = judged_scores[rows][judged.grade[rows] >= relevant]
        if len(positive):
            ceiling[row] = float(positive.min()) - margin
    for row, rows in _lists(drawn):
        if row in ceiling:
            positions = np.arange(rows.start, rows.stop)
            below = positions[drawn_scores[rows] <= ceiling[row]]
            grades[below[np.argsort(-drawn_scores[below], kind="stable")][:count]] = 0
    return grades


def join(one: Split, other: Split) -> tuple[Split, Int64]:
    """Join two sets of lists into one list a query, in the order in which the queries come.

    Returns:
        The lists, and where each of their pairs stood in the pairs of `one` followed by those of `other`, int64
        [pairs].
    """
    query = np.concatenate([one.pair_query(), other.pair_query()])
    _, first, group = np.unique(query, return_index=True, return_inverse=True)
    order = np.argsort(first[group], kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(query[order]) != 0])
    item, grade = np.concatenate([one.item, other.item]), np.concatenate([one.grade, other.grade])
    offsets = np.r_[starts, len(query)].astype(np.int64)
    return Split(query[order][starts].astype(np.int32), offsets, item[order], grade[order]), order.astype(np.int64)


def _lists(split: Split) -> Iterator[tuple[int, slice]]:
    for number, row in enumerate(split.query.tolist()):
        yield row, slice(int(split.offsets[number]), int(split.offsets[number + 1]))
