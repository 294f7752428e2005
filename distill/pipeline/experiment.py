"""The stages of an experiment, in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill import torchrun
from rankdistill.baselines.floor import References
from rankdistill.data.shortened_items import Read, is_whole
from rankdistill.options import BaselinesWarm, Config, DrawnAugment, SimilarityWarm
from rankdistill.pipeline import (
    cascade_stages,
    data_stages,
    embedder_stages,
    measure_stages,
    model_stages,
    teacher_stages,
)
from rankdistill.pipeline.embedder_stages import Keeps
from rankdistill.pipeline.run_folder import Measured, Run
from rankdistill.store.references import STAGES, register
from rankdistill.store.stages import Built, Store


def run(config: Config, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Run an experiment, reusing every stage that is made already.

    Args:
        config: the validated configuration.
        folder: the run's folder; run.json, config.yaml, tradeoff.json, report.html, evaluation.json.gz and bundle/ are
            written to it.
        overrides: what the command line changed, for run.json.

    Returns:
        The content of tradeoff.json; empty in torchrun's later processes, which only train.

    Raises:
        UserError: if something is wrong that a user can mend.
    """
    store = Store(Path(config.runs) / STAGES, holding=True)
    run_ = Run(folder, config, overrides)
    if torchrun.is_first():
        register(store.root, folder)
    taught = teach(run_, store, config)
    made = distil(run_, store, config, taught)
    data, read, source, teacher, student = taught.data, made.read, taught.source, taught.teacher, made.student
    torchrun.part()
    if not torchrun.is_first():
        return {}
    teacher_graphs = run_.keep("teacher graphs", model_stages.graphs(store, config, data, teacher, "teacher"))
    student_graphs = run_.keep("student graphs", model_stages.graphs(store, config, read.data, student, "student"))
    reads = {"teacher": Read(data, taught.tokens), "student": read}
    systems = measure_stages.systems(config, teacher, teacher_graphs, student, student_graphs)
    parity = {
        model: run_.keep(f"{model} parity", measure_stages.parity(store, config, reads[model].data, of, graphs, model))
        for model, of, graphs in (("teacher", teacher, teacher_graphs), ("student", student, student_graphs))
    }
    split = config.measure.split
    baselines = run_.keep(
        "baselines", measure_stages.baselines(store, config, data, source, taught.embedded, split, None)
    )
    predictions = []
    for system, _ in systems:
        scores = measure_stages.predictions(
            store, config, reads[system.model].data, *measure_stages.scored_by(system, systems)
        )
        predictions.append(run_.keep(f"predictions {system.name}", scores))
    latency = None
    if config.measure.latency_queries:
        latency = run_.keep("latency", measure_stages.latency(store, config, reads, systems))
    for name, measure in (("golden", measure_stages.golden), ("serving", measure_stages.serving)):
        run_.keep(name, measure(store, config, read.data, student, student_graphs))
    measured = Measured(reads, systems, predictions, baselines, latency, parity)
    embedder = embedder_stages.keep(run_, store, config, data, made.scores, made.drawn, source)
    cascade = cascade_stages.calibrate(run_, store, config, measured, teacher, embedder)
    return run_.finish(measured, cascade, None if embedder is None else embedder.retrieval)


@dataclass(frozen=True)
class Taught:
    """A teacher and the stages that it stands on.

    Attributes:
        source: folder of the model that it begins with.
        data, tokens: the data set.
        embedded: its texts by the encoder; None where nothing asks for them.
        pairs: unlabelled ones that it is to score, if there are.
        references: the baselines on dev.
        teacher: its checkpoint.
    """

    source: Path
    data: Built
    tokens: Built
    embedded: Built | None
    pairs: Built | None
    references: References
    teacher: Built


@dataclass(frozen=True)
class Distilled:
    """A student and the stages that it stands on beside its teacher's.

    Attributes:
        read: what it reads of the data set.
        scores: the teacher's of the training pairs.
        drawn: unlabelled pairs and the teacher's scores of them, if there are.
        student: its checkpoint.
    """

    read: Read
    scores: Built
    drawn: tuple[Built, Built] | None
    student: Built


