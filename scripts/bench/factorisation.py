"""What a ranker loses when its word vectors are a product of two matrices, before any training.

python scripts/bench/factorisation.py RUN --ranks 64 128 192 256 --out factorisation.json

RUN is a finished run. Its student's table, [words, width], becomes [words, rank] times [rank, width] (ALBERT, Lan et
al. 2020, section 3.1) by the singular value decomposition that is nearest to it: every word's vector counting the same,
or as often as the training shows the word. The dev queries are then ranked again and compared with the whole table's
order. Beside it stands what leaving out words that the training never shows saves, which changes no score.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept_runs import MAIN

from rankdistill.data.records import RankingData
from rankdistill.data.tokens import PairTokens, TokenTable
from rankdistill.export.files import write_atomic
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.measure.quality import agreement, ranking_metrics
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.export.torch_models.checkpoint import load_ranker
from rankdistill.models.model_files import RUN
from rankdistill.models.vocabulary import count_shown
from rankdistill.training.scoring import score_rows

UNSEEN = 0.01  # occurrences of a word that is never shown: nearly nothing, but no vector is of no matter


def nearest(table: torch.Tensor, weights: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the table of this rank, beside the mean vector, that is nearest to one by weighted squares.

    Args:
        table: float [words, width].
        weights: of the words, float [words].
        rank: of what is added to the mean vector.
    """
    mean = (table * weights[:, None]).sum(0) / weights.sum()
    centred = table - mean
    scaled = (centred * weights.sqrt()[:, None]).double()
    _, vectors = torch.linalg.eigh(scaled.T @ scaled)  # rising
    chosen = vectors[:, -rank:].float()
    return centred @ chosen @ chosen.T + mean


def measure(run: Path, ranks: list[int], queries: int, seed: int) -> dict[str, Any]:
    """Return what is left of the student's order at each rank."""
    stages = json.loads((run / RUN).read_text(encoding="utf-8"))["stages"]
    student = json.loads((run / "tradeoff.json").read_text(encoding="utf-8"))["config"]["student"]
    records = RankingData.open(run / stages.get("student input", stages["data"]))
    table = TokenTable.open(run / stages.get("student tokens", stages["tokens"]))
    encoder = PairEncoder.load(run / stages["student"], student["max_length"])
    pairs = PairTokens(records.splits["dev"].sample(queries, seed), table, encoder)
    model = load_ranker(str(run / stages["student"]), cls_only=True)
    words = model.bert.embeddings.word_embeddings.weight.data
    size, width = words.shape
    shown = sum(count_shown(PairTokens(records.splits["train"], table, encoder), size))
    weights = {"words": torch.ones(size), "occurrences": torch.from_numpy(shown + UNSEEN).float()}

    def score() -> Any:
        with Progress("score", len(pairs), "pairs") as bar:
            return score_rows(model, pairs, np.arange(len(pairs)), batch_size=64, bf16=False, bar=bar)

    def ndcg(scores: Any) -> float:
        return float(np.nanmean(ranking_metrics(scores, pairs.split.grade, pairs.split.offsets)[MAIN]))

    original, whole = words.clone(), score()
    rows = []
    for by, each in weights.items():
        for rank in ranks:
            words.copy_(nearest(original, each, rank))
            scores = score()
            tau = float(np.nanmean(agreement(scores, whole, pairs.split.offsets)["tau"]))
            rows.append({"by": by, "rank": rank, "int8_mb": (size + width) * rank / 1e6, "tau": tau,
                         MAIN: ndcg(scores)})  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    kept = int((shown > 0).sum())
    return {
        "run": run.resolve().parent.name, "data": records.summary["name"], "queries": len(pairs.split.query),
        "words": size, "int8_mb": size * width / 1e6, MAIN: ndcg(whole), "rows": rows,
        "shown_words": kept, "shown_int8_mb": kept * width / 1e6,
    }  # fmt: skip


def main() -> None:
    """Factorise the word vectors of a run's student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 128, 192, 256])
    parser.add_argument("--queries", type=int, default=40, help="of dev")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not (options.run / "tradeoff.json").is_file():
        parser.error(f"{options.run} is no finished run: it has no tradeoff.json")
    if min(options.ranks) < 1:
        parser.error("--ranks: allowed are numbers >= 1")
    result = measure(options.run, options.ranks, options.queries, options.seed)
    content = {"result": result, "host": describe_host(), "versions": versions(["rankdistill", "torch"])}
    if options.out:
        write_atomic(options.out, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
