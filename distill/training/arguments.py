"""How transformers' Trainer is told what the options say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from rankdistill.options import Fit, Train
from rankdistill.training.device import Device
from rankdistill.training.monitor import METRIC

TENSORBOARD = "tensorboard"


def training_arguments(fit: Fit, train: Train, device: Device, batches: int, seed: int, out: Path) -> TrainingArguments:
    """Return the Trainer's arguments; `fit.evaluations` evaluations and checkpoints, the last at the end."""
    use_cpu = not torch.cuda.is_available()
    forget_precision()
    ranks = max(1, TrainingArguments(output_dir=str(out), use_cpu=use_cpu).world_size)
    steps = max(1, -(-batches // (train.accumulate * ranks)))
    every = -(-steps // fit.evaluations)
    return arguments(
        train,
        device,
        seed,
        output_dir=str(out / "checkpoints"),
        learning_rate=fit.learning_rate,
        warmup_steps=fit.warmup,  # below 1, a share
        weight_decay=fit.weight_decay,
        lr_scheduler_type="linear",
        use_cpu=use_cpu,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=fit.keep == "best",
        metric_for_best_model=METRIC,
        greater_is_better=True,
        logging_steps=max(1, steps // 50),
        report_to=[tracker for tracker in train.report_to if tracker != TENSORBOARD] or "none",
        ddp_find_unused_parameters=False,
    )


def tracking(train: Train, out: Path) -> Iterator[TrainerCallback]:
    """Yield what the Trainer does not make of `report_to` itself: a TensorBoard folder that is kept with the stage."""
    if TENSORBOARD in train.report_to:
        callback = TensorBoardCallback()
        callback.logging_dir = str(out / "tracker")  # by default it is in the checkpoints' folder, which is not kept
        yield callback


def arguments(train: Train, device: Device, seed: int, **own: Any) -> TrainingArguments:
    """Return the Trainer's arguments of any training here.

    Args:
        train: how the machine is used.
        device: resolved precision.
        seed: of the training.
        own: what this training asks for beyond them.
    """
    forget_precision()
    return TrainingArguments(
        num_train_epochs=1,
        per_device_train_batch_size=1,  # a step's groups
        gradient_accumulation_steps=train.accumulate,
        max_grad_norm=1.0,
        bf16=device.bf16,
        remove_unused_columns=False,
        dataloader_num_workers=0,  # tokens are ready and collating takes far less than a step
        disable_tqdm=True,
        log_level="error",
        seed=seed,
        data_seed=seed,
        label_names=[],
        **own,
    )


def forget_precision() -> None:
    """Let TrainingArguments' own bf16 decide: an earlier training of this process has left its precision behind.

    transformers writes it into this variable, and takes what stands there where bf16 is False.
    """
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
