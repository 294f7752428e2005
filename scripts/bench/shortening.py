"""What a teacher's ranking loses where it reads fewer words of an item: how many a student may be spared.

python scripts/bench/shortening.py RUN [RUN ...] --words 8 14 20 --keep first idf gradient --out shortening.json

RUN is a finished run. Its teacher, untrained on shortened items, scores the dev split's pairs again, by each choice of
words that `student.input` has; the order is held against that of whole items. It tells where to begin; what a student
keeps that is trained on shortened items, only its own run tells.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from kept_runs import HOW, MAIN

from rankdistill.data import shortened_items, tokens
from rankdistill.data.records import RankingData
from rankdistill.export.files import write_atomic
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.measure.quality import agreement, difference_interval, ranking_metrics
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.export.torch_models.checkpoint import load_ranker
from rankdistill.models.model_files import RUN
from rankdistill.options import Input
from rankdistill.options.ranges import KEEPS
from rankdistill.pipeline.data_stages import word_weights
from rankdistill.training import scoring

SPLIT = "dev"


@dataclass(frozen=True)
class Teacher:
    """A run's teacher and the data that it was trained on."""

    data: Path
    folder: Path
    max_length: int
    seed: int

    @classmethod
    def of(cls, run: Path) -> Teacher:
        """Find the teacher of a finished run."""
        stages = json.loads((run / RUN).read_text(encoding="utf-8"))["stages"]
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        return cls(run / stages["data"], run / stages["teacher"], config["teacher"]["max_length"], config["seed"])

    def score(self, data: Path) -> tuple[npt.NDArray[np.float32], float]:
        """Return the scores of the split's pairs, as their texts stand in a data folder, and the tokens of a pair."""
        records, encoder = RankingData.open(data), PairEncoder.load(self.folder, self.max_length)
        with tempfile.TemporaryDirectory() as folder:
            tokens.write(records, encoder, Path(folder))
            pairs = tokens.PairTokens(records.splits[SPLIT], tokens.TokenTable.open(Path(folder)), encoder)
            model = load_ranker(str(self.folder), cls_only=True)
            with Progress("score", len(pairs), "pairs") as bar:
                found = scoring.score_rows(model, pairs, np.arange(len(pairs)), batch_size=64, bf16=False, bar=bar)
        return found, float(pairs.lengths.mean())


def measure(teacher: Teacher, words: list[int], keeps: list[str]) -> dict[str, Any]:
    """Return what is left of the teacher's order by every choice of words."""
    records = RankingData.open(teacher.data)
    split = records.splits[SPLIT]
    whole, length = teacher.score(teacher.data)
    before = ranking_metrics(whole, split.grade, split.offsets)[MAIN]
    rows: list[dict[str, Any]] = [{"keep": None, "words": None, "tokens": length, MAIN: float(np.nanmean(before))}]
    for keep in keeps:
        asked = Input(keep=keep, words=words[0])
        weights = word_weights(asked, records, teacher.folder, teacher.max_length, teacher.seed)
        for number in words:
            with tempfile.TemporaryDirectory() as folder:
                shortened_items.write(teacher.data, Input(words=number, keep=keep), weights, Path(folder))
                found, length = teacher.score(Path(folder))
            after = ranking_metrics(found, split.grade, split.offsets)[MAIN]
            rows.append({
                "keep": keep, "words": number, "tokens": length, MAIN: float(np.nanmean(after)),
                "difference": float(np.nanmean(after - before)),
                "interval": difference_interval(after, before, **HOW),
                "tau": float(np.nanmean(agreement(found, whole, split.offsets)["tau"])),
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return {"data": records.summary["name"], "queries": len(split.query), "pairs": split.pairs, "rows": rows}


def main() -> None:
    """Shorten the items of every run's data for its teacher."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--words", type=int, nargs="+", default=[8, 14, 20])
    parser.add_argument("--keep", nargs="+", choices=KEEPS, default=list(KEEPS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if min(options.words) < 1:
        parser.error("--words: allowed are numbers >= 1")
    for run in options.runs:
        if not (run / RUN).is_file():
            parser.error(f"{run} is no run: it has no {RUN}")
    results = [measure(Teacher.of(run), options.words, options.keep) for run in options.runs]
    if options.out:
        content = {
            "results": results, "host": describe_host(), "versions": versions(["rankdistill", "torch", "transformers"]),
        }  # fmt: skip
        write_atomic(options.out, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
