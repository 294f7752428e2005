"""How far a teacher and its student hang on the seed and on the precision of training; goes on where it was stopped.

python scripts/bench/seeds.py [distill's overrides] --work WORK --out seeds.json --seeds 10 --precisions fp32 bf16
python scripts/bench/seeds.py [overrides] --work WORK --out collapses.json --seeds 5 --planted rate labels encoder

Each seed is an experiment up to its int8 student: all quality, no times. Stages are kept under WORK, rows in OUT, and a
row that is there is not made again. A run that was ended by `teacher.floor` is a row too, with what it told.

`--planted` breaks every training on purpose: a rate of 1e-2, training labels that are shuffled within their list, or an
encoder with random weights. Each should be ended before its student is made.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pyarrow as pa
from hydra import compose, initialize_config_module

from rankdistill import options
from rankdistill.baselines import floor, simple_rankers
from rankdistill.commands import distill
from rankdistill.data.records import RankingData, RankingLayout
from rankdistill.export.errors import UserError
from rankdistill.export.files import write_atomic
from rankdistill.export.measure import predictions
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.measure.intervals import difference_interval
from rankdistill.export.measure.quality import agreement, ranking_metrics
from rankdistill.models import model_files
from rankdistill.options import Config
from rankdistill.pipeline import experiment, measure_stages, model_stages, teacher_stages
from rankdistill.store.stages import Built, Store
from rankdistill.training.monitor import METRIC

HOW = {"confidence": 0.95, "resamples": 10_000, "seed": 0}
LIBRARIES = ("rankdistill", "torch", "transformers", "onnxruntime", "numpy")
PLANTED = ("rate", "labels", "encoder")
OUTLIER = 0.9  # of the median dev nDCG@10: a teacher below this share is one

Row = dict[str, Any]


class Stages(dict[str, Built]):
    """What an experiment stands on, by role."""

    def keep(self, role: str, built: Built) -> Built:
        """Note a stage and return it."""
        self[role] = built
        return built


def config_of(overrides: Sequence[str], work: Path) -> Config:
    """Return the configuration that these overrides make."""
    with initialize_config_module("rankdistill.conf", version_base="1.3"):
        return distill.convert(compose("config", overrides=[*overrides, f"runs={work}"]))


def measure(config: Config, teacher_only: bool) -> Row:
    """Make an experiment's models and return what they come to."""
    run, store = Stages(), Store(Path(config.runs) / "stages")
    start = time.perf_counter()
    try:
        taught = experiment.teach(run, store, config)
        made = None if teacher_only else experiment.distil(run, store, config, taught)
    except UserError as error:
        return {"stopped": str(error), "student": "student" in run, "seconds": round(time.perf_counter() - start, 1)}
    row: Row = {"seconds": {role: round(built.seconds, 1) for role, built in run.items()}}
    records = RankingData.open(taught.data.folder)
    row |= dev_of(config, run, records)
    split = records.splits[config.measure.split]
    grades = (split.grade, split.offsets)
    simple = run.keep("baselines", measure_stages.baselines(
        store, config, taught.data, taught.source, taught.embedded, config.measure.split, None
    ))  # fmt: skip
    of_simple = {n: ranking_metrics(s, *grades)[METRIC] for n, s in simple_rankers.read(simple.folder).items()}
    scored = {"teacher": scores_of(store, config, "teacher", taught.data, taught.teacher)}
    if made is not None:
        scored["student"] = scores_of(store, config, "student", made.read.data, made.student)
    row["test"] = {}
    for model, scores in scored.items():
        values = ranking_metrics(scores, *grades)[METRIC]
        row["test"][model] = {METRIC: mean(values), "above": above(values, of_simple)}
    row["test"] |= {name: {METRIC: mean(values)} for name, values in of_simple.items()}
    if "student" in scored:
        row["retention"] = row["test"]["student"][METRIC] / row["test"]["teacher"][METRIC]
        row["tau"] = mean(agreement(scored["student"], scored["teacher"], split.offsets)["tau"])
    return row


def scores_of(store: Store, config: Config, model: str, data: Built, built: Built) -> np.ndarray:
    """Return a model's scores of the measured split: of the teacher in fp32, of the student as it is served."""
    graphs = model_stages.graphs(store, config, data, built, model)
    systems = [each for each, _ in measure_stages.systems(config, built, graphs, built, graphs)]
    precision = "fp32" if model == "teacher" else systems[-1].precision
    wanted = (model, "onnxruntime", precision)
    system = next(each for each in systems if (each.model, each.engine, each.precision) == wanted)
    return predictions.read(measure_stages.predictions(store, config, data, system, built).folder)


def dev_of(config: Config, run: Stages, records: RankingData) -> Row:
    """Return the teacher's and the baselines' nDCG@10 on dev, and the curve of the training."""
    content = json.loads((run["teacher"].folder / "training.json").read_text(encoding="utf-8"))
    values = np.array(content[f"dev_{METRIC}"])
    dev = records.splits["dev"].sample(teacher_stages.dev_queries(config)[0], config.seed)
    of_simple = floor.read(run["dev baselines"].folder, dev)
    curve = [round(each[f"eval_{METRIC}"], 4) for each in content["history"] if f"eval_{METRIC}" in each]
    found = {"queries": len(values), "teacher": mean(values), "curve": curve, "above": above(values, of_simple)}
    return {"dev": found | {name: mean(each) for name, each in of_simple.items()}}


