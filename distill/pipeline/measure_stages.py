"""The stages that measure: what each one's key hashes, and what is called with plain arguments to build it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankdistill.data.records import RankingData
from rankdistill.data.shortened_items import WHOLE, Read, shortener_of
from rankdistill.export.graphs.graph_files import FP32, FULL, FULL_INT8, FUSED, INT8, INT8_AVX2, STATES, WEIGHT8
from rankdistill.export.graphs.variants import Offered, exact_files, offered, served_int8
from rankdistill.export.measure.host import describe_host, has_bf16
from rankdistill.export.measure.systems import System
from rankdistill.export.runtime.processor import abilities
from rankdistill.export.runtime.threads import allotted_cores, available_cores
from rankdistill.models import model_files
from rankdistill.options import Config, EncoderTeacher, FusedInt8, Int8, Quantize, Weight8
from rankdistill.store.stages import Built, Stage, Store

log = logging.getLogger(__name__)

RUNTIME = ("onnxruntime", "tokenizers", "numpy")
# Raised when a stage's code changes what it writes: everything made by the older code is then made again.
VERSIONS = {"parity": 3, "baselines": 2, "predictions": 2, "latency": 2, "golden": 1, "serving": 1}
COMPARED = (
    ("onnx", "pytorch"), ("full onnx", "onnx"), ("fused", "full onnx"), ("int8", "onnx"), ("int8 avx2", "onnx"),
    ("full int8", "full onnx"), ("weight8", "onnx"), ("openvino fp32", "onnx"), ("openvino bf16", "onnx"),
)  # fmt: skip


def systems(
    config: Config, teacher: Built, teacher_graphs: Built, student: Built, student_graphs: Built
) -> list[tuple[System, Built]]:
    """Return the models of the table, the teacher in PyTorch first, each with the stage that made it.

    What is served stands last of its model, after the second engine: page, objective and gate tell of that row.
    """
    if "openvino" in config.measure.engines and not has_bf16():
        log.warning("openvino bf16 is left out: this processor does not multiply bf16 (avx512_bf16, amx_bf16)")
    second = [("openvino", precision, FP32) for precision in _openvino_precisions(config)]
    ours = [("onnxruntime", precision, file) for precision, file in (("fp32", FP32), *_served(config.quantize))]
    teacher_size, student_size = (
        model_files.count_parameters(teacher.folder),
        model_files.count_parameters(student.folder),
    )
    length = config.teacher.max_length
    found = [(System("teacher", "pytorch", "fp32", teacher.folder, None, length, teacher_size), teacher)]
    for name, model, made, max_length, size in (
        ("teacher", teacher, teacher_graphs, length, teacher_size),
        ("student", student, student_graphs, config.student.max_length, student_size),
    ):
        halved = [(STATES, *form) for _, *form in ours] if name == "student" and config.student.split_layers else []
        for engine, precision, file in [*second, *halved, *ours]:
            system = System(name, engine, precision, model.folder, made.folder / file, max_length, size)
            found.append((system, made))
    return found


def _openvino_precisions(config: Config) -> list[str]:
    """Return the precisions that OpenVINO runs the fp32 graphs in; none where it is not asked for."""
    if "openvino" not in config.measure.engines:
        return []
    return ["fp32", "bf16"] if has_bf16() else ["fp32"]


def _of_engine(system: System) -> tuple[str, ...]:
    """Return the libraries that a system's scores and times come from."""
    if system.engine == "pytorch":
        return ("torch", "transformers")
    return (*RUNTIME, "openvino") if system.engine == "openvino" else RUNTIME


def _served(quantize: Quantize) -> list[tuple[str, str]]:
    """Return the 8-bit precisions of the table, each with its graph for this processor."""
    if isinstance(quantize, Weight8):
        return [("weight8", WEIGHT8)]
    return [("int8", served_int8(abilities()))] if isinstance(quantize, (Int8, FusedInt8)) else []


