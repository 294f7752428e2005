"""What students of every size keep of their teacher's ranking, over several data sets; goes on where it was stopped.

python scripts/bench/quality.py --work WORK --out quality.json --set movielens --set crowdflower=FOLDER \
    --set wikiqa=FOLDER --set amazon_games=FOLDER

A set given with a folder is read in BEIR layout. CrowdFlower's 39 test queries are too few: its queries are dealt into
five folds, each of which is tested by models that never saw it, and the folds' queries are judged together. Every run
is an ordinary `distill` run under WORK, whose finished stages are reused; a run that is whole is not begun again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_rel, wilcoxon

from export.files import write_atomic
from export.host import describe_host, versions
from export.measure import evaluation
from export.measure.quality import difference_interval, ratio_interval

EXPERIMENTS = {  # the recipe of each set: conf/experiment
    "movielens": "histories", "amazon_games": "histories", "crowdflower": "product_search", "wikiqa": "passages",
}  # fmt: skip
STUDENTS = {  # and how many pairs they learn from: the smaller, the more, which takes none longer than the largest
    "l2_h384": 240_000, "l1_h384": 480_000, "l3_h384_f768": 240_000, "l4_h384": 240_000, "l2_h384_f768": 480_000,
    "l2_h256": 240_000, "l1_h256": 480_000,
}  # fmt: skip
DISTILLED = "l2_h384"  # what the student that learns from labels alone is compared with
LABELS = ["student.fit.keep=best", "student.fit.epochs=1000", "loss=labels", "augment=none"]  # as many steps, its best
FOLDS = {"crowdflower": 5}
HOW = {"confidence": 0.95, "resamples": 10000, "seed": 0}
MAIN = "ndcg@10"


@dataclass(frozen=True)
class Job:
    """A run: of a set's fold, a student and what it learns from."""

    set: str
    fold: int | None
    student: str
    labels_alone: bool

    @property
    def name(self) -> str:
        """Names the run's folder."""
        fold = "" if self.fold is None else f"-{self.fold}"
        return f"{self.set}{fold}-{self.student}{'-labels' if self.labels_alone else ''}"


def write_folds(source: Path, out: Path, count: int) -> None:
    """Deal a BEIR set's queries into folds by the order of their hashed ids; fold k tests, the next is dev."""
    rows: dict[str, list[str]] = {}
    for path in sorted((source / "qrels").glob("*.tsv")):
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        for line in lines:
            rows.setdefault(line.split("\t")[0], []).append(line)
    dealt = np.random.default_rng(0).permutation(sorted(rows))
    for fold in range(count):
        folder = out / f"fold-{fold}"
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        for name in ("corpus.jsonl", "queries.jsonl"):
            if not (folder / name).exists():
                (folder / name).symlink_to((source / name).resolve())
        parts: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
        for place, query in enumerate(dealt):
            part = {fold: "test", (fold + 1) % count: "dev"}.get(place % count, "train")
            parts[part] += rows[query]
        for part, lines in parts.items():
            write_atomic(folder / "qrels" / f"{part}.tsv", "\n".join([header, *lines]) + "\n")


def jobs(sets: dict[str, Path | None], students: list[str]) -> list[Job]:
    """Return every run, those that share a teacher one after the other."""
    found = []
    for name in sets:
        for fold in range(FOLDS[name]) if name in FOLDS else [None]:
            found += [Job(name, fold, student, False) for student in students]
            found.append(Job(name, fold, DISTILLED, True))
    return found


def command(job: Job, folder: Path | None, extra: list[str]) -> list[str]:
    """Return the arguments of `distill` for a run."""
    arguments = [f"experiment={EXPERIMENTS[job.set]}", f"name={job.name}", f"student={job.student}", "bundle=false"]
    if job.student in STUDENTS:
        arguments.append(f"student.fit.max_pairs={STUDENTS[job.student]}")
    if folder is not None:
        path = folder if job.fold is None else folder / f"fold-{job.fold}"
        arguments += ["data=beir", f"data.path={path}", f"data.name={job.set}"]
    if job.labels_alone:  # an option of `augment` has no place where there is none
        return arguments + LABELS + [each for each in extra if not each.startswith("augment.")]
    return arguments + extra


def finished(work: Path, job: Job) -> Path | None:
    """Return the newest finished run of a job."""
    for run in sorted((work / "runs" / job.name).glob("*"), reverse=True):
        record = run / "run.json"
        if record.is_file() and json.loads(record.read_text(encoding="utf-8"))["status"] == "finished":
            return run
    return None


def run(work: Path, job: Job, arguments: list[str]) -> Path:
    """Run a job unless it is whole already."""
    done = finished(work, job)
    if done is not None:
        return done
    start = time.monotonic()
    log = work / "logs" / f"{job.name}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as file:
        code = subprocess.run(
            [sys.executable, "-m", "distill", *arguments], cwd=work, stdout=file, stderr=file, check=False
        ).returncode
    found = finished(work, job)
    if code or found is None:
        sys.exit(f"{job.name} ended with code {code}; see {log}")
    print(f"{job.name}: {time.monotonic() - start:.0f} s", flush=True)
    return found


def values(runs: list[Path], model: str, precision: str | None, field: str = MAIN) -> np.ndarray | None:
    """Return a model's values of all folds' queries together, float64 [queries]; None if it was not measured."""
    parts = []
    for folder in runs:
        content = evaluation.read(folder / "evaluation.json.gz")
        rows = [row for row in content["models"] if row["model"] == model and row["precision"] in (precision, None)]
        if not rows:
            return None
        parts.append(np.array(rows[-1]["quality"][field], dtype=np.float64))
    return np.concatenate(parts)


