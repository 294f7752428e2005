"""What students of every size keep of their teacher's ranking, over several data sets; goes on where it was stopped.

python scripts/bench/quality.py --work WORK --keep KEEP --out quality.json --set movielens --set crowdflower=FOLDER \
    --set wikiqa=FOLDER --set amazon_games=FOLDER

A set given with a folder is read in BEIR layout. CrowdFlower's 39 test queries are too few: its queries are dealt
into five folds, each of which is tested by models that never saw it, and the folds' queries are judged together. A
fold's dev queries are the next one's test queries: choices between recipes are not to be made on them. Every run is
an ordinary `distill` run under WORK, whose finished stages are reused; what the summary needs of a finished run goes
to KEEP, some kilobytes each, and a run that is there is not done again: hours of one machine go on on another. Sets
that are not named keep their results in OUT. Beside each of `--labels-alone` the same student is trained on labels
alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kept_runs
import numpy as np
import points
from kept_runs import BASELINES, Record, compare, differing, judge, values

from rankdistill.export.files import write_atomic
from rankdistill.export.measure.host import describe_host

EXPERIMENTS = {  # the recipe of each set: conf/experiment
    "movielens": "histories", "amazon_games": "histories", "crowdflower": "product_search", "wikiqa": "passages",
}  # fmt: skip
STUDENTS = {  # and how many pairs they learn from: the smaller, the more, which takes none longer than the largest
    "l2_h384": 240_000, "l1_h384": 480_000, "l3_h384_f768": 240_000, "l4_h384": 240_000, "l2_h384_f768": 480_000,
    "l2_h256": 240_000, "l1_h256": 480_000, "l1_h192": 480_000, "l3_h256": 240_000, "l2_h192": 480_000,
    "l2_h128": 480_000, "l1_h128": 480_000,
}  # fmt: skip
TWIN = "l2_h384"  # the student that is made on labels alone too, unless others are asked for
LABELS = ["student.fit.keep=best", "student.fit.epochs=1000", "loss=labels", "augment=none"]  # as many pairs, its best
LABELS_SET = tuple(each.partition("=")[0] for each in LABELS)
STUDENT_CONFIGS = Path(__file__).parents[2] / "conf/student"
OWN_DATA = "movielens"  # needs no folder
FOLDS = {"crowdflower": 5}
DATA = ("data=", "data.path=", "data.name=")  # told by the set and its fold


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
    paths = sorted((source / "qrels").glob("*.tsv"))
    if not paths:
        sys.exit(f"{source} is no set in BEIR layout: it has no qrels/*.tsv")
    for path in paths:
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


def jobs(sets: dict[str, Path | None], students: list[str], twins: list[str]) -> list[Job]:
    """Return every run, those that share a teacher one after the other; `twins` are made on labels alone too."""
    found = []
    for name in sets:
        for fold in range(FOLDS[name]) if name in FOLDS else [None]:
            found += [Job(name, fold, student, False) for student in students]
            found += [Job(name, fold, student, True) for student in twins]
    return found


def student_options(name: str, share: float) -> list[str]:
    """Return the options that a student's name tells: its config, and how that is changed.

    `l2_h128-first14` reads the first 14 words of an item (or `-idf14`, `-gradient14`); `l2_h384-learned` has embeddings
    that learn where they would be frozen; `l3_h384-split2` has two layers that read query and item apart, and is judged
    with items' states computed before; `l2_h384-480k` learns from so many pairs, in place of `share` of what
    `STUDENTS` says.
    """
    student, *told = name.split("-")
    if not (STUDENT_CONFIGS / f"{student}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in STUDENT_CONFIGS.glob("*.yaml")))
        sys.exit(f"--students {name}: {student} is none of {known}")
    options, pairs = [f"student={student}"], STUDENTS.get(student, 0) * share
    for each in told:
        words, number = re.fullmatch(r"(first|idf|gradient)(\d+)", each), re.fullmatch(r"(\d+)k", each)
        if words is not None:
            options += [f"student.input.words={words[2]}", f"student.input.keep={words[1]}"]
        elif (apart := re.fullmatch(r"split(\d+)", each)) is not None:
            options.append(f"student.split_layers={apart[1]}")
        elif each == "learned":
            options.append("student.freeze_embeddings=false")
        elif number is not None:
            pairs = int(number[1]) * 1000
        else:
            allowed = "first14, idf14, gradient14, split2, 480k (any number) or learned"
            sys.exit(f"--students {name}: allowed after a config's name is {allowed}, not {each}")
    return options + ([f"student.fit.max_pairs={round(pairs)}"] if pairs else [])


def command(job: Job, folder: Path | None, options: argparse.Namespace) -> list[str]:
    """Return the arguments of `distill` for a run."""
    extra: list[str] = options.extra
    asked = student_options(job.student, options.pairs)
    arguments = [f"experiment={EXPERIMENTS[job.set]}", f"name={job.name}", *asked, "bundle=false"]
    if folder is not None:
        path = folder if job.fold is None else folder / f"fold-{job.fold}"
        arguments += ["data=beir", f"data.path={path}", f"data.name={job.set}"]
    if job.labels_alone:  # what is asked of other jobs' losses and pairs has no place here
        return arguments + [each for each in extra if not each.startswith(("augment", "loss", *LABELS_SET))] + LABELS
    return arguments + extra


def finished(work: Path, job: Job, arguments: list[str]) -> Path | None:
    """Return the newest finished run of a job that was asked for by these arguments, and by the data's beside them."""
    for run in sorted((work / "runs" / job.name).glob("*"), reverse=True):
        told = run / "run.json"
        record = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {"status": "none"}
        if record["status"] == "finished":
            overrides = [each for each in record["overrides"] if not each.startswith(DATA)]
            if sorted(overrides) == sorted(arguments):
                return run
    return None