def above(values: np.ndarray, others: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Return the interval of the difference to each."""
    return {name: [round(end, 4) for end in difference_interval(values, each, **HOW)] for name, each in others.items()}  # type: ignore[arg-type]


def mean(values: np.ndarray) -> float:
    """Return the mean of the queries that have a value."""
    return round(float(np.nanmean(values)), 4)


def plant(kind: str, overrides: Sequence[str], work: Path, seed: int) -> list[str]:
    """Return the overrides of an experiment that is broken on purpose."""
    if kind == "rate":
        return [*overrides, "teacher.fit.learning_rate=1e-2"]
    if kind == "encoder":
        folder = work / "planted" / f"encoder-{seed}"
        if not (folder / "model.safetensors").exists():
            write_random_encoder(config_of(overrides, work), folder, seed)
        return [*overrides, f"teacher.model={folder}", "teacher.sha256=null"]
    return [*overrides]


def write_random_encoder(config: Config, folder: Path, seed: int) -> None:
    """Write the teacher's encoder with weights drawn anew."""
    import torch
    from transformers import AutoConfig, AutoModel

    from rankdistill.models.teacher import copy_tokenizer

    source = model_files.locate_model(config.teacher.model, config.teacher.sha256, config.teacher.revision)
    torch.manual_seed(seed)
    AutoModel.from_config(AutoConfig.from_pretrained(source)).save_pretrained(folder)
    copy_tokenizer(source, folder)


def shuffle_labels(config: Config, seed: int) -> None:
    """Make the data stage and shuffle the grades of each training list."""
    built = model_stages.data(Store(Path(config.runs) / "stages"), config)
    split = RankingData.open(built.folder).splits["train"]
    grades, rng = split.grade.copy(), np.random.default_rng(seed)
    for first, last in zip(split.offsets[:-1], split.offsets[1:], strict=True):
        rng.shuffle(grades[first:last])
    path = RankingLayout(built.folder).pairs("train")
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_stream(file).read_all()
    column = table.schema.get_field_index("grade")
    shuffled = table.set_column(column, table.schema.field(column), pa.array(grades, table.schema.field(column).type))
    half = path.with_suffix(".half")
    with pa.OSFile(str(half), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(shuffled)
    half.replace(path)


def summary(rows: Sequence[Row]) -> Row:
    """Return median, least and most of what the rows came to."""
    finished = [row for row in rows if "stopped" not in row]
    found: Row = {"rows": len(rows), "stopped": len(rows) - len(finished)}
    found["stopped_before_student"] = sum(not row["student"] for row in rows if "stopped" in row)
    if not finished:
        return found
    dev = [row["dev"]["teacher"] for row in finished]
    found["teacher_dev"] = spread(dev) | {"outliers": sum(value < OUTLIER * float(np.median(dev)) for value in dev)}
    lows = [{name: row["dev"]["teacher"] - row["dev"][name] for name in row["dev"]["above"]} for row in finished]
    found["teacher_dev_least_above"] = {name: round(min(low[name] for low in lows), 4) for name in lows[0]}
    for model in ("teacher", "student"):
        of = [row["test"][model] for row in finished if model in row["test"]]
        if of:
            found[f"{model}_test"] = spread([each[METRIC] for each in of])
            found[f"{model}_test_surely_above"] = {
                name: sum(each["above"][name][0] > 0 for each in of) for name in of[0]["above"]
            }
    for name in ("retention", "tau"):
        if values := [row[name] for row in finished if name in row]:
            found[name] = spread(values)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {name: round(float(of(values)), 4) for name, of in (("median", np.median), ("min", min), ("max", max))}


def told(name: str, row: Row) -> str:
    """Return a row in words."""
    if "stopped" in row:
        return (
            f"{name}: stopped {'after' if row['student'] else 'before'} its student: {row['stopped'].splitlines()[0]}"
        )
    dev, test = row["dev"], row["test"]
    parts = [f"{name}: dev teacher {dev['teacher']:.3f} {dev['curve']}"]
    parts += [f"{baseline} {dev[baseline]:.3f}" for baseline in dev["above"]]
    parts += [f"test {model} {of[METRIC]:.3f}" for model, of in test.items()]
    return ", ".join(parts)


def main() -> None:
    """Run what is missing, and write and print what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the stages")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--precisions", nargs="+", default=["auto"], choices=["auto", "fp32", "bf16"])
    parser.add_argument("--planted", nargs="*", default=[], choices=PLANTED, help="break every training on purpose")
    parser.add_argument("--teacher-only", action="store_true", help="make no students")
    parser.add_argument("overrides", nargs="*", help="of distill")
    arguments = parser.parse_args()
    options.register()
    content: Row = {"overrides": arguments.overrides, "rows": {}}
    if arguments.out.exists():
        content = json.loads(arguments.out.read_text(encoding="utf-8"))
        if content["overrides"] != arguments.overrides:
            sys.exit(f"{arguments.out} is of other overrides: {' '.join(content['overrides'])}")
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for precision in arguments.precisions:
            for kind in arguments.planted or [None]:
                name = f"{precision} seed {seed}" + (f" {kind}" if kind else "")
                if name in content["rows"]:
                    continue
                work = arguments.work / f"labels-{seed}" if kind == "labels" else arguments.work
                overrides = [*arguments.overrides, f"seed={seed}", f"train.precision={precision}"]
                if kind:
                    overrides = plant(kind, overrides, work, seed)
                config = config_of(overrides, work)
                if kind == "labels":
                    shuffle_labels(config, seed)
                row = measure(config, arguments.teacher_only)
                content["rows"][name] = row | {"host": describe_host()["processor"]}
                content |= {"summary": summary([*content["rows"].values()]), "versions": versions(LIBRARIES)}
                write_atomic(arguments.out, json.dumps(content, indent=1) + "\n")
                print(told(name, row), flush=True)
    print(json.dumps(content["summary"], indent=2))


if __name__ == "__main__":
    main()
