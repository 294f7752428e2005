"""The stages that make a cascade: something cheaper before the student, its teacher after it, cut-offs between."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rankdistill.data.records import RankingData, Split
from rankdistill.errors import ConfigError
from rankdistill.export import machine_lock
from rankdistill.export.errors import BundleError
from rankdistill.export.measure.host import describe_host
from rankdistill.export.runtime.manifest import CASCADE, FP32, MANIFEST, Manifest
from rankdistill.export.runtime.scorer import Float32
from rankdistill.options import Config, LayeredCascade
from rankdistill.pipeline import measure_stages
from rankdistill.pipeline.run_folder import Measured, Run
from rankdistill.store.stages import Built, Stage, Store, hash_files

if TYPE_CHECKING:
    from rankdistill.export.measure import cascade_levels as ladder_
    from rankdistill.pipeline.made_embedder import MadeEmbedder

Score = Callable[[str, Sequence[str]], Float32]  # of a query's items

# stages; "first" is another bundle's student, "embedding" the run's own embedder
BM25, EMBEDDING, STUDENT, TEACHER, FIRST = "bm25", "embedding", "student", "teacher", "first"
DEV = "dev"
COST = "cost.json"
ITEMS = 4096  # of the catalogue, taken at a time
BATTERY = 5  # queries that the teacher's batches are tried on: it takes minutes where its student takes seconds
# Raised when a stage's code changes what it writes: everything made by the older code is then made again.
VERSIONS = {"first": 1, "cascade": 1}


def locate_first(option: str) -> Path:
    """Return the bundle that `cascade.first` names: itself, or that of a run.

    Raises:
        ConfigError: if it is none, or its student reads other fields of an item than the other stages.
    """
    folder = Path(option).expanduser()
    folder = folder if (folder / MANIFEST).is_file() else folder / "bundle"
    try:
        content = Manifest.read(folder).content
    except BundleError as error:
        raise ConfigError(
            f"cascade.first={option}: allowed is null, {BM25}, {EMBEDDING}, a bundle, or a run that has one ({error})"
        ) from error
    fields = content["config"].get("student", {}).get("input", {}).get("fields", "all")
    if fields != "all":
        raise ConfigError(f"cascade.first={option}: its student reads {fields} of an item, which gets all here")
    return folder


def calibrate(
    run: Run, store: Store, config: Config, measured: Measured, teacher: Built, embedder: MadeEmbedder | None
) -> Built | None:
    """Return the cascade of a run, None if it is to have none.

    Args:
        run: keeps what it stands on.
        store: of the stages.
        config: of the run.
        measured: what was measured so far.
        teacher: its checkpoint.
        embedder: that of the run; None if it has none.
    """
    if not isinstance(config.cascade, LayeredCascade):
        return None
    data, systems = measured.reads[TEACHER].data, [system for system, _ in measured.systems]
    last = [(each.model, each.engine, each.precision) for each in systems].index(
        (TEACHER, "onnxruntime", config.cascade.last)
    )
    as_student = replace(config, student=replace(config.student, max_length=config.teacher.max_length))
    few = replace(as_student, measure=replace(config.measure, parity_queries=BATTERY))
    graphs = measured.systems[last][1]
    run.keep("teacher golden", measure_stages.golden(store, as_student, data, teacher, graphs))
    run.keep("teacher serving", measure_stages.serving(store, few, data, teacher, graphs))
    before = None
    if config.cascade.first is not None:
        before = run.keep("first stage", first(store, config, config.cascade.first, data, embedder))
    on_dev = replace(config, measure=replace(config.measure, split=DEV))
    scored = {}
    for row in (len(systems) - 1, last):  # what is served stands last
        system, made = measured.systems[row]
        dev = measure_stages.predictions(store, on_dev, measured.reads[system.model].data, system, made)
        scored[system.name] = run.keep(f"dev predictions {system.name}", dev), measured.predictions[row]
    assert measured.latency is not None, "a cascade weighs times: validated"
    return run.keep("cascade", ladder(store, config, data, scored, measured.latency, before))


def first(store: Store, config: Config, option: str, data: Built, embedder: MadeEmbedder | None) -> Built:
    """Return the stage before the student, with its scores and what they cost.

    Args:
        store: of the stages.
        config: of the run.
        option: BM25, the run's embedder, or another bundle's student.
        data: the data set.
        embedder: that of the run; None if it has none.
    """
    measure, splits = config.measure, sorted({DEV, config.measure.split})
    options = {"splits": splits, "timed": measure.split, "queries": measure.latency_queries, "rounds": measure.rounds}
    bundle = None if option in (BM25, EMBEDDING) else locate_first(option)
    files = {} if bundle is None else hash_files([bundle / MANIFEST])
    options, inputs = options | {"bm25": option == BM25, "seed": config.seed}, {"data": data.key}
    if option == EMBEDDING:
        assert embedder is not None
        inputs["embedder graphs"] = embedder.graphs.key
    stage = Stage(
        "first_stage", VERSIONS["first"], options, inputs, files, measure_stages.RUNTIME, describe_host(),
        title="first stage",
    )  # fmt: skip

    def build(out: Path) -> None:
        from rankdistill.export.bundle.cascade_bundle import copy_stage

        records = RankingData.open(data.folder)
        if option == EMBEDDING:
            assert embedder is not None
            score: Score = embedder.nearness().score_items
        elif bundle is None:
            from rankdistill.export.runtime.bm25 import Bm25

            Bm25.of(records.items.batches(ITEMS)).save(out / f"{BM25}.json")
            score = Bm25.load(out / f"{BM25}.json").scores
        else:
            from rankdistill.export.runtime.ranker import Ranker

            copy_stage(bundle, out / FIRST)
            score = Ranker.load(out / FIRST, threads=1, keep_mb=0).score_items
        for name in splits:
            lists = records.lists(records.splits[name])
            np.save(out / f"{name}.npy", np.concatenate([score(query, items) for query, items in lists]))
        timed = records.splits[measure.split].sample(measure.latency_queries, config.seed)
        cost = {"ms_per_pair": _ms_per_pair(score, list(records.lists(timed)), 2 * measure.rounds)}
        (out / COST).write_text(json.dumps(cost) + "\n", encoding="utf-8")

    return store.get(stage, build)


def ladder(
    store: Store,
    config: Config,
    data: Built,
    scored: Mapping[str, tuple[Built, Built]],
    latency: Built,
    before: Built | None,
) -> Built:
    """Return the cut-offs for every tolerance, and what each level keeps and costs.

    Args:
        store: of the stages.
        config: of the run.
        data: the data set.
        scored: by the systems' names, student then teacher: the scores of dev and of the measured split.
        latency: the systems' timings.
        before: the stage before the student.
    """
    cascade, split = config.cascade, config.measure.split
    assert isinstance(cascade, LayeredCascade)
    options = {name: value for name, value in asdict(cascade).items() if name != "first"} | {"split": split}
    inputs = {"data": data.key, "latency": latency.key}
    for model, (dev, measured) in zip((STUDENT, TEACHER), scored.values(), strict=True):
        inputs |= {f"{model} dev": dev.key, f"{model} {split}": measured.key}
    if before is not None:
        inputs["first"] = before.key
    stage = Stage("cascade", VERSIONS["cascade"], options, inputs, libraries=("numpy", "scipy"))

    def build(out: Path) -> None:
        from rankdistill.export.measure.cascade_levels import Asked
        from rankdistill.export.measure.cascade_levels import ladder as levels_of

        records = RankingData.open(data.folder)
        stages, entries = _stages(scored, latency, before, split)
        entries[-1]["variant"] = FP32 if cascade.last == FP32 else None
        asked = Asked(cascade.rule, cascade.depth, cascade.tolerance, cascade.confidence, tuple(cascade.ladder))
        found = levels_of(stages, _lists(records.splits[DEV]), _lists(records.splits[split]), asked)
        content = {
            "stages": entries, **found, "split": split, "dev_queries": len(records.splits[DEV].query),
            "rule": cascade.rule, "depth": cascade.depth, "confidence": cascade.confidence,
        }  # fmt: skip
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        (out / CASCADE).write_text(text, encoding="utf-8", newline="\n")

    return store.get(stage, build)


def _stages(
    scored: Mapping[str, tuple[Built, Built]], latency: Built, before: Built | None, split: str
) -> tuple[list[ladder_.Stage], list[dict[str, Any]]]:
    """Return the stages as they are measured, from cheap to dear, and as cascade.json tells of them."""
    from rankdistill.export.measure import cascade_levels as ladder_
    from rankdistill.export.measure import latency as latency_
    from rankdistill.export.measure import predictions
    from rankdistill.export.runtime.cascade import BM25 as COUNTS
    from rankdistill.export.runtime.cascade import BUNDLE, EMBEDDED, OWN

    stages, entries = [], []
    if before is not None:
        kinds = {BM25: COUNTS, FIRST: BUNDLE, EMBEDDING: EMBEDDED}
        made = (name for name, file in ((BM25, f"{BM25}.json"), (FIRST, FIRST)) if (before.folder / file).exists())
        name, cost = next(made, EMBEDDING), json.loads((before.folder / COST).read_text(encoding="utf-8"))
        dev, measured = (np.load(before.folder / f"{each}.npy") for each in (DEV, split))
        stages.append(ladder_.Stage(name, dev, measured, cost["ms_per_pair"]))
        entries.append({"name": name, "kind": kinds[name], "variant": None})
    samples = latency_.read(latency.folder)
    for (system, (dev_built, measured_built)), model in zip(scored.items(), (STUDENT, TEACHER), strict=True):
        timed = samples[system]
        cost = float(np.median(timed.cpu_ms, axis=0).sum() / timed.pairs.sum())
        dev, measured = (predictions.read(built.folder) for built in (dev_built, measured_built))
        stages.append(ladder_.Stage(model, dev, measured, cost))
        entries.append({"name": model, "kind": OWN if model == STUDENT else BUNDLE, "variant": None})
    return stages, entries


def _ms_per_pair(score: Score, lists: Sequence[tuple[str, list[str]]], times: int) -> float:
    """Return the CPU time of a pair: the median of a query's, summed over queries."""
    with machine_lock.alone():
        samples = np.empty((times, len(lists)))
        for turn in range(times):
            for number, (query, items) in enumerate(lists):
                start = time.process_time()
                score(query, items)
                samples[turn, number] = (time.process_time() - start) * 1e3
    return float(np.median(samples, axis=0).sum() / sum(len(items) for _, items in lists))


def _lists(split: Split) -> ladder_.Lists:
    from rankdistill.export.measure import cascade_levels as ladder_

    return ladder_.Lists(split.grade, split.offsets)
