"""Each stage of an experiment: what its key hashes, and what is called with plain arguments to build it.

Heavy libraries are imported where a stage is built, so that an experiment whose stages are all made starts in no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from distill import models, prepare
from distill.records import RankingData, Split
from distill.schema import Config, EncoderTeacher, Int8
from distill.stages import Built, Stage, Store
from distill.validate import validate_student
from export.graph import FP32, FULL, FULL_INT8, FUSED, INT8
from export.measure.systems import System
from export.runtime.threads import available_cores
from export.runtime.tokens import PairEncoder

TRAINING = ("torch", "transformers", "accelerate")
GRAPHS = ("torch", "transformers", "optimum-onnx", "onnx", "onnxruntime")
RUNTIME = ("onnxruntime", "tokenizers", "numpy")
# Raised when a stage's code changes what it writes: everything made by the older code is then made again.
VERSIONS = {
    "data": 1, "tokens": 1, "teacher": 1, "scores": 1, "student": 1, "graphs": 1, "parity": 1, "baselines": 1,
    "predictions": 1, "latency": 1,
}  # fmt: skip
COMPARED = (
    ("onnx", "pytorch"), ("fused", "onnx"), ("full onnx", "onnx"), ("int8", "onnx"), ("full int8", "full onnx"),
)  # fmt: skip


def data(store: Store, config: Config) -> Built:
    """Return the data set as records."""
    source = prepare.locate(config.data)
    stage = Stage("data", VERSIONS["data"], source.options, files=source.files, libraries=source.libraries)
    return store.get(stage, source.write)


def locate_teacher(config: Config) -> Path:
    """Return the folder of the model that the teacher begins with, the student's options checked against it.

    Raises:
        ConfigError: if it cannot be had, or the student asks for what it does not have.
    """
    folder = models.locate_model(config.teacher.model, config.teacher.sha256)
    shape = models.read_config(folder)
    validate_student(config.student, int(shape["num_hidden_layers"]), int(shape["hidden_size"]))
    return folder


def tokens(store: Store, config: Config, data: Built, source: Path) -> Built:
    """Return the data set's texts as token ids."""
    longest = max(config.teacher.max_length, config.student.max_length)
    files = {"tokenizer.json": models.fingerprint(source)["tokenizer.json"]}
    stage = Stage("tokens", VERSIONS["tokens"], {"max_length": longest}, {"data": data.key}, files, ("tokenizers",))

    def build(out: Path) -> None:
        from distill import tokens as tokens_

        tokens_.write(RankingData.open(data.folder), PairEncoder.load(source, longest), out)

    return store.get(stage, build)


def teacher(store: Store, config: Config, data: Built, tokens: Built, source: Path) -> Built:
    """Return the teacher's checkpoint."""
    files = models.fingerprint(source)
    teacher_ = config.teacher
    if not isinstance(teacher_, EncoderTeacher):
        stage = Stage("teacher", VERSIONS["teacher"], {"kind": teacher_.kind}, files=files, libraries=TRAINING)

        def copy(out: Path) -> None:
            from distill import teacher as teacher_module

            teacher_module.write_as_is(source, out)

        return store.get(stage, copy)
    options = {"max_length": teacher_.max_length, "fit": asdict(teacher_.fit), "train": asdict(config.train)}
    stage = Stage(
        "teacher", VERSIONS["teacher"], options | {"seed": config.seed}, {"tokens": tokens.key}, files, TRAINING
    )

    def tune(out: Path) -> None:
        from distill import teacher as teacher_module

        pairs, dev = _training_pairs(config, data, tokens, source, teacher_.max_length, teacher_.fit.dev_queries)
        teacher_module.write_tuned(source, pairs, dev, teacher_, config.train, config.seed, out)

    return store.get(stage, tune, every_rank=True)


def scores(store: Store, config: Config, data: Built, tokens: Built, teacher: Built) -> Built:
    """Return the teacher's raw scores of every training pair."""
    options = {"max_length": config.teacher.max_length, "train": asdict(config.train)}
    inputs = {"tokens": tokens.key, "teacher": teacher.key}
    stage = Stage("scores", VERSIONS["scores"], options, inputs, libraries=TRAINING, title="teacher scores")

    def build(out: Path) -> None:
        from distill import scores as scores_
        from distill.train import Device
        from export.cls_only import load_ranker

        device = Device.resolve(config.train)
        model = load_ranker(str(teacher.folder), cls_only=True, attention=device.attention).to(device.name)
        pairs, _ = _training_pairs(config, data, tokens, teacher.folder, config.teacher.max_length, 1)
        scores_.write(model, pairs, out, what="teacher scores", batch_size=config.train.score_batch, bf16=device.bf16)

    return store.get(stage, build)


