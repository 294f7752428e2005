"""The stages that make a student: what each one's key hashes, and what is called with plain arguments to build it.

Heavy libraries are imported where a stage is built, so that an experiment whose stages are all made starts in no time.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankdistill.baselines import floor
from rankdistill.baselines.floor import References
from rankdistill.data import shortened_items as inputs
from rankdistill.data import sources
from rankdistill.data.records import RankingData
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.models import model_files, vocabulary
from rankdistill.options import Augment, Config, DrawnAugment
from rankdistill.options.student_width import Width, student_width
from rankdistill.pipeline import data_stages, quantization
from rankdistill.store.stages import Built, Stage, Store, hash_files
from rankdistill.training.median_stopping import Rivals

if TYPE_CHECKING:
    from rankdistill.data.scored_pairs import Lessons
    from rankdistill.data.tokens import PairTokens

TRAINING = ("torch", "transformers", "accelerate")
GRAPHS = ("torch", "transformers", "optimum", "onnx", "onnxruntime")
# Raised when a stage's code changes what it writes: everything made by the older code is then made again.
VERSIONS = {"data": 3, "tokens": 1, "scores": 4, "student": 7, "graphs": 5}


def data(store: Store, config: Config) -> Built:
    """Return the data set as records."""
    source = sources.locate(config.data)
    stage = Stage("data", VERSIONS["data"], source.options, files=source.files, libraries=source.libraries)
    return store.get(stage, source.write)


def tokens(store: Store, config: Config, data: Built, source: Path) -> Built:
    """Return the data set's texts as token ids."""
    longest = data_stages.longest(config)
    files = {"tokenizer.json": model_files.fingerprint(source)["tokenizer.json"]}
    stage = Stage("tokens", VERSIONS["tokens"], {"max_length": longest}, {"data": data.key}, files, ("tokenizers",))

    def build(out: Path) -> None:
        from rankdistill.data import tokens as tokens_

        tokens_.write(RankingData.open(data.folder), PairEncoder.load(source, longest), out)

    return store.get(stage, build)


def check_data(config: Config, data: Built, tokens: Built, drawn: Built | None, source: Path) -> None:
    """Check what the student asks of the data, before anything is trained.

    What a student that reads less of an item loses with its vocabulary is known only when its texts are made.

    Raises:
        ConfigError: if the items have no field that it asks for, or its vocabulary would lose too much.
    """
    student = config.student
    inputs.check(RankingData.open(data.folder), student.input)
    if student.vocabulary.min_count is None or not inputs.is_whole(student.input):
        return
    from rankdistill.data import unlabelled_pairs
    from rankdistill.data.scored_pairs import join
    from rankdistill.data.tokens import PairTokens

    pairs, _ = training_pairs(config, data, tokens, source, student.max_length, 1)
    if drawn is not None:
        added = unlabelled_pairs.open_pairs(drawn.folder, pairs.table, pairs.encoder)
        pairs = PairTokens(join(pairs.split, added.split)[0], added.table, pairs.encoder)
    vocabulary.check(student.vocabulary, source, pairs, int(model_files.read_config(source)["vocab_size"]))


def scores(store: Store, config: Config, data: Built, tokens: Built, teacher: Built) -> Built:
    """Return the teacher's raw scores of every training pair."""
    inputs = {"tokens": tokens.key, "teacher": teacher.key}
    return _scores(store, config, data, tokens, teacher, inputs, None)


def drawn_scores(store: Store, config: Config, data: Built, tokens: Built, teacher: Built, drawn: Built) -> Built:
    """Return the teacher's raw scores of the unlabelled pairs."""
    return _scores(store, config, data, tokens, teacher, {"drawn": drawn.key, "teacher": teacher.key}, drawn)


def _scores(
    store: Store,
    config: Config,
    data: Built,
    tokens: Built,
    teacher: Built,
    inputs: dict[str, str],
    drawn: Built | None,
) -> Built:
    options = {"max_length": config.teacher.max_length, "train": asdict(config.train)}
    title = "teacher scores" if drawn is None else "teacher scores of unlabelled pairs"
    stage = Stage("scores", VERSIONS["scores"], options, inputs, libraries=TRAINING, title=title)

    def build(out: Path) -> None:
        from rankdistill.data import unlabelled_pairs
        from rankdistill.export.torch_models.checkpoint import load_ranker
        from rankdistill.training import scoring as scores_
        from rankdistill.training.device import Device

        device = Device.resolve(config.train)
        model = load_ranker(str(teacher.folder), cls_only=True, attention=device.attention).to(device.name)
        pairs, _ = training_pairs(config, data, tokens, teacher.folder, config.teacher.max_length, 1)
        if drawn is not None:
            pairs = unlabelled_pairs.open_pairs(drawn.folder, pairs.table, pairs.encoder)
        scores_.write(model, pairs, out, what=title, batch_size=config.train.score_batch, bf16=device.bf16)

    return store.get(stage, build)


