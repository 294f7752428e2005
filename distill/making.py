"""The stages that make a student: what each one's key hashes, and what is called with plain arguments to build it.

Heavy libraries are imported where a stage is built, so that an experiment whose stages are all made starts in no time.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import models, prepare
from distill.pruning import Rivals
from distill.records import RankingData
from distill.schema import Config, EncoderTeacher, Int8
from distill.stages import Built, Stage, Store
from distill.validate import validate_student
from export.runtime.tokens import PairEncoder

if TYPE_CHECKING:
    from distill.tokens import PairTokens

TRAINING = ("torch", "transformers", "accelerate")
GRAPHS = ("torch", "transformers", "optimum-onnx", "onnx", "onnxruntime")
# Raised when a stage's code changes what it writes: everything made by the older code is then made again.
VERSIONS = {"data": 1, "tokens": 1, "teacher": 1, "scores": 1, "student": 1, "graphs": 3}


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
        from distill.device import Device
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
            rivals=Rivals.read(Path(config.rivals)) if config.rivals else None,
            out=out,
        )

    return store.get(stage, build, every_rank=True)


def graphs(store: Store, config: Config, model: Built) -> Built:
    """Return a checkpoint's graphs: fp32 and int8 as they are served, and those that they are compared with."""
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


def _training_pairs(
    config: Config, data: Built, tokens: Built, tokenizer: Path, max_length: int, dev_queries: int | None
) -> tuple[PairTokens, PairTokens]:
    """Return the pairs to train on and those of dev that choose the best evaluation."""
    from distill.tokens import PairTokens, TokenTable

    records, table = RankingData.open(data.folder), TokenTable.open(tokens.folder)
    encoder = PairEncoder.load(tokenizer, max_length)
    dev = records.splits["dev"].sample(dev_queries, config.seed)
    return PairTokens(records.splits["train"], table, encoder), PairTokens(dev, table, encoder)