def parity(store: Store, config: Config, data: Built, model: Built, graphs: Built, name: str) -> Built:
    """Return the comparison of a model's forms on real dev pairs."""
    max_length = config.teacher.max_length if name == "teacher" else config.student.max_length
    options: dict[str, Any] = {"max_length": max_length, "queries": config.measure.parity_queries, "seed": config.seed}
    inputs, exact = {"data": data.key, "graphs": graphs.key}, exact_files(graphs.folder, abilities())
    files = {"onnx": FP32, "fused": FUSED, "int8": INT8, "int8 avx2": INT8_AVX2}
    files |= {"full onnx": FULL, "full int8": FULL_INT8, "weight8": WEIGHT8}
    # of a graph that saturates here nothing is told: it would be the processor's fault, not the graph's
    files = {form: file for form, file in files.items() if file in exact}
    options["forms"] = sorted(files)
    libraries, openvino = [*RUNTIME], _openvino_precisions(config)
    if openvino:
        options["openvino"] = openvino
        libraries.append("openvino")
    stage = Stage("parity", VERSIONS["parity"], options, inputs, libraries=libraries, title=f"{name} parity")

    def build(out: Path) -> None:
        from rankdistill.export.measure import parity as parity_

        records = RankingData.open(data.folder)
        split = records.splits["dev"].sample(config.measure.parity_queries, config.seed)
        forms = {"pytorch": System(name, "pytorch", "fp32", model.folder, None, max_length, 0)}
        for form, file in files.items():
            precision = next((each for each in ("int8", "weight8") if each in form), "fp32")
            forms[form] = System(name, "onnxruntime", precision, model.folder, graphs.folder / file, max_length, 0)
        for precision in openvino:
            system = System(name, "openvino", precision, model.folder, graphs.folder / FP32, max_length, 0)
            forms[f"openvino {precision}"] = system
        references = [(form, other) for form, other in COMPARED if form in forms and other in forms]
        parity_.write(forms, references, list(records.lists(split)), split.grade, _share(config), out)

    return store.get(stage, build)


def baselines(
    store: Store, config: Config, data: Built, source: Path, embedded: Built | None, split: str, queries: int | None
) -> Built:
    """Return the scores of the baselines that this data has.

    Args:
        store: of the stages.
        config: of the run.
        data: the data set.
        source: folder of the model that the teacher begins with.
        embedded: all texts embedded by it, where something else needed them; without, those of the split are.
        split: whose pairs are scored.
        queries: how many of its queries; None: all.
    """
    encoder = source if isinstance(config.teacher, EncoderTeacher) else None
    options: dict[str, Any] = {"split": split, "embedding": encoder is not None}
    if queries is not None:
        options |= {"queries": queries, "seed": config.seed}
    inputs, files = {"data": data.key}, model_files.fingerprint(source) if encoder else {}
    if embedded is not None:
        inputs["embeddings"] = embedded.key
    libraries, title = ("torch", "transformers", "bm25s"), f"baselines on {split}"
    stage = Stage("baselines", VERSIONS["baselines"], options, inputs, files, libraries, title=title)

    def build(out: Path) -> None:
        from rankdistill.baselines import simple_rankers as baselines_
        from rankdistill.models import encoder_embeddings

        records = RankingData.open(data.folder)
        vectors = None if embedded is None or encoder is None else encoder_embeddings.read(embedded.folder)
        baselines_.write(records, records.splits[split].sample(queries, config.seed), encoder, vectors, out)

    return store.get(stage, build)


def scored_by(system: System, systems: Sequence[tuple[System, Built]]) -> tuple[System, Built]:
    """Return the system whose scores of a split stand for this one's, with the stage that made it.

    A checkpoint in PyTorch gives those of its fp32 graph in onnxruntime up to rounding: parity, which is measured
    before, ends a run where it does not. So no split is scored twice by the slowest models.
    """
    engine = "onnxruntime" if system.engine == "pytorch" else system.engine
    wanted = (system.model, engine, system.precision)
    return next(each for each in systems if (each[0].model, each[0].engine, each[0].precision) == wanted)


def predictions(store: Store, config: Config, data: Built, system: System, made: Built) -> Built:
    """Return a system's scores of the measured split."""
    options = {
        "split": config.measure.split,
        "engine": system.engine,
        "precision": system.precision,
        "graph": system.graph.name if system.graph else None,
        "max_length": system.max_length,
    }
    inputs = {"data": data.key, "model": made.key}
    libraries, title = _of_engine(system), f"scores by {system.name}"
    stage = Stage("predictions", VERSIONS["predictions"], options, inputs, libraries=libraries, title=title)

    def build(out: Path) -> None:
        from rankdistill.export.measure import predictions as predictions_

        records = RankingData.open(data.folder)
        split = records.splits[config.measure.split]
        predictions_.write(system, records.lists(split), split.pairs, _share(config), out)

    return store.get(stage, build)


