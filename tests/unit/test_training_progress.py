"""A training's bar ends with its last step, whatever a step's mean number of pairs is, and so do its evaluations."""

from __future__ import annotations

import pytest
from transformers import DefaultFlowCallback, TrainerControl, TrainerState, TrainingArguments

from rankdistill.options import Fit, Train
from rankdistill.training import callbacks
from rankdistill.training.arguments import training_arguments
from rankdistill.training.callbacks import LastEvaluation, ProgressCallback
from rankdistill.training.device import Device


class Bar:
    def __init__(self, what, total, unit):
        self.total, self.done = total, 0

    def __enter__(self):
        return self

    def update(self, count, note):
        self.done += count


@pytest.mark.parametrize(("steps", "asked"), [(11, 4), (11, 6), (19, 10), (100, 3), (12, 4), (3, 5), (1, 1)])
def test_as_many_evaluations_as_asked_for_and_one_at_the_end(tmp_path, steps, asked):
    device = Device("cpu", bf16=False, attention="eager")
    arguments = training_arguments(Fit(evaluations=asked), Train(), device, steps, 0, tmp_path)
    state, evaluated = TrainerState(max_steps=steps, eval_steps=arguments.eval_steps), []
    while state.global_step < steps:
        state.global_step += 1
        control = TrainerControl()
        for callback in (DefaultFlowCallback(), LastEvaluation()):
            callback.on_step_end(arguments, state, control)
        if control.should_evaluate:
            evaluated.append((state.global_step, control.should_save))
    assert len(evaluated) == min(asked, steps)
    assert evaluated[-1] == (steps, True)


@pytest.mark.parametrize("start", [0, 400])
@pytest.mark.parametrize("pairs_per_step", [14.6, 15.4, 0.4])
def test_the_bar_ends_with_the_last_step(monkeypatch, tmp_path, pairs_per_step, start):
    monkeypatch.setattr(callbacks, "Progress", Bar)
    callback = ProgressCallback("teacher", pairs_per_step)
    state = TrainerState(max_steps=1743, global_step=start)
    told = (TrainingArguments(output_dir=str(tmp_path)), state, TrainerControl())
    callback.on_train_begin(*told)
    while state.global_step < state.max_steps:
        state.global_step += 1
        callback.on_step_end(*told)
    assert callback._bar.done == callback._bar.total
