"""A run's folder: what it was asked for, which stages it stands on, and what came out."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from rankdistill import torchrun
from rankdistill.baselines import simple_rankers as baselines_
from rankdistill.data import sources
from rankdistill.data.records import RankingData, Split
from rankdistill.data.shortened_items import Read, told
from rankdistill.data.tokens import TokenTable, pair_lengths
from rankdistill.export.bundle import writer as bundle_
from rankdistill.export.files import relative_path, write_atomic
from rankdistill.export.gate import bundle_gate
from rankdistill.export.gate.budget import Budget
from rankdistill.export.measure import latency as latency_
from rankdistill.export.measure import parity as parity_
from rankdistill.export.measure import predictions as predictions_
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.measure.retrieval import RETRIEVAL
from rankdistill.export.measure.systems import System
from rankdistill.export.report import evaluation
from rankdistill.export.report.recommendation import recommend
from rankdistill.export.report.tradeoff import FORMAT, Bootstrap, Candidate, finite, tradeoff_rows, warnings_of
from rankdistill.export.runtime.manifest import CASCADE, EVALUATION
from rankdistill.options import Config, Input
from rankdistill.store.stages import Built

log = logging.getLogger(__name__)

LIBRARIES = (
    "rankdistill", "torch", "transformers", "optimum", "onnxruntime", "openvino", "onnx", "tokenizers", "datasets",
    "numpy", "bm25s", "hydra-core",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """The stages that the trade-off is put together from.

    Attributes:
        reads: what each model reads, teacher and student; of the teacher it is the data set.
        systems: the models, the teacher in PyTorch first, each with the stage that made it.
        predictions: the scores by each of them.
        baselines: the scores by each baseline.
        latency: the timings; None where nothing is timed.
        parity: the comparisons of forms, by model.
    """

    reads: Mapping[str, Read]
    systems: Sequence[tuple[System, Built]]
    predictions: Sequence[Built]
    baselines: Built
    latency: Built | None
    parity: Mapping[str, Built]


def record_end(folder: Path, overrides: Sequence[str], status: str, error: str) -> None:
    """Note in a run's run.json that it ended without a result: "failed" or "pruned", and why.

    A run whose options were refused has no run.json yet; it gets one, so that whoever reads many runs sees it too.
    """
    path = folder / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        started = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"experiment": folder.parent.name, "status": status, "overrides": list(overrides), "started": started,
                  "seconds": 0.0, "stages": {}, "reused": []}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    record |= {"status": status, "error": error}
    write_atomic(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _stages_of(folder: Path) -> list[str]:
    """Return the stages that a run before stood on, none if there is none: given again, it goes on from them."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return sorted({*record["stages"].values(), *record.get("earlier", ())})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []


