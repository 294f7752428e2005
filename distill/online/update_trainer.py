"""The steps of an update, on the project's Trainer, and the optimizer's state between updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertForSequenceClassification, PrinterCallback, TrainingArguments

from rankdistill.data.records import Float32, Int64
from rankdistill.data.tokens import PairTokens
from rankdistill.export.torch_models.no_bars import no_bars
from rankdistill.online.trainable_parts import open_up
from rankdistill.online.update_loss import update_loss
from rankdistill.options import Train, Update
from rankdistill.training.arguments import arguments
from rankdistill.training.callbacks import ProgressCallback
from rankdistill.training.collator import Collator
from rankdistill.training.device import Device
from rankdistill.training.monitor import Monitor
from rankdistill.training.steps import draw_steps
from rankdistill.training.trainer import RankTrainer, set_dropout

MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # of AdamW
KEPT, NEW = "kept", "new"

State = Mapping[str, Tensor]  # "parameter.moment" to its value


@dataclass(frozen=True)
class Lessons:
    """What an update trains on.

    Attributes:
        pairs: of events and of old lists.
        known: what the loss needs of each, float32 [pairs]: grades, propensity, teacher, taught, served.
        owner: whose each list is, int64 [lists]; workers share the lists out by it.
    """

    pairs: PairTokens
    known: Mapping[str, Float32]
    owner: Int64


class UpdateTrainer(RankTrainer):
    """Trainer that may go on with the moments of an earlier update; it neither evaluates nor keeps checkpoints.

    What is held out says whether an update is good; a part of minutes that a kill tore is trained anew.
    """

    def __init__(self, *, state: State, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._state = state
        self.began = NEW

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Give AdamW the moments that were kept, if they are of the very parameters that learn now."""
        optimizer = super().create_optimizer()
        wanted = _named(self.model)
        shapes = {f"{name}.{m}": tuple(p.shape) if m != "step" else () for name, p in wanted.items() for m in MOMENTS}
        if self._state and shapes == {name: tuple(value.shape) for name, value in self._state.items()}:
            for name, parameter in wanted.items():
                optimizer.state[parameter] = {m: self._state[f"{name}.{m}"].clone() for m in MOMENTS}
            self.began = KEPT
        return optimizer

    def moments(self) -> dict[str, Tensor]:
        """Return the optimizer's state by parameter, as the next update takes it."""
        assert self.optimizer is not None
        found = self.optimizer.state  # of the optimizer itself, which accelerate may have wrapped
        return {
            f"{name}.{m}": found[parameter][m].detach().cpu().float().contiguous()
            for name, parameter in _named(self.model).items()
            if parameter in found
            for m in MOMENTS
        }


def train_update(
    model: BertForSequenceClassification,
    lessons: Lessons,
    state: State,
    *,
    update: Update,
    train: Train,
    device: Device,
    freeze_embeddings: bool,
    seed: int,
    work: Path,
) -> tuple[dict[str, Tensor], str]:
    """Train a student in place.

    Args:
        model: the served student.
        lessons: what it learns from.
        state: of the optimizer; empty to begin anew.
        update: its options.
        train: how the machine is used.
        device: resolved precision and attention.
        freeze_embeddings: whether they stay as they are whatever else learns.
        seed: of groups and adapters.
        work: a folder for the Trainer's files.

    Returns:
        The optimizer's state, and whether it went on from `state` ("kept") or began anew ("new").
    """
    torch.manual_seed(seed)
    steps = draw_steps(
        lessons.pairs.split,
        lessons.pairs.lengths,
        size=update.group_size,
        batch=update.batch_groups,
        tokens=None,
        epochs=update.epochs,
        max_pairs=None,
        seed=seed,
    )
    merge = open_up(model, update, freeze_embeddings)
    set_dropout(model, train.dropout)
    trainer = UpdateTrainer(
        state=state,
        model=model,
        args=_arguments(update, train, device, seed, work),
        train_dataset=steps,
        data_collator=Collator(lessons.pairs, lessons.known, steps.mean_groups),
        loss=update_loss(labels=update.labels, replay=update.replay, anchor=update.anchor),
        imitation=None,
        dev=lessons.pairs,
        watch=None,
        monitor=Monitor("update", "none"),  # what an update is held to is told by its checks
        score_batch=train.score_batch,
        head_rate=1.0,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressCallback("update", steps.pairs / max(1, len(steps))))
    with no_bars():
        trainer.train()
    moments = trainer.moments()
    merge()
    model.requires_grad_(False)
    return moments, trainer.began


def save_state(state: State, kind: str, path: Path) -> None:
    """Write an optimizer's state, and what kind of update it is of."""
    save_file(dict(state), str(path), metadata={"kind": kind})


def load_state(path: Path, kind: str) -> dict[str, Tensor]:
    """Return an optimizer's state; empty if there is none, or it is of another kind of update."""
    if not path.is_file():
        return {}
    with safe_open(str(path), framework="pt") as file:
        if (file.metadata() or {}).get("kind") != kind:
            return {}
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


def _named(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _arguments(update: Update, train: Train, device: Device, seed: int, work: Path) -> TrainingArguments:
    return arguments(
        train,
        device,
        seed,
        output_dir=str(work / "trainer"),
        learning_rate=update.learning_rate,
        warmup_steps=update.warmup,
        weight_decay=update.weight_decay,
        lr_scheduler_type="constant_with_warmup",  # a decay to 0 would weigh an update's last events least
        use_cpu=device.name == "cpu",
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
    )
