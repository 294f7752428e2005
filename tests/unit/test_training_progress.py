"""The bar of a training ends with its last step, whatever a step's mean number of pairs is."""

from __future__ import annotations

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from distill import training_progress
from distill.training_progress import ProgressCallback


class Bar:
    def __init__(self, what, total, unit):
        self.total, self.done = total, 0

    def __enter__(self):
        return self

    def update(self, count, note):
        self.done += count


@pytest.mark.parametrize("start", [0, 400])
@pytest.mark.parametrize("pairs_per_step", [14.6, 15.4, 0.4])
def test_the_bar_ends_with_the_last_step(monkeypatch, tmp_path, pairs_per_step, start):
    monkeypatch.setattr(training_progress, "Progress", Bar)
    callback = ProgressCallback("teacher", pairs_per_step)
    state = TrainerState(max_steps=1743, global_step=start)
    told = (TrainingArguments(output_dir=str(tmp_path)), state, TrainerControl())
    callback.on_train_begin(*told)
    while state.global_step < state.max_steps:
        state.global_step += 1
        callback.on_step_end(*told)
    assert callback._bar.done == callback._bar.total
