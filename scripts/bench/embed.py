"""What an embedder's vectors keep of retrieval, and how fast texts are embedded, over several data sets.

python scripts/bench/embed.py --work WORK --out embed.json --set movielens --set wikiqa=FOLDER --set amazon_games=FOLDER

A set given with a folder is read in BEIR layout. Stages are kept in WORK/stages, as `distill runs=WORK` keeps them, and
nothing is made of a student: what an embedder stands on is the teacher and its scores alone. The speed is that of
what `ranker embed` does with a file and of sentence-transformers' default `encode` of the same checkpoint, turn by
turn, on the set's own items. What is in OUT of the same stages is not measured again; sets not named stay there.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from hydra import compose, initialize_config_module

from rankdistill import options
from rankdistill.commands import distill
from rankdistill.data.records import RankingData
from rankdistill.embedder.embedder_model import text_encoder
from rankdistill.export.batch.embed_file import Job, embed_file
from rankdistill.export.files import write_atomic
from rankdistill.export.graphs.graph_files import FP32
from rankdistill.export.graphs.variants import served_int8
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.measure.retrieval import NDCG, RECALL, RETRIEVAL
from rankdistill.export.runtime.embedder import Embedder
from rankdistill.export.runtime.processor import abilities
from rankdistill.export.runtime.threads import available_cores
from rankdistill.options import Config, DistilledEmbed
from rankdistill.pipeline import data_stages, embedder_stages, experiment, model_stages, teacher_stages
from rankdistill.store.stages import Built, Store

EXPERIMENTS = {  # the recipe of each set: conf/experiment
    "movielens": "histories", "amazon_games": "histories", "crowdflower": "product_search", "wikiqa": "passages",
}  # fmt: skip
KINDS = ("pca", "distilled")
LIBRARIES = ("rankdistill", "torch", "transformers", "sentence-transformers", "onnxruntime", "tokenizers", "numpy")
TEXTS = 1000  # that the speed is measured of
TURNS = 3
PART = 4096  # as `ranker embed` has it
SMALL = 64  # dimensions that a target names
THEIRS = "sentence-transformers"


class _Kept:
    """Takes the place of a run: keeps nothing but the stages' names."""

    def __init__(self) -> None:
        self.stages: dict[str, Built] = {}

    def keep(self, role: str, built: Built) -> Built:
        """See `rankdistill.pipeline.run_folder.Run`."""
        self.stages[role] = built
        print(f"  {role}: {built.key}, {built.seconds:.0f} s", flush=True)
        return built


def composed(work: Path, name: str, folder: str, kind: str, overrides: list[str]) -> Config:
    """Return the configuration of a set's recipe with an embedder."""
    arguments = [f"experiment={EXPERIMENTS[name]}", f"embed={kind}", f"runs={work}", *overrides]
    if folder:
        arguments += ["data=beir", f"data.path={folder}"]
    with initialize_config_module("rankdistill.conf", version_base="1.3"):
        return distill.convert(compose("config", overrides=arguments))


def make(config: Config) -> dict[str, Built]:
    """Make the stages of an embedder, and what it stands on; returns them by role."""
    run, store = _Kept(), Store(Path(config.runs) / "stages")
    source = teacher_stages.locate_teacher(config)
    embedder_stages.locate(config, source)
    data = run.keep("data", model_stages.data(store, config))
    embedded = run.keep("embeddings", data_stages.embeddings(store, data, source))
    if not isinstance(config.embed, DistilledEmbed):
        embedder_stages.keep(run, store, config, data, None, None, source)
        return run.stages
    tokens = run.keep("tokens", model_stages.tokens(store, config, data, source))
    references = experiment._references(run, store, config, data, source, embedded)
    warm = experiment._warm(run, store, config, data, tokens, source, embedded, references)
    teacher = run.keep("teacher", teacher_stages.teacher(store, config, data, tokens, source, warm, references))
    scores = run.keep("scores", model_stages.scores(store, config, data, tokens, teacher))
    pairs, drawn = experiment._unlabelled(run, store, config, data, tokens, embedded, source), None
    if pairs is not None:
        drawn = pairs, model_stages.drawn_scores(store, config, data, tokens, teacher, pairs)
    embedder_stages.keep(run, store, config, data, scores, drawn, source)
    return run.stages