def kept(options: argparse.Namespace, job: Job) -> Record | None:
    """Return what is kept of a job's run; None if it has not been run, or otherwise than asked for now."""
    arguments = command(job, None, options)
    found = kept_runs.read(options.keep / f"{job.name}.json.gz", arguments)
    run = finished(options.work, job, arguments)
    if found is None and run is not None:
        found = kept_runs.record(run, arguments)
        kept_runs.write(options.keep / f"{job.name}.json.gz", found)
    return found


def make(options: argparse.Namespace, job: Job, folder: Path | None) -> Record:
    """Run a job unless it is kept already."""
    if (found := kept(options, job)) is not None:
        return found
    if folder is None and job.set != OWN_DATA:
        sys.exit(f"{job.name} is not kept, and --set {job.set} names no folder to make it of: --set {job.set}=FOLDER")
    start = time.monotonic()
    log = options.work / "logs" / f"{job.name}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as file:
        arguments = [sys.executable, "-m", "rankdistill", *command(job, folder, options)]
        code = subprocess.run(arguments, cwd=options.work, stdout=file, stderr=file, check=False).returncode
    found = kept(options, job)
    if code or found is None:
        sys.exit(f"{job.name} ended with code {code}; see {log}")
    print(f"{job.name}: {time.monotonic() - start:.0f} s", flush=True)
    return found


def check_hosts(found: dict[Job, Record], missing: list[Job]) -> None:
    """Refuse to time a set's folds on different machines: they are told of together."""
    here = describe_host()
    for name in FOLDS:
        hosts = [record["host"] for job, record in found.items() if job.set == name]
        hosts += [here] * any(job.set == name for job in missing)
        if other := next((each for each in hosts if each != hosts[0]), None):
            told = " and on ".join(f"{each['processor']} {each['flags']}" for each in (hosts[0], other))
            sys.exit(f"{name}: its folds would be timed on {told}; finish them on one, or give another --keep")


def summarise(found: dict[Job, Record], name: str, students: list[str], twins: list[str]) -> dict[str, Any] | None:
    """Return a set's results; None while some of its runs are missing."""
    folds = range(FOLDS[name]) if name in FOLDS else [None]
    runs = {student: [found.get(Job(name, fold, student, False)) for fold in folds] for student in students}
    alone = {student: [found.get(Job(name, fold, student, True)) for fold in folds] for student in twins}
    every = runs | {f"{student} on labels alone": records for student, records in alone.items()}
    if None in itertools.chain(*every.values()):
        return None
    for fold, of_fold in enumerate(zip(*every.values(), strict=True)):
        if problem := differing(dict(zip(every, of_fold, strict=True))):
            sys.exit(f"{name}, fold {fold}: runs that cannot be judged together, {problem}")
    reference = next(iter(runs.values()))
    teacher = values(reference, "teacher", "fp32")
    baselines = {b: values(reference, b, "fp32") for b in BASELINES}
    judged = {
        s: {p: judge(records, p) for p in ("fp32", "int8")} | {"host": records[0]["host"]}
        for s, records in runs.items()
    }
    for student, records in alone.items():
        judged[student]["labels_alone"] = labels_alone(runs[student], records)
    return {
        "queries": len(teacher),
        "teacher": float(np.nanmean(teacher)),
        "baselines": {b: float(np.nanmean(v)) for b, v in baselines.items() if v is not None},
        "teacher_above": {b: compare(teacher, v) for b, v in baselines.items() if v is not None},
        "students": judged,
        "versions": reference[0]["versions"],
    }


