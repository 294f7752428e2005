"""What each part of a model is worth to its ranking: heads, dimensions and neurons, by masks or by weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from rankdistill.data.records import Float32, Int64
from rankdistill.data.tokens import PairTokens
from rankdistill.losses import score_losses
from rankdistill.models.masked_bert import Masks, masked_scores
from rankdistill.training.steps import NONE, draw_steps

GROUP = 8  # candidates of a query that are compared
BATCH = 4  # groups whose gradients are taken at once


@dataclass(frozen=True)
class Importance:
    """What parts are worth, never below 0; only the order within an array means something.

    Attributes:
        hidden: dimensions of the residual stream, float32 [hidden].
        heads: attention heads, float32 [layers, heads].
        products: dimensions in which queries meet keys, head by head, float32 [layers, hidden].
        values: dimensions of values, head by head, float32 [layers, hidden].
        neurons: of the feed-forward, float32 [layers, neurons].
        pooled: dimensions of the pooler's output, float32 [hidden].
    """

    hidden: Float32
    heads: Float32
    products: Float32
    values: Float32
    neurons: Float32
    pooled: Float32

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Importance:
        """Return it from tensors of these names and shapes."""
        return cls(**{name: tensor.detach().numpy().astype(np.float32) for name, tensor in tensors.items()})


def measure(
    model: BertForSequenceClassification,
    pairs: PairTokens,
    teacher: Float32,
    *,
    criterion: str,
    count: int,
    seed: int,
) -> Importance:
    """Measure what parts are worth by the criterion of a name: fisher, taylor or magnitude.

    One thread computes it, so that sums, and what is chosen by them, hang on no number of threads.

    Args:
        model: a cross-encoder on the CPU, in fp32.
        pairs: the training pairs.
        teacher: the teacher's logits of them, float32 [pairs].
        criterion: one of `rankdistill.options.ranges.CRITERIA`.
        count: about how many of the pairs to take.
        seed: of which.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if criterion == "fisher":
            return fisher(model, pairs, count, seed)
        return taylor(model, pairs, teacher, count, seed) if criterion == "taylor" else magnitude(model)
    finally:
        torch.set_num_threads(threads)


def fisher(model: BertForSequenceClassification, pairs: PairTokens, count: int, seed: int) -> Importance:
    """Measure the mean square of a margin's gradient by each mask.

    A student that equals its teacher has a distillation loss and a gradient of 0; what masks do to the squared
    difference of margins begins with the second order, whose Gauss-Newton term for mask m is E[(d margin / dm)^2] / 2:
    the mask variables' Fisher information (Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers",
    section 4.1; LeCun et al. 1990, "Optimal Brain Damage"), here of margins between a query's candidates.

    Args:
        model: a cross-encoder.
        pairs: the training pairs.
        count: about how many of them to take.
        seed: of which.
    """
    total = {name: torch.zeros(mask.shape[1:]) for name, mask in Masks.ones(model, 1).tensors().items()}
    for rows in _groups(pairs, count, seed):
        masks, scores = _score(model, pairs, rows)
        tensors = masks.tensors()
        gradients = torch.autograd.grad(scores.sum(), list(tensors.values()))
        sizes = torch.from_numpy((rows != NONE).sum(axis=1))
        for name, gradient in zip(tensors, gradients, strict=True):
            for group in torch.split(gradient, sizes.tolist()):
                total[name] += ((group - group.mean(dim=0)) ** 2).sum(dim=0)
    return Importance.of(total)


def taylor(
    model: BertForSequenceClassification, pairs: PairTokens, teacher: Float32, count: int, seed: int
) -> Importance:
    """Measure how much the margin-MSE to the teacher would change, to the first order, were a part gone.

    |sum of d loss / dm| at masks m = 1 (Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning",
    section 3.1, with gates). It says nothing where the model equals its teacher: the gradient is 0 there.

    Args:
        model: a cross-encoder.
        pairs: the training pairs.
        teacher: the teacher's logits of them, float32 [pairs].
        count: about how many of them to take.
        seed: of which.
    """
    total = {name: torch.zeros(mask.shape[1:]) for name, mask in Masks.ones(model, 1).tensors().items()}
    for rows in _groups(pairs, count, seed):
        masks, logits = _score(model, pairs, rows)
        there = torch.from_numpy(rows != NONE)
        scores = torch.zeros(there.shape).masked_scatter(there, logits)
        wanted = torch.from_numpy(teacher[rows])
        tensors = masks.tensors()
        gradients = torch.autograd.grad(score_losses.margin_mse(scores, wanted, there), list(tensors.values()))
        for name, gradient in zip(tensors, gradients, strict=True):
            total[name] += gradient.sum(dim=0)
    return Importance.of({name: value.abs() for name, value in total.items()})


def magnitude(model: BertForSequenceClassification) -> Importance:
    """Measure the L2 norm of the weights that would go with each part (Li et al. 2017, with L2 in place of L1).

    The word table is left out of the hidden dimensions' norms, which it would drown.
    """
    config = model.config
    found: dict[str, list[Tensor]] = {"products": [], "values": [], "neurons": []}
    stream = torch.zeros(config.hidden_size)
    for layer in model.bert.encoder.layer:
        attention, output = layer.attention.self, layer.attention.output.dense
        found["products"].append(attention.query.weight.norm(dim=1) * attention.key.weight.norm(dim=1))
        found["values"].append(attention.value.weight.norm(dim=1) * output.weight.norm(dim=0))
        found["neurons"].append(layer.intermediate.dense.weight.norm(dim=1) * layer.output.dense.weight.norm(dim=0))
        for reader in (attention.query, attention.key, attention.value, layer.intermediate.dense):
            stream = stream + (reader.weight**2).sum(dim=0)
        for writer in (output, layer.output.dense):
            stream = stream + (writer.weight**2).sum(dim=1)
    parts = {name: torch.stack(values) for name, values in found.items()}
    by_head = (-1, config.num_attention_heads, config.hidden_size // config.num_attention_heads)
    parts["heads"] = parts["products"].reshape(by_head).sum(dim=2) * parts["values"].reshape(by_head).sum(dim=2)
    parts["hidden"] = stream.sqrt()
    parts["pooled"] = model.bert.pooler.dense.weight.norm(dim=1) * model.classifier.weight[0].abs()
    return Importance.of(parts)


def _groups(pairs: PairTokens, count: int, seed: int) -> Iterator[Int64]:
    """Yield pair rows int64 [groups, size] of `count` pairs in all."""
    steps = draw_steps(
        pairs.split, pairs.lengths, size=GROUP, batch=BATCH, tokens=None, epochs=1, max_pairs=count, seed=seed
    )
    for step in range(len(steps)):
        yield steps[step]


def _score(model: BertForSequenceClassification, pairs: PairTokens, rows: Int64) -> tuple[Masks, Tensor]:
    inputs = {name: torch.from_numpy(value) for name, value in pairs.batch(rows[rows != NONE]).items()}
    masks = Masks.ones(model, len(inputs["input_ids"]))
    return masks, masked_scores(model, inputs, masks)
