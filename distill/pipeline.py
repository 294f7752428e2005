"""The stages of an experiment, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill import making, measuring, ranks
from distill.run import Measured, Run
from distill.schema import Config
from distill.stages import Store


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
    store = Store(Path(config.runs) / "stages")
    run_ = Run(folder, config, overrides)
    source = making.locate_teacher(config)
    data = run_.keep("data", making.data(store, config))
    tokens = run_.keep("tokens", making.tokens(store, config, data, source))
    teacher = run_.keep("teacher", making.teacher(store, config, data, tokens, source))
    scores = run_.keep("scores", making.scores(store, config, data, tokens, teacher))
    student = run_.keep("student", making.student(store, config, data, tokens, teacher, scores))
    ranks.part()
    if not ranks.is_first():
        return {}
    teacher_graphs = run_.keep("teacher graphs", making.graphs(store, config, teacher))
    student_graphs = run_.keep("student graphs", making.graphs(store, config, student))
    systems = measuring.systems(config, teacher, teacher_graphs, student, student_graphs)
    parity = {
        model: run_.keep(f"{model} parity", measuring.parity(store, config, data, made, graphs, model))
        for model, made, graphs in (("teacher", teacher, teacher_graphs), ("student", student, student_graphs))
    }
    baselines = run_.keep("baselines", measuring.baselines(store, config, data, source))
    predictions = [
        run_.keep(f"predictions {system.name}", measuring.predictions(store, config, data, system, made))
        for system, made in systems
    ]
    latency = run_.keep("latency", measuring.latency(store, config, data, systems))
    for name, measure in (("golden", measuring.golden), ("serving", measuring.serving)):
        run_.keep(name, measure(store, config, data, student, student_graphs))
    return run_.finish(Measured(data, systems, predictions, baselines, latency, parity))