def cpu(runs: list[Path], model: str, engine: str, precision: str) -> np.ndarray:
    """Return the CPU milliseconds of the timed queries, the median of each one's samples, float64 [queries]."""
    parts = []
    for folder in runs:
        content = evaluation.read(folder / "evaluation.json.gz")
        row = next(
            row for row in content["models"]
            if (row["model"], row["engine"], row["precision"]) == (model, engine, precision)
        )  # fmt: skip
        parts.append(np.median(np.array(row["cpu_ms"]), axis=0))
    return np.concatenate(parts)


def judge(runs: list[Path], precision: str) -> dict[str, Any]:
    """Return what a student keeps of its teacher, with intervals, and how much cheaper it is."""
    own, teacher = values(runs, "student", precision), values(runs, "teacher", "fp32")
    simple = values(runs, "popularity", None)
    simple = values(runs, "bm25", None) if simple is None else simple
    theirs, ours = cpu(runs, "teacher", "pytorch", "fp32"), cpu(runs, "student", "onnxruntime", precision)
    rows = [json.loads((folder / "tradeoff.json").read_text(encoding="utf-8"))["rows"] for folder in runs]
    student = [row for row in rows[0] if (row["model"], row["precision"]) == ("student", precision)][-1]
    return {
        MAIN: float(np.nanmean(own)),
        "retention": float(np.nanmean(own) / np.nanmean(teacher)),
        "retention_ci": ratio_interval(own, teacher, **HOW),
        "lift_kept": float(np.nanmean(own - simple) / np.nanmean(teacher - simple)),
        "lift_kept_ci": ratio_interval(own - simple, teacher - simple, **HOW),
        "tau": float(np.nanmean(values(runs, "student", precision, "tau"))),
        "speedup": float(theirs.mean() / ours.mean()),
        "speedup_ci": ratio_interval(theirs, ours, **HOW),
        "size_mb": student["size_mb"],
        "params": student["params"],
    }


def compare(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Return the paired difference of two models, its interval, and p of the t-test and of Wilcoxon's test."""
    known = ~np.isnan(one) & ~np.isnan(other)
    return {
        "difference": float((one - other)[known].mean()),
        "interval": difference_interval(one, other, **HOW),
        "p_t": float(ttest_rel(one[known], other[known]).pvalue),
        "p_wilcoxon": float(wilcoxon(one[known], other[known]).pvalue) if (one != other)[known].any() else 1.0,
    }


def summarise(found: dict[Job, Path], sets: list[str], students: list[str]) -> dict[str, Any]:
    """Return the results of every set whose runs are all there."""
    results = {}
    for name in sets:
        folds = range(FOLDS[name]) if name in FOLDS else [None]
        runs = {s: [found.get(Job(name, fold, s, False)) for fold in folds] for s in students}
        labels = [found.get(Job(name, fold, DISTILLED, True)) for fold in folds]
        if None in (*itertools.chain(*runs.values()), *labels):
            continue
        reference = runs[DISTILLED]
        teacher = values(reference, "teacher", "fp32")
        baselines = {b: values(reference, b, "fp32") for b in ("bm25", "popularity", "embedding")}
        int8, alone = values(reference, "student", "int8"), values(labels, "student", "int8")
        results[name] = {
            "queries": len(teacher),
            "teacher": float(np.nanmean(teacher)),
            "baselines": {b: float(np.nanmean(v)) for b, v in baselines.items() if v is not None},
            "teacher_above": {b: compare(teacher, v) for b, v in baselines.items() if v is not None},
            "students": {s: {p: judge(folders, p) for p in ("fp32", "int8")} for s, folders in runs.items()},
            "labels_alone": float(np.nanmean(alone)),
            "distilled_above_labels": compare(int8, alone),
        }
    return results


def main() -> None:
    """Run what is missing, then put the results together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="keeps runs between calls")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", required=True, help="NAME or NAME=FOLDER")
    parser.add_argument("--students", nargs="+", default=list(STUDENTS))
    parser.add_argument("--minutes", type=float, help="begin no further run after this long")
    parser.add_argument("extra", nargs="*", help="further arguments of distill, after --")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    sets: dict[str, Path | None] = {}
    for each in options.set:
        name, _, folder = each.partition("=")
        sets[name] = Path(folder).resolve() if folder else None
        if name in FOLDS and sets[name] is not None:
            write_folds(sets[name], work / "folds" / name, FOLDS[name])
            sets[name] = work / "folds" / name
    end = time.monotonic() + (options.minutes or np.inf) * 60
    found = {}
    for job in jobs(sets, options.students):
        if time.monotonic() < end or finished(work, job):
            found[job] = run(work, job, command(job, sets[job.set], options.extra))
    content = {
        "sets": summarise(found, list(sets), options.students),
        "runs": {job.name: command(job, None, options.extra) for job in found},
        "host": describe_host(),
        "versions": versions(["rankdistill", "torch", "transformers", "onnxruntime"]),
    }
    write_atomic(options.out, json.dumps(content, indent=2) + "\n")
    for name, result in content["sets"].items():
        print(f"{name}: teacher {result['teacher']:.3f}, labels alone {result['labels_alone']:.3f}")
        for student, forms in result["students"].items():
            form = forms["int8"]
            print(
                f"  {student}: {form[MAIN]:.3f}, retention {form['retention']:.3f}, lift {form['lift_kept']:.3f}, "
                f"tau {form['tau']:.3f}, speed-up {form['speedup']:.1f} from {form['speedup_ci'][0]:.1f}"
            )


if __name__ == "__main__":
    main()