def student(store: Store, config: Config, data: Built, tokens: Built, teacher: Built, scores: Built) -> Built:
    """Return the student's checkpoint."""
    terms = {name: asdict(term) for name, term in config.loss.terms.items() if term.weight > 0}
    options = asdict(config.student) | {"terms": terms, "train": asdict(config.train), "seed": config.seed}
    inputs = {"tokens": tokens.key, "teacher": teacher.key, "scores": scores.key}
    stage = Stage("student", VERSIONS["student"], options, inputs, libraries=TRAINING)

    def build(out: Path) -> None:
        from distill import scores as scores_
        from distill import student as student_

        shape = models.read_config(teacher.folder)
        layers = student_.choose_layers(config.student.layers, int(shape["num_hidden_layers"]))
        pairs, dev = _training_pairs(
            config, data, tokens, teacher.folder, config.student.max_length, config.student.fit.dev_queries
        )
        student_.write(
            teacher.folder,
            pairs,
            dev,
            scores_.read(scores.folder),
            layers=layers,
            student=config.student,
            terms=config.loss.terms,
            train=config.train,
            seed=config.seed,
            out=out,
        )

    return store.get(stage, build, every_rank=True)


def graphs(store: Store, config: Config, model: Built) -> Built:
    """Return a checkpoint's graphs: fp32, fused, int8, and the full ones that the [CLS]-only ones are compared with."""
    quantize = config.quantize
    options: dict[str, Any] = {"export": asdict(config.export), "quantize": asdict(quantize)}
    title = f"{model.key.partition('-')[0]} graphs"
    stage = Stage("graphs", VERSIONS["graphs"], options, {"model": model.key}, libraries=GRAPHS, title=title)

    def build(out: Path) -> None:
        from export.onnx import write_graphs

        int8 = None
        if isinstance(quantize, Int8):
            int8 = {"per_channel": quantize.per_channel, "reduce_range": quantize.reduce_range}
        write_graphs(
            model.folder,
            out,
            cls_only=config.export.cls_only,
            opset=config.export.opset,
            int8=int8,
        )

    return store.get(stage, build)


def systems(
    config: Config, teacher: Built, teacher_graphs: Built, student: Built, student_graphs: Built
) -> list[tuple[System, Built]]:
    """Return the models of the table, the teacher in PyTorch first, each with the stage that made it."""
    precisions = [("fp32", FP32)] + ([("int8", INT8)] if isinstance(config.quantize, Int8) else [])
    teacher_size, student_size = models.count_parameters(teacher.folder), models.count_parameters(student.folder)
    length = config.teacher.max_length
    found = [(System("teacher", "pytorch", "fp32", teacher.folder, None, length, teacher_size), teacher)]
    for name, model, made, max_length, size in (
        ("teacher", teacher, teacher_graphs, length, teacher_size),
        ("student", student, student_graphs, config.student.max_length, student_size),
    ):
        for precision, file in precisions:
            system = System(name, "onnxruntime", precision, model.folder, made.folder / file, max_length, size)
            found.append((system, made))
    return found


def parity(store: Store, config: Config, data: Built, model: Built, graphs: Built, name: str) -> Built:
    """Return the comparison of a model's forms on real dev pairs."""
    max_length = config.teacher.max_length if name == "teacher" else config.student.max_length
    options = {"max_length": max_length, "queries": config.measure.parity_queries, "seed": config.seed}
    inputs = {"data": data.key, "graphs": graphs.key}
    stage = Stage("parity", VERSIONS["parity"], options, inputs, libraries=RUNTIME, title=f"{name} parity")

    def build(out: Path) -> None:
        from export.measure import parity as parity_

        records = RankingData.open(data.folder)
        split = sample(records.splits["dev"], config.measure.parity_queries, config.seed)
        files = {"onnx": FP32, "fused": FUSED, "int8": INT8, "full onnx": FULL, "full int8": FULL_INT8}
        forms = {"pytorch": System(name, "pytorch", "fp32", model.folder, None, max_length, 0)}
        for form, file in files.items():
            if (graphs.folder / file).is_file():
                precision = "int8" if "int8" in form else "fp32"
                forms[form] = System(name, "onnxruntime", precision, model.folder, graphs.folder / file, max_length, 0)
        asked = [
            ("onnx", "pytorch"),
            ("fused", "onnx"),
            ("full onnx", "onnx"),
            ("int8", "onnx"),
            ("full int8", "full onnx"),
        ]
        references = [(form, other) for form, other in asked if form in forms and other in forms]
        parity_.write(forms, references, list(lists(records, split)), split.grade, _threads(config), out)

    return store.get(stage, build)


