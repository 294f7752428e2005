"""The stages that make a teacher, and what it is held to before anything stands on it.

Heavy libraries are imported where a stage is built, so that an experiment whose stages are all made starts in no time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rankdistill.baselines import floor
from rankdistill.baselines.floor import Float64, References
from rankdistill.data.records import RankingData
from rankdistill.losses import state_terms
from rankdistill.models import model_files, vocabulary
from rankdistill.options import BaselinesWarm, Config, EncoderTeacher, Fit, SimilarityWarm
from rankdistill.options.student_width import validate_student
from rankdistill.pipeline.model_stages import TRAINING, training_pairs
from rankdistill.store.stages import Built, Stage, Store
from rankdistill.training.monitor import METRIC

if TYPE_CHECKING:
    from rankdistill.data.records import Float32
    from rankdistill.data.tokens import PairTokens

log = logging.getLogger(__name__)

# training pairs, dev pairs, and what the training pairs score
Lessons: TypeAlias = "tuple[PairTokens, PairTokens, Float32]"

# Raised when a stage's code changes what it writes: everything made by the older code is then made again.
VERSIONS = {"warm": 6, "teacher": 7, "examination": 1}
EXAMINED = 100  # dev queries that a teacher is examined on that is used as it is, as many as a training evaluates


def locate_teacher(config: Config) -> Path:
    """Return the folder of the model that the teacher begins with, the student's options checked against it.

    Raises:
        ConfigError: if it cannot be had, or the student asks for what it does not have.
    """
    folder = model_files.locate_model(config.teacher.model, config.teacher.sha256, config.teacher.revision)
    model_files.validate_model(config, folder)
    shape = model_files.read_config(folder)
    validate_student(config.student, shape)
    state_terms.validate_states(config, shape)
    if config.student.vocabulary.min_count is not None:
        vocabulary.always_kept(config.student.vocabulary, folder)
    return folder


def warm(
    store: Store,
    config: Config,
    data: Built,
    tokens: Built,
    embedded: Built,
    drawn: Built,
    source: Path,
    references: References,
) -> Built:
    """Return the checkpoint of a teacher that has learned the encoder's similarity and no labels yet."""
    warm_ = config.warm
    assert isinstance(warm_, SimilarityWarm)

    def lessons(_out: Path) -> Lessons:
        from rankdistill.data import unlabelled_pairs
        from rankdistill.models import encoder_embeddings

        _, dev = training_pairs(config, data, tokens, source, config.teacher.max_length, warm_.fit.dev_queries)
        pairs = unlabelled_pairs.open_pairs(drawn.folder, dev.table, dev.encoder)
        queries, items = encoder_embeddings.read(embedded.folder)
        queries = np.concatenate([queries, unlabelled_pairs.read_vectors(drawn.folder)])
        similarity = encoder_embeddings.similarity(pairs.query, pairs.split.item, queries, items)
        return pairs, dev, similarity * np.float32(warm_.scale)

    inputs = {"drawn": drawn.key, "embeddings": embedded.key}
    return _imitate(store, config, warm_.fit, source, references, {"scale": warm_.scale}, inputs, lessons)


def warm_by_baselines(
    store: Store,
    config: Config,
    data: Built,
    tokens: Built,
    scored: Mapping[str, Built],
    source: Path,
    references: References,
) -> Built:
    """Return the checkpoint of a teacher that has learned what the baselines know together, and no labels yet.

    Args:
        store: of the stages.
        config: of the run.
        data: the data set.
        tokens: of its texts.
        scored: the baselines' scores of all "train" and "dev" pairs.
        source: folder of the encoder.
        references: the baselines on the dev queries that trainings evaluate.
    """
    warm_ = config.warm
    assert isinstance(warm_, BaselinesWarm)

    def lessons(out: Path) -> Lessons:
        from rankdistill.baselines import simple_rankers
        from rankdistill.baselines.combination import Combination

        of_train, of_dev = (simple_rankers.read(scored[split].folder) for split in ("train", "dev"))
        dev_split = RankingData.open(data.folder).splits["dev"]
        combination = Combination.fit(of_dev, dev_split)
        log.info("warm-up: %s together have dev nDCG@10 %.3f", *combination.write(of_dev, dev_split, out))
        pairs, dev = training_pairs(config, data, tokens, source, config.teacher.max_length, warm_.fit.dev_queries)
        return pairs, dev, combination.score(of_train)

    inputs = {"tokens": tokens.key} | {f"{split} baselines": built.key for split, built in scored.items()}
    return _imitate(store, config, warm_.fit, source, references, {"of": "baselines"}, inputs, lessons)