def labels_alone(distilled: list[Record], labels: list[Record]) -> dict[str, Any]:
    """Return what labels alone give a student, and what it has of its teacher beyond that."""
    int8, alone = values(distilled, "student", "int8"), values(labels, "student", "int8")
    return {"ndcg@10": float(np.nanmean(alone)), "distilled_above": compare(int8, alone)}


def main() -> None:
    """Run what is missing, then put the results together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="holds the runs")
    parser.add_argument("--keep", type=Path, required=True, help="a small file for each finished run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", required=True, help="NAME or NAME=FOLDER")
    parser.add_argument(
        "--students", nargs="+", default=list(STUDENTS),
        help="NAME, or NAME with -first14, -idf14, -gradient14 (words), -split2 (layers), -learned, -480k (pairs)",
    )  # fmt: skip
    parser.add_argument(
        "--labels-alone", nargs="*", metavar="STUDENT",
        help=f"which of them are made on labels alone too; by default {TWIN}, if it is one of them",
    )  # fmt: skip
    parser.add_argument("--pairs", type=float, default=1.0, help="share of a student's pairs; 1 is the recipe's")
    parser.add_argument("--plot", type=Path, help="an SVG or PNG file with every set's students")
    parser.add_argument("--minutes", type=float, help="begin no further run after this long")
    parser.add_argument("extra", nargs="*", help="further arguments of distill, after --")
    options = parser.parse_args()
    for student in options.students:
        student_options(student, options.pairs)
    twins = [TWIN] * (TWIN in options.students) if options.labels_alone is None else options.labels_alone
    if other := next((student for student in twins if student not in options.students), None):
        parser.error(f"--labels-alone {other}: allowed are those of --students, {', '.join(options.students)}")
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    sets: dict[str, Path | None] = {}
    for each in options.set:
        name, _, folder = each.partition("=")
        if name not in EXPERIMENTS:
            parser.error(f"--set {name}: allowed is one of {', '.join(EXPERIMENTS)}")
        sets[name] = Path(folder).resolve() if folder else None
        if name in FOLDS and sets[name] is not None:
            write_folds(sets[name], options.work / "folds" / name, FOLDS[name])
            sets[name] = options.work / "folds" / name
    asked = jobs(sets, options.students, twins)
    found = {job: record for job in asked if (record := kept(options, job)) is not None}
    missing = [job for job in asked if job not in found and options.minutes != 0]
    check_hosts(found, missing)
    end = np.inf if options.minutes is None else time.monotonic() + options.minutes * 60
    for job in missing:  # another process may make some of them meanwhile
        record = make(options, job, sets[job.set]) if time.monotonic() < end else kept(options, job)
        if record is not None:
            found[job] = record
    before = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {"sets": {}, "runs": {}}
    new = {name: summarise(found, name, options.students, twins) for name in sets}
    results = before["sets"] | {name: result for name, result in new.items() if result is not None}
    content = {
        "sets": {
            name: result | points.answers({student: each["int8"] for student, each in result["students"].items()})
            for name, result in results.items()
        },
        "runs": before["runs"] | {job.name: command(job, None, options) for job in found},
    }
    write_atomic(options.out, json.dumps(content, indent=2) + "\n")
    if options.plot and content["sets"]:
        points.draw(content["sets"], options.plot)
    print(points.table(content["sets"]))
    for name, result in content["sets"].items():
        lines = [f"{name}: teacher {result['teacher']:.3f}", *points.above_labels(result["students"])]
        print("\n".join(lines + [f"  {points.told(point)}" for point in result["points"]]))


if __name__ == "__main__":
    main()
