"""Whether every form of a model still gives the scores of its checkpoint in PyTorch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.errors import GraphError
from rankdistill.export.measure.quality import agreement, changed_top, ranking_metrics
from rankdistill.export.measure.systems import System
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.scorer import Float32

FILE = "parity.json"
# fp32 forms differ by rounding alone: a few 1e-6 on logits of this scale; more than this is another computation
FP32_TOLERANCE = 1e-4


def write(
    forms: dict[str, System],
    references: Sequence[tuple[str, str]],
    lists: Sequence[tuple[str, list[str]]],
    grades: npt.NDArray[np.int32],
    threads: int,
    out: Path,
) -> None:
    """Compare forms of one model on real candidate lists and write parity.json.

    Args:
        forms: systems by what they are called.
        references: (form, the form it is compared with).
        lists: each query's text and its candidates' texts.
        grades: int32 [pairs], of the lists' candidates in order.
        threads: of the engines.
        out: folder to write to.

    Raises:
        GraphError: if two fp32 forms differ by more than rounding.
    """
    offsets = np.r_[0, np.cumsum([len(items) for _, items in lists])].astype(np.int64)
    scores = {name: _score(name, system, lists, threads) for name, system in forms.items()}
    ndcg = {name: float(np.nanmean(ranking_metrics(s, grades, offsets)["ndcg@10"])) for name, s in scores.items()}
    rows = []
    for name, reference in references:
        row = _compare(scores[name], scores[reference], offsets)
        row |= {"comparison": f"{name} vs {reference}", "ndcg@10_change": ndcg[name] - ndcg[reference]}
        rows.append(row)
        fp32 = forms[name].precision == forms[reference].precision == "fp32"
        if fp32 and row["max_difference"] > FP32_TOLERANCE:
            raise GraphError(
                f"{forms[name].graph}: scores differ from {reference} by {row['max_difference']:.2e} in fp32; at most "
                f"{FP32_TOLERANCE:.0e} is rounding"
            )
    (out / FILE).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the comparisons that `write` stored."""
    return list(json.loads((folder / FILE).read_text(encoding="utf-8")))


def _score(name: str, system: System, lists: Sequence[tuple[str, list[str]]], threads: int) -> Float32:
    scorer = system.open(threads)
    parts = []
    with Progress(f"parity of {system.model} {name}", len(lists), "queries") as bar:
        for query, items in lists:
            parts.append(scorer.score(query, items))
            bar.update(1)
    scorer.close()
    return np.concatenate(parts)


def _compare(scores: Float32, reference: Float32, offsets: npt.NDArray[np.int64]) -> dict[str, Any]:
    return {
        "pairs": len(scores),
        "max_difference": float(np.abs(scores - reference).max()),
        "tau": float(np.nanmean(agreement(scores, reference, offsets)["tau"])),
        "changed_top10": float(changed_top(scores, reference, offsets).mean()),
    }