def latency(store: Store, config: Config, reads: Mapping[str, Read], systems: Sequence[tuple[System, Built]]) -> Built:
    """Return the timings of all systems, interleaved, each on what its model reads: `reads` is by model."""
    measure = config.measure
    options = {
        "split": measure.split,
        "queries": measure.latency_queries,
        "rounds": measure.rounds,
        "warmup": measure.warmup_queries,
        "threads": _threads(config),
        "seed": config.seed,
        "max_lengths": [system.max_length for system, _ in systems],
        "graphs": [system.graph.name if system.graph else None for system, _ in systems],
    }
    data, student_data = reads["teacher"].data, reads["student"].data
    inputs = {"data": data.key} | {system.name: made.key for system, made in systems}
    if student_data.key != data.key:
        inputs["student data"] = student_data.key
    libraries = sorted({library for system, _ in systems for library in _of_engine(system)})
    stage = Stage("latency", VERSIONS["latency"], options, inputs, libraries=libraries, host=describe_host())

    def build(out: Path) -> None:
        from rankdistill.export.measure import latency as latency_

        lists = {}
        for model, read in reads.items():
            records = RankingData.open(read.data.folder)
            split = records.splits[measure.split].sample(measure.latency_queries, config.seed)
            lists[model] = list(records.lists(split))
        latency_.write(
            [system for system, _ in systems],
            lists,
            threads=_threads(config),
            rounds=measure.rounds,
            warmup=measure.warmup_queries,
            out=out,
        )

    return store.get(stage, build)


def golden(store: Store, config: Config, data: Built, student: Built, graphs: Built) -> Built:
    """Return real and odd pairs with the tokens and scores that every copy of the student must give."""
    variants = _exact(graphs)
    options = _list_options(config) | {"variants": [variant.name for variant in variants]}
    inputs = {"data": data.key, "graphs": graphs.key}
    stage = Stage("golden", VERSIONS["golden"], options, inputs, libraries=RUNTIME, title="golden pairs")

    def build(out: Path) -> None:
        from rankdistill.export.bundle import golden as golden_

        records = RankingData.open(data.folder)
        split = records.splits["dev"].sample(config.measure.parity_queries, config.seed)
        shortener = shortener_of(data.folder)
        whole = records.lists(split) if shortener is None else records.lists(split, WHOLE)
        golden_.write(
            list(whole),
            shortener.shorten if shortener is not None else str,
            student.folder,
            graphs.folder,
            variants,
            max_length=config.student.max_length,
            seed=config.seed,
            out=out,
        )

    return store.get(stage, build)


def serving(store: Store, config: Config, data: Built, student: Built, graphs: Built) -> Built:
    """Return whether the student's scores depend on their batch, and the batch that is fastest where they do not."""
    variants = _exact(graphs)
    options = _list_options(config) | {"variants": [variant.name for variant in variants], "threads": _threads(config)}
    inputs = {"data": data.key, "graphs": graphs.key}
    stage = Stage("serving", VERSIONS["serving"], options, inputs, libraries=RUNTIME, host=describe_host())

    def build(out: Path) -> None:
        from rankdistill.export.measure import batch_size as serving_

        records = RankingData.open(data.folder)
        split = records.splits["dev"].sample(config.measure.parity_queries, config.seed)
        serving_.write(
            list(records.lists(split)),
            student.folder,
            graphs.folder,
            variants,
            max_length=config.student.max_length,
            threads=_threads(config),
            out=out,
        )

    return store.get(stage, build)


def _list_options(config: Config) -> dict[str, Any]:
    """Return what the dev lists that the student is shown depend on."""
    return {"max_length": config.student.max_length, "queries": config.measure.parity_queries, "seed": config.seed}


def _exact(graphs: Built) -> list[Offered]:
    """Return the variants that this processor computes without saturation."""
    has = abilities()
    return [variant for variant in offered(graphs.folder) if variant.is_exact(graphs.folder, has)]


def _threads(config: Config) -> int:
    """Return the threads whose speed is measured."""
    return config.measure.threads or available_cores()


def _share(config: Config) -> int:
    """Return the threads of scoring that is not timed: several jobs may share the machine meanwhile."""
    return min(_threads(config), allotted_cores())