def teach(run: Keeps, store: Store, config: Config) -> Taught:
    """Make a teacher and examine it, reusing every stage that is made already.

    Args:
        run: keeps what it stands on.
        store: of the stages.
        config: of the run.

    Raises:
        UserError: if something is wrong that a user can mend.
    """
    source = teacher_stages.locate_teacher(config)
    embedder_stages.locate(config, source)
    data = run.keep("data", model_stages.data(store, config))
    tokens = run.keep("tokens", model_stages.tokens(store, config, data, source))
    embedded = run.keep("embeddings", data_stages.embeddings(store, data, source)) if _embeds(config) else None
    pairs = _unlabelled(run, store, config, data, tokens, embedded, source)
    model_stages.check_data(config, data, tokens, pairs, source)
    references = _references(run, store, config, data, source, embedded)
    warm = _warm(run, store, config, data, tokens, source, embedded, references)
    teacher = run.keep("teacher", teacher_stages.teacher(store, config, data, tokens, source, warm, references))
    examined = teacher_stages.examine(store, config, data, tokens, teacher, references)
    if examined is not None:
        run.keep("examination", examined)
    return Taught(source, data, tokens, embedded, pairs, references, teacher)


def distil(run: Keeps, store: Store, config: Config, taught: Taught) -> Distilled:
    """Make a teacher's student, reusing every stage that is made already.

    Args:
        run: keeps what it stands on.
        store: of the stages.
        config: of the run.
        taught: the teacher.

    Raises:
        UserError: if something is wrong that a user can mend.
    """
    data, tokens, teacher = taught.data, taught.tokens, taught.teacher
    scores = run.keep("scores", model_stages.scores(store, config, data, tokens, teacher))
    drawn = None
    if taught.pairs is not None:
        of_drawn = model_stages.drawn_scores(store, config, data, tokens, teacher, taught.pairs)
        drawn = taught.pairs, run.keep("their scores", of_drawn)
    read = _student_read(run, store, config, Read(data, tokens), teacher, taught.source)
    made = model_stages.student(store, config, read.data, read.tokens, teacher, scores, drawn, taught.references)
    return Distilled(read, scores, drawn, run.keep("student", made))


def _embeds(config: Config) -> bool:
    """Return whether anything is made of the encoder's own embeddings of all texts."""
    drawn = isinstance(config.augment, DrawnAugment) and config.augment.embedding > 0
    return drawn or isinstance(config.warm, SimilarityWarm | BaselinesWarm)


def _references(
    run: Keeps, store: Store, config: Config, data: Built, source: Path, embedded: Built | None
) -> References:
    """Return the baselines' scores on the dev queries that each training evaluates."""
    found = {}
    for number, queries in enumerate(teacher_stages.dev_queries(config)):
        role = "dev baselines" if not number else f"dev baselines of {queries or 'all'} queries"
        found[queries] = run.keep(role, measure_stages.baselines(store, config, data, source, embedded, "dev", queries))
    return found


def _warm(
    run: Keeps,
    store: Store,
    config: Config,
    data: Built,
    tokens: Built,
    source: Path,
    embedded: Built | None,
    references: References,
) -> Built | None:
    """Return what the teacher's tuning begins with, None if that is the encoder itself."""
    if isinstance(config.warm, BaselinesWarm):
        scored = {
            split: run.keep(
                f"all {split} baselines", measure_stages.baselines(store, config, data, source, embedded, split, None)
            )
            for split in ("train", "dev")
        }
        made = teacher_stages.warm_by_baselines(store, config, data, tokens, scored, source, references)
        return run.keep("warm-up", made)
    if not isinstance(config.warm, SimilarityWarm):
        return None
    assert embedded is not None
    pairs = run.keep(
        "warm-up's pairs", data_stages.augment(store, config, config.warm.pairs, data, tokens, embedded, source)
    )
    warm = teacher_stages.warm(store, config, data, tokens, embedded, pairs, source, references)
    return run.keep("warm-up", warm)


def _unlabelled(
    run: Keeps, store: Store, config: Config, data: Built, tokens: Built, embedded: Built | None, source: Path
) -> Built | None:
    """Return pairs for the teacher to score, None if there are to be none."""
    counts = config.augment
    if not isinstance(counts, DrawnAugment):
        return None
    used = embedded if counts.embedding else None
    return run.keep("unlabelled pairs", data_stages.augment(store, config, counts, data, tokens, used, source))


def _student_read(run: Keeps, store: Store, config: Config, whole: Read, teacher: Built, source: Path) -> Read:
    """Return what the student reads, which is what its teacher reads where nothing else is asked for."""
    if is_whole(config.student.input):
        return whole
    data = run.keep("student input", data_stages.inputs(store, config, whole.data, teacher))
    return Read(data, run.keep("student tokens", model_stages.tokens(store, config, data, source)))