def speed(stages: dict[str, Built], threads: int) -> dict[str, Any]:
    """Return texts a second, median of turns, of what `ranker embed` does and of sentence-transformers' default encode.

    A file of JSON Lines to a file of vectors here, texts in memory to vectors in memory there; both loaded before.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    checkpoint, graphs = stages["embedder"].folder, stages["embedder graphs"].folder
    records, about = RankingData.open(stages["data"].folder), json.loads((checkpoint / "embedder.json").read_text())
    rows = np.random.default_rng(0).choice(len(records.items), min(TEXTS, len(records.items)), replace=False)
    texts = records.items.texts(rows.astype(np.int32))
    encoder = text_encoder(checkpoint, about["max_length"])
    theirs = SentenceTransformer(str(checkpoint), device="cpu")
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "texts.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        job = Job(source, Path(name) / "vectors.npy", ("text",), None, None, "float32", PART)
        calls: dict[str, Callable[[], Any]] = {THEIRS: lambda: theirs.encode(texts, show_progress_bar=False)}
        for variant, file in (("fp32", FP32), ("int8", served_int8(abilities()))):
            model = Embedder(
                graphs / file, encoder, width=about["width"], dimensions=about["dimensions"], key="", variant=variant,
                threads=threads,
            )  # fmt: skip
            calls[f"ranker embed, {variant}"] = partial(embed_file, model, job, lambda _: None)
        wall, cpu = _timed(calls)
    rates = {name: len(texts) / float(np.median(times)) for name, times in wall.items()}
    spent = {name: float(np.median(times)) for name, times in cpu.items()}
    return {
        "threads": threads, "texts": len(texts), "tokens": float(np.mean([len(ids) for ids in encoder.ids(texts)])),
        "texts_per_s": rates, "seconds": wall, "cpu_seconds": cpu,
        "times": {name: rate / rates[THEIRS] for name, rate in rates.items()},
        "cpu_times": {name: spent[THEIRS] / each for name, each in spent.items()},
    }  # fmt: skip


def _timed(calls: dict[str, Callable[[], Any]]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return each call's seconds on the clock and of CPU, turn by turn, after one turn that does not count."""
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-1, TURNS):
        for name in [*calls][:: 1 if turn % 2 else -1]:
            start, spent = time.perf_counter(), time.process_time()
            calls[name]()
            if turn >= 0:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - spent)
    return wall, cpu


def reached(sets: dict[str, Any]) -> dict[str, Any]:
    """Return what the figures say of the targets, by set and kind."""
    found: dict[str, Any] = {}
    for name, kinds in sets.items():
        for kind, each in kinds.items():
            forms = {(row["model"], row["precision"], row["dtype"], row["dimensions"]): row for row in each["rows"]}
            whole = forms["embedder", "fp32", "float32", each["width"]]
            small = forms.get(("embedder", "int8", "int8", SMALL), {})
            told = {f"{metric} kept by {SMALL} of int8": small.get(f"{metric}_kept") for metric in (NDCG, RECALL)}
            told |= {f"{metric} over zero-shot": whole[f"{metric}_over_zero_shot_ci"] for metric in (NDCG, RECALL)}
            if "speed" in each:
                told["times sentence-transformers"] = each["speed"]["times"]
            found[f"{name}, {kind}"] = told
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", required=True, help="name, or name=folder")
    parser.add_argument("--kind", action="append", choices=KINDS, help="without it, both")
    parser.add_argument("--override", action="append", default=[], help="option=value of the configuration")
    parser.add_argument("--no-speed", action="store_true", help="measure quality alone")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.register()
    result = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"sets": {}}
    for each in arguments.set:
        name, _, folder = each.partition("=")
        for kind in arguments.kind or KINDS:
            print(f"{name}, {kind}", flush=True)
            config = composed(arguments.work.absolute(), name, folder, kind, arguments.override)
            stages = make(config)
            keys = {role: built.key for role, built in stages.items()}
            kept = result["sets"].get(name, {}).get(kind, {})
            found = json.loads((stages["retrieval"].folder / RETRIEVAL).read_text())
            found |= {"stages": keys, "overrides": arguments.override}
            if kept.get("stages") == keys and "speed" in kept:
                found["speed"] = kept["speed"]
            elif not arguments.no_speed:
                found["speed"] = speed(stages, available_cores())
            result["sets"].setdefault(name, {})[kind] = found
            result |= {"host": describe_host(), "versions": versions(LIBRARIES), "targets": reached(result["sets"])}
            write_atomic(arguments.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
