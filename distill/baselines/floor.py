"""What a teacher must not be below: rankers that cost nothing, on the dev queries that trainings are evaluated on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.baselines import simple_rankers
from rankdistill.data.records import RankingData, Split
from rankdistill.errors import TrainingError
from rankdistill.export.measure.intervals import LEAST_QUERIES, difference_interval
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.options import BaselinesWarm, Config, EncoderTeacher, Fit, NoWarm, SimilarityWarm
from rankdistill.store.stages import Built
from rankdistill.training.monitor import METRIC, Monitor, best_first

log = logging.getLogger(__name__)

INTERVAL: Mapping[str, Any] = {"confidence": 0.95, "resamples": 10_000, "seed": 0}
GENTLE_RATE = 3e-5  # at which labels went on from a warm-up on every seed (docs/distillation.md)

Float64 = npt.NDArray[np.float64]
References = Mapping[int | None, Built]  # the baselines' scores on dev, by how many dev queries are evaluated


def read(folder: Path, split: Split) -> dict[str, Float64]:
    """Return the nDCG@10 of each baseline whose scores stand in a stage's folder, float64 [queries]."""
    scores = simple_rankers.read(folder)
    return {name: ranking_metrics(each, split.grade, split.offsets)[METRIC] for name, each in scores.items()}


def monitor(
    what: str, config: Config, references: References, fit: Fit, dev: Split, *, holds_dev: bool = True
) -> Monitor:
    """Return what follows a training.

    Args:
        what: the model that is trained.
        config: of the run.
        references: the baselines on dev.
        fit: of the training.
        dev: the queries that it evaluates.
        holds_dev: see `Monitor`.
    """
    values = read(references[fit.dev_queries].folder, dev)
    return Monitor(what, config.teacher.floor, hints(config, what), values, holds_dev)


def hold(values: Float64, config: Config, references: References, queries: int | None, data: Built) -> None:
    """Log a teacher's dev nDCG@10 beside that of the baselines, and hold it to the best of them.

    Args:
        values: its nDCG@10, float64 [queries].
        config: of the run.
        references: the baselines on dev.
        queries: how many were asked for.
        data: the data set.

    Raises:
        TrainingError: if it is surely below, and `teacher.floor` is "stop".
    """
    of_baselines = read(
        references[queries].folder, RankingData.open(data.folder).splits["dev"].sample(queries, config.seed)
    )
    log.info("teacher: dev nDCG@10 %.3f, %s (%d queries)", values.mean(), best_first(of_baselines), len(values))
    found = shortfall(values, of_baselines)
    if found is None or config.teacher.floor == "none":
        return
    if config.teacher.floor == "stop":
        raise TrainingError(f"{found}; {hints(config, 'teacher')}")
    log.warning("%s", found)


def shortfall(values: Float64, of_baselines: Mapping[str, Float64]) -> str | None:
    """Return in words that a teacher is surely below the best baseline; None if it is not, or queries are too few.

    Args:
        values: the teacher's nDCG@10, float64 [queries].
        of_baselines: theirs, float64 [queries] each.
    """
    if not of_baselines or len(values) < LEAST_QUERIES:
        return None
    best = max(of_baselines, key=lambda name: float(of_baselines[name].mean()))
    theirs = of_baselines[best]
    low, high = difference_interval(values, theirs, **INTERVAL)
    if high >= 0:
        return None
    told = f"teacher: dev nDCG@10 {values.mean():.3f} is surely below {best}'s {theirs.mean():.3f}: difference "
    return f"{told}{float((values - theirs).mean()):+.3f} [{low:+.3f}, {high:+.3f}] over {len(values)} queries"


def hints(config: Config, what: str) -> str:
    """Return what to try where a model has learned nothing, or less than rankers that cost nothing know."""
    teacher, go_on = config.teacher, "teacher.floor=warn goes on all the same"
    if what == "student":
        return f"try student.fit.learning_rate below {config.student.fit.learning_rate:g}, or another teacher; {go_on}"
    if not isinstance(teacher, EncoderTeacher):
        return f"try another teacher.model, or one tuned on these labels (teacher=minilm); {go_on}"
    if what == "warm-up" and isinstance(config.warm, SimilarityWarm | BaselinesWarm):
        rate = f"warm.fit.learning_rate below {config.warm.fit.learning_rate:g}"
        return f"try {rate}, warm=none, or another encoder (teacher.model); {go_on}"
    tries = []
    if isinstance(config.warm, NoWarm):
        tries.append("warm=baselines, warm=similarity (searches) or warm=histories (histories)")
    if teacher.fit.learning_rate > GENTLE_RATE:
        tries.append(f"teacher.fit.learning_rate={GENTLE_RATE:g} teacher.fit.head_rate=1")
    tries.append("more teacher.fit.max_pairs")
    tries.append("another encoder (teacher.model)")
    return f"try {', '.join(tries)}; {go_on}"
