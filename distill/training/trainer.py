"""Training a cross-encoder over groups of one query's candidates, on transformers' Trainer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import (
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerControl,
)

from rankdistill.data.tokens import PairTokens
from rankdistill.errors import ConfigError
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.torch_models.no_bars import no_bars
from rankdistill.losses.score_losses import Loss
from rankdistill.options import Fit, Train
from rankdistill.options.ranges import problem
from rankdistill.training.arguments import tracking, training_arguments
from rankdistill.training.callbacks import LastEvaluation, ProgressCallback
from rankdistill.training.checkpoints import Float64, last_checkpoint, read_dev_values, write_dev_values
from rankdistill.training.collator import Collator
from rankdistill.training.cost import scoring_cost
from rankdistill.training.device import Device
from rankdistill.training.monitor import METRIC, Monitor, best_first, chance_ndcg
from rankdistill.training.scoring import score_rows
from rankdistill.training.steps import Steps, draw_steps
from rankdistill.training.teacher_states import PROJECTIONS, Imitation

Watch = Callable[[float, float], None]  # is told the share of the training done and dev nDCG@10; may end it by raising


class DivergedError(Exception):
    """A training after which scores are no numbers."""


class RankTrainer(Trainer):  # type: ignore[misc]
    """Trainer whose loss compares a group's candidates and whose evaluation is nDCG@10 on dev."""

    def __init__(
        self,
        *,
        loss: Loss,
        imitation: Imitation | None,
        dev: PairTokens,
        watch: Watch | None,
        monitor: Monitor,
        score_batch: int,
        head_rate: float,
        **arguments: Any,
    ) -> None:
        super().__init__(eval_dataset=dev, **arguments)
        self._head_rate, self._watch, self._monitor = head_rate, watch, monitor
        self.dev_values: dict[int, Float64] = {}  # nDCG@10 of the dev queries by step, of this process's evaluations
        self.model_accepts_loss_kwargs = False  # else Trainer skips the division by accumulation steps
        self._loss, self._imitation, self._dev, self._score_batch = loss, imitation, dev, score_batch

    control: TrainerControl
    optimizer: torch.optim.Optimizer | None

    def _get_train_sampler(self, train_dataset: Steps | None = None) -> SequentialSampler:
        return SequentialSampler(train_dataset or self.train_dataset)  # the order was drawn with the steps

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Give the pooler, the classifier and projections of states a rate of their own.

        They begin at random: at the body's rate its pretrained features are torn down by noise before they can tell
        it anything.
        """
        if self.optimizer is None:
            groups: dict[tuple[bool, bool], list[Tensor]] = {}
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    head = name.startswith(("bert.pooler", "classifier", PROJECTIONS))
                    groups.setdefault((head, parameter.ndim > 1), []).append(parameter)
            rates = {False: self.args.learning_rate, True: self.args.learning_rate * self._head_rate}
            self.optimizer = torch.optim.AdamW(
                [
                    {"params": parameters, "lr": rates[head], "weight_decay": self.args.weight_decay * matrix}
                    for (head, matrix), parameters in groups.items()
                ],
                fused=True,  # less than half the time of PyTorch's default on a CPU
            )
        return self.optimizer

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_unused: Any
    ) -> Any:
        """Return the loss of a batch of groups."""
        inputs = dict(inputs)
        ids = {name: inputs.pop(name) for name in ("input_ids", "attention_mask", "token_type_ids")}
        imitated: Tensor | float = 0.0
        if self._imitation is None:
            outputs = model(**ids)
        else:
            outputs, imitated = self._imitation(model, ids)
        mask = inputs["mask"]
        logits = outputs.logits[:, 0].float()
        scores = torch.zeros(mask.shape, device=logits.device).masked_scatter(mask, logits)
        of_scores = self._loss(scores, inputs)
        if of_scores.requires_grad:  # a loss on states alone does not look at scores
            self._monitor.step(lambda values: self._loss(values, inputs), scores, mask)
        loss = (of_scores + imitated) * inputs["weight"]
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *others: Any, **named: Any) -> None:
        """Note what Trainer tells, and look whether anything is learned.

        Raises:
            TrainingError: if nothing is.
        """
        super().log(logs, *others, **named)
        if "loss" in logs:
            self._monitor.check(self.state.global_step, self.state.max_steps)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure nDCG@10 on the dev queries.

        Raises:
            DivergedError: if scores are no numbers any more.
        """
        split = self._dev.split
        with Progress("dev", split.pairs, "pairs") as bar:
            scores = score_rows(
                self.model,
                self._dev,
                np.arange(split.pairs),
                batch_size=self._score_batch,
                bf16=self.args.bf16,
                bar=bar,
            )
        if not np.isfinite(scores).all():
            raise DivergedError(f"by step {self.state.global_step} of {self.state.max_steps} the training diverged")
        values = ranking_metrics(scores, split.grade, split.offsets)[METRIC]
        self.dev_values[self.state.global_step] = values
        write_dev_values(Path(self.args.output_dir), self.state.global_step, values)
        metrics = {f"eval_{METRIC}": float(np.nanmean(values))}
        self.log(metrics)
        chance = chance_ndcg(split.grade, split.offsets)
        self._monitor.evaluated(self.state.global_step, self.state.max_steps, values, chance)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self._watch is not None:
            self._watch(self.state.global_step / self.state.max_steps, metrics[f"eval_{METRIC}"])
        return metrics