class Run:
    """Collects the stages of a run and writes its folder.

    Args:
        folder: of the run; made when missing.
        config: what was asked for.
        overrides: what the command line changed.
    """

    def __init__(self, folder: Path, config: Config, overrides: Sequence[str]) -> None:
        self.folder, self.config = folder, config
        self._overrides = list(overrides)
        self._stages: dict[str, Built] = {}
        self._started = datetime.now(UTC)
        self._clock = time.perf_counter()
        self._earlier = _stages_of(folder)
        if torchrun.is_first():
            folder.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)
            write_atomic(folder / "config.yaml", text)
            self._write("running")

    def keep(self, role: str, built: Built) -> Built:
        """Note that the run stands on a stage, at once: a stage that a run refers to is never pruned."""
        self._stages[role] = built
        if torchrun.is_first():
            self._write("running")
        return built

    def finish(self, measured: Measured, cascade: Built | None, embedder: Built | None) -> dict[str, Any]:
        """Put the trade-off together from what the stages measured; write it, the page and the run's record.

        Args:
            measured: those stages.
            cascade: cut-offs between the student and other stages; None if it is served by itself.
            embedder: what its vectors keep; None if there is none.

        Returns:
            The content of tradeoff.json.
        """
        from rankdistill.export.report.report_page import write_report

        tradeoff = self._tradeoff(measured)
        tradeoff["parity"] = [
            {"model": model} | row for model, built in measured.parity.items() for row in parity_.read(built.folder)
        ]
        tradeoff["graphs"] = self._graphs()
        if cascade is not None:
            tradeoff["cascade"] = json.loads((cascade.folder / CASCADE).read_text(encoding="utf-8"))
        if embedder is not None:
            tradeoff["embedder"] = json.loads((embedder.folder / RETRIEVAL).read_text(encoding="utf-8"))
        tradeoff = dict(finite(tradeoff))
        text = json.dumps(tradeoff, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(self.folder / "tradeoff.json", text + "\n")
        write_report(tradeoff, self.folder / "report.html")
        self._write("finished")
        bundle_.write_bundle(self.folder, self.folder / "bundle")
        if self.config.budget.require:
            verdict = bundle_gate.judge_run(self.folder, Budget.of(asdict(self.config.budget), "budget"))
            tradeoff["gate"] = verdict
        if not self.config.bundle:
            shutil.rmtree(self.folder / "bundle")
        return tradeoff

    def _tradeoff(self, measured: Measured) -> dict[str, Any]:
        measure = self.config.measure
        data = measured.reads["teacher"].data
        records = RankingData.open(data.folder)
        split = records.splits[measure.split]
        samples = {} if measured.latency is None else latency_.read(measured.latency.folder)
        candidates = [
            Candidate(
                model=system.model,
                engine=system.engine,
                precision=system.precision,
                scores=predictions_.read(built.folder),
                latency=samples.get(system.name),
                size_mb=system.size_mb,
                params=system.params,
            )
            for (system, _), built in zip(measured.systems, measured.predictions, strict=True)
        ]
        for name, scores in baselines_.read(measured.baselines.folder).items():
            engine, precision = ("pytorch", "fp32") if name == "embedding" else (None, None)
            candidates.append(Candidate(name, engine, precision, scores))
        bootstrap = Bootstrap(measure.confidence, measure.resamples, self.config.seed)
        relevant = int(records.summary["relevant"])
        timed_split = split.sample(measure.latency_queries, self.config.seed)
        ids = records.queries.ids()
        about = {"dataset": records.summary["name"], "fingerprint": data.key, "split": measure.split}
        evaluation.write(
            self.folder / EVALUATION,
            candidates,
            split.grade,
            split.offsets,
            relevant,
            [ids[row] for row in split.query],
            [ids[row] for row in timed_split.query],
            about,
        )
        rows, comparisons = tradeoff_rows(candidates, split.grade, split.offsets, relevant, bootstrap)
        verdict = recommend(rows, comparisons, len(split.query))
        return {
            "format": FORMAT,
            "experiment": self.config.name,
            "verdict": verdict.as_dict(),
            "dataset": records.summary["name"],
            "fingerprint": data.key,
            "licences": {
                "data": self.config.data.licence or records.summary.get("licence"),
                "teacher": self.config.teacher.licence,
            },
            "templates": sources.templates(self.config.data, self.config.student.input.fields),
            "inputs": {model: self._input(model, read, split) for model, read in measured.reads.items()},
            "split": measure.split,
            "queries": len(split.query),
            "pairs": split.pairs,
            "confidence": measure.confidence,
            "rows": rows,
            "comparisons": comparisons,
            "warnings": warnings_of(comparisons, rows, verdict),
            "latency": {} if measured.latency is None else latency_.conditions(measured.latency.folder),
            "host": describe_host(),
            "versions": versions(LIBRARIES),
            "config": asdict(self.config),
            "stages": {role: built.key for role, built in self._stages.items()},
            "seconds": {role: built.seconds for role, built in self._stages.items()},
        }

    def _input(self, model: str, read: Read, split: Split) -> dict[str, Any]:
        """Return what a model reads of an item, and the mean tokens of a pair of the measured split."""
        max_length = getattr(self.config, model).max_length
        lengths = pair_lengths(split, TokenTable.open(read.tokens.folder), max_length)
        asked = self.config.student.input if model == "student" else Input()
        return {"items": told(asked), "max_length": max_length, "tokens": float(lengths.mean())}

    def _graphs(self) -> list[dict[str, Any]]:
        found = []
        for model in ("teacher", "student"):
            content = json.loads((self._stages[f"{model} graphs"].folder / "graphs.json").read_text(encoding="utf-8"))
            found += [{"model": model} | graph for graph in content]
        return found

    def _write(self, status: str) -> None:
        record = {
            "experiment": self.config.name,
            "status": status,
            "overrides": self._overrides,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._clock, 1),
            "stages": {role: relative_path(built.folder, self.folder) for role, built in self._stages.items()},
            "reused": [role for role, built in self._stages.items() if built.reused],
        }
        if status == "running" and self._earlier:  # what the folder has of a run before may still be wanted
            record["earlier"] = self._earlier
        write_atomic(self.folder / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