def baselines(store: Store, config: Config, data: Built, source: Path) -> Built:
    """Return the scores of the baselines that this data has."""
    encoder = source if isinstance(config.teacher, EncoderTeacher) else None
    options = {"split": config.measure.split, "max_length": config.teacher.max_length, "embedding": encoder is not None}
    files = models.fingerprint(source) if encoder else {}
    libraries = ("torch", "transformers", "bm25s")
    stage = Stage("baselines", VERSIONS["baselines"], options, {"data": data.key}, files, libraries)

    def build(out: Path) -> None:
        from distill import baselines as baselines_

        records = RankingData.open(data.folder)
        baselines_.write(records, records.splits[config.measure.split], encoder, config.teacher.max_length, out)

    return store.get(stage, build)


def predictions(store: Store, config: Config, data: Built, system: System, made: Built) -> Built:
    """Return a system's scores of the measured split."""
    options = {
        "split": config.measure.split,
        "engine": system.engine,
        "precision": system.precision,
        "max_length": system.max_length,
    }
    libraries = RUNTIME if system.graph else ("torch", "transformers")
    inputs = {"data": data.key, "model": made.key}
    stage = Stage(
        "predictions", VERSIONS["predictions"], options, inputs, libraries=libraries, title=f"scores by {system.name}"
    )

    def build(out: Path) -> None:
        from export.measure import predictions as predictions_

        records = RankingData.open(data.folder)
        split = records.splits[config.measure.split]
        predictions_.write(system, lists(records, split), split.pairs, _threads(config), out)

    return store.get(stage, build)


def latency(store: Store, config: Config, data: Built, systems: Sequence[tuple[System, Built]]) -> Built:
    """Return the timings of all systems, interleaved."""
    from export.host import describe_host

    measure = config.measure
    options = {
        "split": measure.split,
        "queries": measure.latency_queries,
        "rounds": measure.rounds,
        "warmup": measure.warmup_queries,
        "threads": _threads(config),
        "seed": config.seed,
        "max_lengths": [system.max_length for system, _ in systems],
    }
    inputs = {"data": data.key} | {system.name: made.key for system, made in systems}
    libraries = (*RUNTIME, "torch", "transformers")
    stage = Stage("latency", VERSIONS["latency"], options, inputs, libraries=libraries, host=describe_host())

    def build(out: Path) -> None:
        from export.measure import latency as latency_

        records = RankingData.open(data.folder)
        split = sample(records.splits[measure.split], measure.latency_queries, config.seed)
        latency_.write(
            [system for system, _ in systems],
            list(lists(records, split)),
            threads=_threads(config),
            rounds=measure.rounds,
            warmup=measure.warmup_queries,
            out=out,
        )

    return store.get(stage, build)


def sample(split: Split, queries: int | None, seed: int) -> Split:
    """Return `queries` of a split's queries drawn at random, in their order; all of them if there are no more."""
    if queries is None or queries >= len(split.query):
        return split
    drawn = np.random.default_rng(seed).choice(len(split.query), size=queries, replace=False)
    return split.take(np.sort(drawn))


def lists(records: RankingData, split: Split) -> Iterator[tuple[str, list[str]]]:
    """Yield each query's text and its candidates' texts."""
    for number, row in enumerate(split.query):
        items = split.item[split.offsets[number] : split.offsets[number + 1]]
        yield records.queries.texts([int(row)])[0], records.items.texts(items)


def _training_pairs(
    config: Config, data: Built, tokens: Built, tokenizer: Path, max_length: int, dev_queries: int | None
) -> Any:
    from distill.tokens import PairTokens, TokenTable

    records, table = RankingData.open(data.folder), TokenTable.open(tokens.folder)
    encoder = PairEncoder.load(tokenizer, max_length)
    dev = sample(records.splits["dev"], dev_queries, config.seed)
    return PairTokens(records.splits["train"], table, encoder), PairTokens(dev, table, encoder)


def _threads(config: Config) -> int:
    return config.measure.threads or available_cores()