def train_ranker(
    model: BertForSequenceClassification,
    pairs: PairTokens,
    dev: PairTokens,
    known: Mapping[str, Float32],
    loss: Loss,
    *,
    imitation: Imitation | None = None,
    fit: Fit,
    train: Train,
    device: Device,
    seed: int,
    out: Path,
    what: str,
    watch: Watch | None = None,
    monitor: Monitor | None = None,
) -> None:
    """Train a model in place; leave it at its best evaluation or the end; checkpoints go to `out / "checkpoints"`.

    Args:
        model: a cross-encoder.
        pairs: the training pairs.
        dev: the dev pairs that choose the best evaluation.
        known: what the loss needs of each training pair, float32 [pairs], by name.
        loss: takes scores float [groups, size] and a batch with `mask` and the `known` values of that shape.
        imitation: what of the loss compares the model's states with its teacher's.
        fit: how long and how fast.
        train: how the machine is used.
        device: resolved precision and attention.
        seed: of groups and dropout.
        out: the stage's working folder; a training killed there goes on from its last checkpoint.
        what: name for the progress.
        watch: is told of each evaluation.
        monitor: looks whether anything is learned; None: nobody does.

    Raises:
        ConfigError: if it diverged.
        TrainingError: if `monitor` finds that nothing is learned.
    """
    monitor = monitor or Monitor(what, "none")
    steps = draw_steps(
        pairs.split,
        pairs.lengths,
        size=fit.group_size,
        batch=fit.batch_groups,
        tokens=fit.batch_tokens,
        epochs=fit.epochs,
        max_pairs=fit.max_pairs,
        seed=seed,
    )
    for parameter in model.bert.embeddings.parameters():
        parameter.requires_grad_(train.freeze_embeddings is False)  # None: those of the teacher's width are frozen
    set_dropout(model, train.dropout)
    arguments = training_arguments(fit, train, device, len(steps), seed, out)
    trainer = RankTrainer(
        model=model,
        args=arguments,
        train_dataset=steps,
        data_collator=Collator(pairs, known, steps.mean_groups),
        loss=loss,
        imitation=imitation,
        dev=dev,
        watch=watch,
        monitor=monitor,
        score_batch=train.score_batch,
        head_rate=fit.head_rate,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(LastEvaluation())
    per_step = steps.pairs / max(1, -(-len(steps) // train.accumulate))
    trainer.add_callback(ProgressCallback(what, per_step, best_first(monitor.baselines)))
    for callback in tracking(train, out):
        trainer.add_callback(callback)
    try:
        with no_bars():
            trainer.train(resume_from_checkpoint=last_checkpoint(Path(arguments.output_dir)))
    except DivergedError as error:
        told = problem("fit.learning_rate", f"{fit.learning_rate:g}", f"less, since {error}")
        raise ConfigError(f"{what}: {told}") from error
    kept = trainer.state.best_global_step if fit.keep == "best" else trainer.state.max_steps
    dev_values = trainer.dev_values.get(kept)
    if dev_values is None:  # a killed process found it
        dev_values = read_dev_values(Path(arguments.output_dir), kept)
    history = [entry for entry in trainer.state.log_history if f"eval_{METRIC}" in entry or "loss" in entry]
    result = {
        "steps": trainer.state.max_steps,
        "kept": fit.keep,
        "best_step": trainer.state.best_global_step,
        f"best_dev_{METRIC}": trainer.state.best_metric,
        f"dev_{METRIC}": [round(value, 6) for value in dev_values.tolist()],
        "learned": monitor.shown(trainer.state.max_steps),
        "cost": scoring_cost(model, pairs),
        "history": history,
    }
    (out / "training.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def set_dropout(model: torch.nn.Module, share: float) -> None:
    """Give every dropout of a BERT this share."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
