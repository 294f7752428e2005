"""Training a cross-encoder over groups of one query's candidates, on transformers' Trainer."""

from __future__ import annotations

import json
import logging
import os
import shutil
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
    TrainingArguments,
)
from transformers.models.bert.modeling_bert import BertSdpaSelfAttention

from distill import ranks
from distill.batches import Collator
from distill.cost import scoring_cost
from distill.device import Device
from distill.errors import ConfigError
from distill.groups import Steps, draw_steps
from distill.imitation import PROJECTIONS, Imitation
from distill.rules import problem
from distill.schema import Fit, Train
from distill.scores import score_rows
from distill.tokens import PairTokens
from distill.training_progress import METRIC, LastEvaluation, ProgressCallback
from export.measure.quality import ranking_metrics
from export.progress import Progress
from export.runtime.scorer import Float32

log = logging.getLogger(__name__)

Loss = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
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
        score_batch: int,
        head_rate: float,
        **arguments: Any,
    ) -> None:
        super().__init__(eval_dataset=dev, **arguments)
        self._head_rate, self._watch = head_rate, watch
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
        loss = (self._loss(scores, inputs) + imitated) * inputs["weight"]
        return (loss, outputs) if return_outputs else loss

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
        metrics = {f"eval_{METRIC}": float(np.nanmean(values))}
        self.log(metrics)
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

    Raises:
        ConfigError: if it diverged.
    """
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
        score_batch=train.score_batch,
        head_rate=fit.head_rate,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(LastEvaluation())
    trainer.add_callback(ProgressCallback(what, steps.pairs / max(1, -(-len(steps) // train.accumulate))))
    try:
        trainer.train(resume_from_checkpoint=last_checkpoint(Path(arguments.output_dir)))
    except DivergedError as error:
        told = problem("fit.learning_rate", f"{fit.learning_rate:g}", f"less, since {error}")
        raise ConfigError(f"{what}: {told}") from error
    history = [entry for entry in trainer.state.log_history if f"eval_{METRIC}" in entry or "loss" in entry]
    result = {
        "steps": trainer.state.max_steps,
        "kept": fit.keep,
        "best_step": trainer.state.best_global_step,
        f"best_dev_{METRIC}": trainer.state.best_metric,
        "cost": scoring_cost(model, pairs),
        "history": history,
    }
    (out / "training.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def set_dropout(model: torch.nn.Module, share: float) -> None:
    """Give every dropout of a BERT this share."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
        elif isinstance(module, BertSdpaSelfAttention):
            module.dropout_prob = share  # it asks a number of its own, not its Dropout


def forget_precision() -> None:
    """Let TrainingArguments' own bf16 decide: an earlier training of this process has left its precision behind.

    transformers writes it into this variable, and takes what stands there where bf16 is False.
    """
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)


def training_arguments(fit: Fit, train: Train, device: Device, batches: int, seed: int, out: Path) -> TrainingArguments:
    """Return the Trainer's arguments; `fit.evaluations` evaluations and checkpoints, the last at the end."""
    forget_precision()
    ranks = max(1, TrainingArguments(output_dir=str(out), use_cpu=not torch.cuda.is_available()).world_size)
    steps = max(1, -(-batches // (train.accumulate * ranks)))
    every = -(-steps // fit.evaluations)
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        logging_dir=str(out / "tracker"),  # kept with the stage; checkpoints are not
        num_train_epochs=1,
        per_device_train_batch_size=1,  # a step's groups
        gradient_accumulation_steps=train.accumulate,
        learning_rate=fit.learning_rate,
        warmup_ratio=fit.warmup,
        weight_decay=fit.weight_decay,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        bf16=device.bf16,
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=fit.keep == "best",
        metric_for_best_model=METRIC,
        greater_is_better=True,
        logging_steps=max(1, steps // 50),
        report_to=list(train.report_to) or "none",
        remove_unused_columns=False,
        dataloader_num_workers=0,  # tokens are ready and collating takes far less than a step
        disable_tqdm=True,
        log_level="error",
        seed=seed,
        data_seed=seed,
        save_safetensors=True,
        label_names=[],
        ddp_find_unused_parameters=False,
    )


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest whole checkpoint and delete those that a kill tore; the Trainer writes its state file last."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            whole.append(path)
        except (OSError, ValueError):
            if ranks.is_first():  # under torchrun every process looks
                shutil.rmtree(path)
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    if newest is not None:
        log.info("going on from %s", newest.name)
    return str(newest) if newest is not None else None
