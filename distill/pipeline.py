"""The stages of an experiment, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill import ranks, steps
from distill.run import Run
from distill.schema import Config
from distill.stages import Store


def run(config: Config, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Run an experiment, reusing every stage that is made already.

    Args:
        config: the validated configuration.
        folder: the run's folder; run.json, config.yaml, tradeoff.json and report.html are written to it.
        overrides: what the command line changed, for run.json.

    Returns:
        The content of tradeoff.json; empty in torchrun's later processes, which only train.

    Raises:
        UserError: if something is wrong that a user can mend.
    """
    store = Store(Path(config.runs) / "stages")
    run_ = Run(folder, store, config, overrides)
    source = steps.locate_teacher(config)
    data = run_.keep("data", steps.data(store, config))
    tokens = run_.keep("tokens", steps.tokens(store, config, data, source))
    teacher = run_.keep("teacher", steps.teacher(store, config, data, tokens, source))
    scores = run_.keep("scores", steps.scores(store, config, data, tokens, teacher))
    student = run_.keep("student", steps.student(store, config, data, tokens, teacher, scores))
    ranks.part()
    if not ranks.is_first():
        return {}
    teacher_graphs = run_.keep("teacher_graphs", steps.graphs(store, config, teacher))
    student_graphs = run_.keep("student_graphs", steps.graphs(store, config, student))
    systems = steps.systems(config, teacher, teacher_graphs, student, student_graphs)
    parity = {
        "teacher": run_.keep("teacher_parity", steps.parity(store, config, data, teacher, teacher_graphs, "teacher")),
        "student": run_.keep("student_parity", steps.parity(store, config, data, student, student_graphs, "student")),
    }
    baselines = run_.keep("baselines", steps.baselines(store, config, data, source))
    predictions = [
        run_.keep(f"predictions {system.name}", steps.predictions(store, config, data, system, made))
        for system, made in systems
    ]
    latency = run_.keep("latency", steps.latency(store, config, data, systems))
    return run_.finish(data, systems, predictions, baselines, latency, parity)
