"""What a training tells while it runs: pairs, loss and nDCG@10 on dev."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rankdistill.export.progress import Progress
from rankdistill.training.monitor import METRIC

log = logging.getLogger(__name__)


class LastEvaluation(TrainerCallback):  # type: ignore[misc]
    """Evaluates and saves the end of a training too, wherever the regular evaluations fall."""

    def on_step_end(self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any) -> None:
        """Ask for it at the last step."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Shows pairs trained, loss and dev nDCG@10.

    Args:
        what: name of the training.
        pairs_per_step: mean number of pairs in a step.
        beside: what stands beside every evaluation: the baselines' dev nDCG@10.
    """

    def __init__(self, what: str, pairs_per_step: float, beside: str = "") -> None:
        self.what, self.pairs_per_step, self._beside = what, pairs_per_step, beside
        self._loss = ""

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, __: TrainerControl, **___: Any) -> None:
        """Open the bar at the step a checkpoint stood at."""
        self._start, self._shown = state.global_step, 0
        left = state.max_steps - state.global_step
        self._bar = Progress(self.what, round(left * self.pairs_per_step), "pairs").__enter__()

    def on_step_end(self, _: TrainingArguments, state: TrainerState, __: TrainerControl, **___: Any) -> None:
        """Count a step; what is rounded is the sum, so that the last step ends the bar."""
        done = round((state.global_step - self._start) * self.pairs_per_step)
        self._bar.update(done - self._shown, self._loss)
        self._shown = done

    def on_log(
        self,
        _: TrainingArguments,
        state: TrainerState,
        __: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **___: Any,
    ) -> None:
        """Keep the loss for the bar, and tell the dev nDCG."""
        for name, value in (logs or {}).items():
            if name == "loss":
                self._loss = f"loss {value:.4f}"
            if name == f"eval_{METRIC}":
                step, steps = state.global_step, state.max_steps
                beside = f", {self._beside}" if self._beside else ""
                log.info("%s: step %d of %d, dev nDCG@10 %.3f%s", self.what, step, steps, value, beside)

    def on_train_end(self, _: TrainingArguments, __: TrainerState, ___: TrainerControl, **____: Any) -> None:
        """Close the bar."""
        self._bar.__exit__(None, None, None)