def student(
    store: Store,
    config: Config,
    data: Built,
    tokens: Built,
    teacher: Built,
    scores: Built,
    drawn: tuple[Built, Built] | None,
    references: References,
) -> Built:
    """Return the student's checkpoint; `drawn` are unlabelled pairs and the teacher's scores of them."""
    terms = {name: asdict(term) for name, term in config.loss.terms.items() if term.weight > 0}
    train = replace(config.train, freeze_embeddings=config.student.freeze_embeddings)
    options = asdict(config.student) | {"terms": terms, "train": asdict(train), "seed": config.seed}
    del options["input"]  # the tokens are of what it reads
    del options["freeze_embeddings"]  # is told by train
    if not config.student.split_layers:
        del options["split_layers"]
    whole = Width.of(model_files.read_config(teacher.folder))
    if student_width(config.student, whole) == whole:
        del options["importance"], options["importance_pairs"]  # nothing is left out
    inputs = {"tokens": tokens.key, "teacher": teacher.key, "scores": scores.key}
    if drawn is not None:
        inputs |= {"drawn": drawn[0].key, "drawn scores": drawn[1].key}
        options["augment"] = asdict(config.augment)
    safety = config.student.vocabulary.safety
    files = {} if safety is None else hash_files([Path(safety).expanduser()])
    stage = Stage("student", VERSIONS["student"], options, inputs, files, TRAINING)

    def build(out: Path) -> None:
        from rankdistill.data.scored_pairs import Lessons
        from rankdistill.models import student as student_
        from rankdistill.training import scoring as scores_

        shape = model_files.read_config(teacher.folder)
        layers = student_.choose_layers(config.student.layers, int(shape["num_hidden_layers"]))
        pairs, dev = training_pairs(
            config, data, tokens, teacher.folder, config.student.max_length, config.student.fit.dev_queries
        )
        lessons = Lessons(pairs, scores_.read(scores.folder), scores_.scale(scores.folder))
        if drawn is not None:
            lessons = _with_drawn(lessons, config.augment, data, drawn)
        student_.write(
            teacher.folder,
            lessons,
            dev,
            layers=layers,
            student=config.student,
            terms=config.loss.terms,
            train=train,
            seed=config.seed,
            rivals=Rivals.read(Path(config.rivals)) if config.rivals else None,
            monitor=floor.monitor("student", config, references, config.student.fit, dev.split),
            out=out,
        )

    return store.get(stage, build, every_rank=True)


def _with_drawn(lessons: Lessons, counts: Augment, data: Built, drawn: tuple[Built, Built]) -> Lessons:
    from rankdistill.data import unlabelled_pairs
    from rankdistill.data.scored_pairs import Lessons
    from rankdistill.training import scoring as scores_

    assert isinstance(counts, DrawnAugment)
    pairs, scored = drawn
    drawn_pairs = unlabelled_pairs.open_pairs(pairs.folder, lessons.pairs.table, lessons.pairs.encoder)
    added = Lessons(drawn_pairs, scores_.read(scored.folder), scores_.scale(scored.folder))
    relevant = int(RankingData.open(data.folder).summary["relevant"])
    return lessons.with_drawn(added, relevant, hard_negatives=counts.hard_negatives, margin=counts.margin)


def graphs(store: Store, config: Config, data: Built, model: Built, role: str) -> Built:
    """Return the graphs of a "teacher" or "student": as they are served, and those that they are compared with."""
    options: dict[str, Any] = {"export": asdict(config.export)} | quantization.options(config, role)
    inputs = {"model": model.key}
    if quantization.reads_pairs(quantization.asked(config, role)):
        inputs["data"] = data.key
    stage = Stage("graphs", VERSIONS["graphs"], options, inputs, libraries=GRAPHS, title=f"{role} graphs")

    def build(out: Path) -> None:
        from rankdistill.export.quantization.ranker_graphs import write_graphs

        write_graphs(
            model.folder,
            out,
            cls_only=config.export.cls_only,
            opset=config.export.opset,
            quantization=quantization.quantization(config, role, data.folder, model.folder),
        )

    return store.get(stage, build)


def training_pairs(
    config: Config, data: Built, tokens: Built, tokenizer: Path, max_length: int, dev_queries: int | None
) -> tuple[PairTokens, PairTokens]:
    """Return the pairs to train on and those of dev that choose the best evaluation."""
    from rankdistill.data.tokens import PairTokens, TokenTable

    records, table = RankingData.open(data.folder), TokenTable.open(tokens.folder)
    encoder = PairEncoder.load(tokenizer, max_length)
    dev = records.splits["dev"].sample(dev_queries, config.seed)
    return PairTokens(records.splits["train"], table, encoder), PairTokens(dev, table, encoder)