def _imitate(
    store: Store,
    config: Config,
    fit: Fit,
    source: Path,
    references: References,
    own: Mapping[str, Any],
    inputs: Mapping[str, str],
    lessons: Callable[[Path], Lessons],
) -> Built:
    """Return the checkpoint of a teacher whose margins are those that `lessons` gives.

    Args:
        store: of the stages.
        config: of the run.
        fit: of the warm-up.
        source: folder of the encoder.
        references: the baselines on the dev queries that trainings evaluate.
        own: options of this warm-up alone.
        inputs: keys of the stages that `lessons` reads.
        lessons: may note in the stage's folder what it made them of.
    """
    begin = model_files.locate_init(config, source)
    shared = {"max_length": config.teacher.max_length, "fit": asdict(fit), "train": asdict(config.train)}
    stage = Stage(
        "warm", VERSIONS["warm"], {**shared, **own, "seed": config.seed}, inputs, model_files.fingerprint(begin),
        TRAINING, title="teacher's warm-up",
    )  # fmt: skip

    def build(out: Path) -> None:
        from rankdistill.models import warm_up as warm_module

        pairs, dev, margins = lessons(out)
        monitor = floor.monitor("warm-up", config, references, fit, dev.split, holds_dev=False)
        warm_module.write(begin, pairs, margins, dev, fit, config.train, config.seed, out, monitor)

    return store.get(stage, build, every_rank=True)


def teacher(
    store: Store,
    config: Config,
    data: Built,
    tokens: Built,
    source: Path,
    warm: Built | None,
    references: References,
) -> Built:
    """Return the teacher's checkpoint."""
    teacher_ = config.teacher
    if not isinstance(teacher_, EncoderTeacher):
        files = model_files.fingerprint(source)
        stage = Stage("teacher", VERSIONS["teacher"], {"kind": teacher_.kind}, files=files, libraries=TRAINING)

        def copy(out: Path) -> None:
            from rankdistill.models import teacher as teacher_module

            teacher_module.write_as_is(source, out)

        return store.get(stage, copy)
    begin = warm.folder if warm is not None else model_files.locate_init(config, source)
    options = {"max_length": teacher_.max_length, "fit": asdict(teacher_.fit), "train": asdict(config.train)}
    inputs = {"tokens": tokens.key} | ({"warm": warm.key} if warm is not None else {})
    stage = Stage(
        "teacher",
        VERSIONS["teacher"],
        options | {"seed": config.seed},
        inputs,
        model_files.fingerprint(begin),
        TRAINING,
    )

    def tune(out: Path) -> None:
        from rankdistill.models import teacher as teacher_module

        pairs, dev = training_pairs(config, data, tokens, source, teacher_.max_length, teacher_.fit.dev_queries)
        monitor = floor.monitor("teacher", config, references, teacher_.fit, dev.split)
        teacher_module.write_tuned(begin, pairs, dev, teacher_, config.train, config.seed, out, monitor)

    return store.get(stage, tune, every_rank=True)


def examine(
    store: Store, config: Config, data: Built, tokens: Built, teacher: Built, references: References
) -> Built | None:
    """Hold a teacher's dev nDCG@10 to that of rankers that cost nothing; log them all.

    Returns:
        The stage that scored dev, of a teacher that is used as it is; None of one whose training did.

    Raises:
        TrainingError: if it is surely below the best of them and `teacher.floor` is "stop".
    """
    queries = dev_queries(config)[0]
    if isinstance(config.teacher, EncoderTeacher):
        floor.hold(_dev_values(teacher.folder / "training.json"), config, references, queries, data)
        return None
    options = {"max_length": config.teacher.max_length, "queries": queries, "seed": config.seed}
    inputs = {"tokens": tokens.key, "teacher": teacher.key}
    stage = Stage("examination", VERSIONS["examination"], options, inputs, libraries=TRAINING)

    def build(out: Path) -> None:
        from rankdistill.export.measure.quality import ranking_metrics
        from rankdistill.export.progress import Progress
        from rankdistill.export.torch_models.checkpoint import load_ranker
        from rankdistill.training.device import Device
        from rankdistill.training.scoring import score_rows

        device = Device.resolve(config.train)
        model = load_ranker(str(teacher.folder), cls_only=True, attention=device.attention).to(device.name)
        _, dev = training_pairs(config, data, tokens, teacher.folder, config.teacher.max_length, queries)
        with Progress("dev", len(dev), "pairs") as bar:
            scores = score_rows(
                model, dev, np.arange(len(dev)), batch_size=config.train.score_batch, bf16=device.bf16, bar=bar
            )
        values = ranking_metrics(scores, dev.split.grade, dev.split.offsets)[METRIC]
        (out / "examination.json").write_text(json.dumps({f"dev_{METRIC}": values.tolist()}) + "\n", encoding="utf-8")

    built = store.get(stage, build)
    floor.hold(_dev_values(built.folder / "examination.json"), config, references, queries, data)
    return built


def _dev_values(path: Path) -> Float64:
    """Return the nDCG@10 of the dev queries that a stage noted, float64 [queries]."""
    return np.array(json.loads(path.read_text(encoding="utf-8"))[f"dev_{METRIC}"])


def dev_queries(config: Config) -> list[int | None]:
    """Return how many dev queries each model is evaluated on, the teacher's first, without repetition."""
    teacher = config.teacher.fit.dev_queries if isinstance(config.teacher, EncoderTeacher) else EXAMINED
    warm = [config.warm.fit.dev_queries] if isinstance(config.warm, SimilarityWarm | BaselinesWarm) else []
    return list(dict.fromkeys([teacher, *warm, config.student.fit.dev_queries]))
