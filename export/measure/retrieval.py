"""What vectors keep of retrieval and of ranking: recall@50 over the catalogue, nDCG@10 over candidate lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankdistill.export.measure.quality import Float64, Int64, difference_interval, mean_interval, ranking_metrics
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.runtime.vectors import Vectors, prefix

RETRIEVAL = "retrieval.json"
DEPTH = 50  # items that a first stage passes on, as recall's name says
BLOCK = 64  # queries compared with the catalogue at a time
RECALL, NDCG = f"recall@{DEPTH}", "ndcg@10"


@dataclass(frozen=True)
class Judged:
    """Candidate lists and the catalogue they stand in.

    Attributes:
        query: int [queries], rows of the query vectors.
        offsets: int64 [queries + 1].
        item: int [pairs], rows of the catalogue.
        grade: int [pairs].
        relevant: least grade that is to be found.
    """

    query: Any
    offsets: Int64
    item: Any
    grade: Any
    relevant: int


@dataclass(frozen=True)
class Kept:
    """Vectors as they would be kept.

    Attributes:
        model: "zero-shot" or "embedder".
        precision: of the graph.
        dtype: of the vectors.
        dimensions: of them.
    """

    model: str
    precision: str
    dtype: str
    dimensions: int

    @property
    def bytes(self) -> int:
        """Of a text's vector."""
        return {"float32": 4 * self.dimensions, "int8": self.dimensions, "binary": (self.dimensions + 7) // 8}[
            self.dtype
        ]


def measure(queries: Float32, items: Float32, kept: Kept, judged: Judged) -> dict[str, Float64]:
    """Return nDCG@10 and recall@50 of every query, float64 [queries] each.

    - ndcg@10 of the candidates ordered by cosine (`quality.ranking_metrics`).
    - recall@50: share of a query's relevant candidates among the 50 nearest of the whole catalogue; NaN for a query
      that has none.

    Args:
        queries: float32 [queries of the data, width], of any length.
        items: float32 [catalogue, width].
        kept: how they are kept: the first dimensions, the items packed.
        judged: the lists.
    """
    catalogue = Vectors.of(prefix(items, kept.dimensions), kept.dtype)
    asked = prefix(queries, kept.dimensions)[judged.query]
    scores = np.empty(len(judged.item), dtype=np.float32)
    recall = np.full(len(judged.query), np.nan)
    for start in range(0, len(asked), BLOCK):
        found = catalogue.similarities(asked[start : start + BLOCK])
        for place, cosines in enumerate(found, start):
            rows = slice(int(judged.offsets[place]), int(judged.offsets[place + 1]))
            scores[rows] = cosines[judged.item[rows]]
            wanted = judged.item[rows][judged.grade[rows] >= judged.relevant]
            if len(wanted):
                nearest = np.argsort(-cosines, kind="stable")[:DEPTH]
                recall[place] = np.isin(wanted, nearest).mean()
    return {NDCG: ranking_metrics(scores, judged.grade, judged.offsets)[NDCG], RECALL: recall}


def rows(
    measured: Sequence[tuple[Kept, dict[str, Float64]]], *, confidence: float, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Return a row for each form of the vectors, with differences, query by query, from the first one.

    Args:
        measured: of `measure`; the zero-shot vectors first, then the embedder's whole ones in float32.
        confidence: of the intervals.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    zero_shot, whole = measured[0][1], measured[1][1]
    found = []
    for kept, values in measured:
        row: dict[str, Any] = {
            "model": kept.model, "precision": kept.precision, "dtype": kept.dtype, "dimensions": kept.dimensions,
            "bytes": kept.bytes,
        }  # fmt: skip
        for name, value in values.items():
            mean, best = float(np.nanmean(value)), float(np.nanmean(whole[name]))
            row[name] = mean
            row[f"{name}_ci"] = list(mean_interval(value, **options))
            row[f"{name}_kept"] = mean / best if best else None
            row[f"{name}_over_zero_shot"] = float(np.nanmean(value - zero_shot[name]))
            row[f"{name}_over_zero_shot_ci"] = list(difference_interval(value, zero_shot[name], **options))
        found.append(row)
    return found
