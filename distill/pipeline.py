"""The stages of an experiment, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill import cascading, embedding_stages, gathering, making, measuring, ranks
from distill.inputs import Read, is_whole
from distill.references import STAGES, register
from distill.run import Measured, Run
from distill.schema import Config, DrawnAugment, SimilarityWarm
from distill.stages import Built, Store


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
    if ranks.is_first():
        register(store.root, folder)
    source = making.locate_teacher(config)
    embedding_stages.locate(config, source)
    data = run_.keep("data", making.data(store, config))
    tokens = run_.keep("tokens", making.tokens(store, config, data, source))
    pairs = _unlabelled(run_, store, config, data, tokens, source)
    making.check_data(config, data, tokens, pairs, source)
    warm = _warm(run_, store, config, data, tokens, source)
    teacher = run_.keep("teacher", making.teacher(store, config, data, tokens, source, warm))
    scores = run_.keep("scores", making.scores(store, config, data, tokens, teacher))
    drawn = None
    if pairs is not None:
        of_drawn = making.drawn_scores(store, config, data, tokens, teacher, pairs)
        drawn = pairs, run_.keep("their scores", of_drawn)
    read = _student_read(run_, store, config, Read(data, tokens), teacher, source)
    student = run_.keep("student", making.student(store, config, read.data, read.tokens, teacher, scores, drawn))
    ranks.part()
    if not ranks.is_first():
        return {}
    teacher_graphs = run_.keep("teacher graphs", making.graphs(store, config, data, teacher, "teacher"))
    student_graphs = run_.keep("student graphs", making.graphs(store, config, read.data, student, "student"))
    reads = {"teacher": Read(data, tokens), "student": read}
    systems = measuring.systems(config, teacher, teacher_graphs, student, student_graphs)
    parity = {
        model: run_.keep(f"{model} parity", measuring.parity(store, config, reads[model].data, made, graphs, model))
        for model, made, graphs in (("teacher", teacher, teacher_graphs), ("student", student, student_graphs))
    }
    baselines = run_.keep("baselines", measuring.baselines(store, config, data, source))
    predictions = [
        run_.keep(
            f"predictions {system.name}", measuring.predictions(store, config, reads[system.model].data, system, made)
        )
        for system, made in systems
    ]
    latency = run_.keep("latency", measuring.latency(store, config, reads, systems))
    for name, measure in (("golden", measuring.golden), ("serving", measuring.serving)):
        run_.keep(name, measure(store, config, read.data, student, student_graphs))
    measured = Measured(reads, systems, predictions, baselines, latency, parity)
    embedder = embedding_stages.keep(run_, store, config, data, scores, drawn, source)
    cascade = cascading.calibrate(run_, store, config, measured, teacher, embedder)
    return run_.finish(measured, cascade, None if embedder is None else embedder.retrieval)


def _warm(run: Run, store: Store, config: Config, data: Built, tokens: Built, source: Path) -> Built | None:
    """Return what the teacher's tuning begins with, None if that is the encoder itself."""
    if not isinstance(config.warm, SimilarityWarm):
        return None
    embedded = run.keep("embeddings", gathering.embeddings(store, data, source))
    pairs = gathering.augment(store, config, config.warm.pairs, data, tokens, embedded, source)
    run.keep("warm-up's pairs", pairs)
    return run.keep("warm-up", making.warm(store, config, data, tokens, embedded, pairs, source))


def _unlabelled(run: Run, store: Store, config: Config, data: Built, tokens: Built, source: Path) -> Built | None:
    """Return pairs for the teacher to score, None if there are to be none."""
    counts = config.augment
    if not isinstance(counts, DrawnAugment):
        return None
    embedded = run.keep("embeddings", gathering.embeddings(store, data, source)) if counts.embedding else None
    return run.keep("unlabelled pairs", gathering.augment(store, config, counts, data, tokens, embedded, source))


def _student_read(run: Run, store: Store, config: Config, whole: Read, teacher: Built, source: Path) -> Read:
    """Return what the student reads, which is what its teacher reads where nothing else is asked for."""
    if is_whole(config.student.input):
        return whole
    data = run.keep("student input", gathering.inputs(store, config, whole.data, teacher))
    return Read(data, run.keep("student tokens", making.tokens(store, config, data, source)))
