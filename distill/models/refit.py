"""A cut model's weights fitted again, layer by layer, so that its states come as near to its teacher's as they can.

Where layers and dimensions are gone, what is left meets other inputs than those it was trained on. Each linear layer in
turn gets the weights that, from what it now sees, come nearest to what the teacher computes in its place: linear least
squares, as in He, Zhang, Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.1, and Kwon
et al. 2022, section 4.3. It takes seconds and spares the training its longest part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertForSequenceClassification

from rankdistill.data.records import Int64
from rankdistill.data.tokens import PairTokens
from rankdistill.export.torch_models.attention import attend
from rankdistill.export.torch_models.split_bert import positions, split_layers
from rankdistill.models.narrowing import Parts

BATCH = 64  # pairs
# of the inputs' mean square, towards the weights as they are; with a tenth of it a student is nearer to its teacher
# before training and at best as near after: large weights where the data says nothing do not last
RIDGE = 0.03
FREE = 1e-6  # the same for the bias, which is free but for rounding
LEAST = 1e-6  # variance of a normalised dimension that a gain is fitted to

Rows = Sequence[tuple[Tensor, Tensor]]  # what a layer sees and what it should make of it, float [rows, width] each


@dataclass
class Batch:
    """Some pairs on their way through both models.

    Attributes:
        there: bool [pairs, tokens], where there are tokens.
        mask: what is added to attention scores, float [pairs, 1, 1, tokens].
        apart: the same for the student's layers that read query and item apart, float [pairs, 1, tokens, tokens].
        ours: the student's states, float [pairs, tokens, width]; the last layer's of [CLS] alone.
        theirs: the teacher's.
    """

    there: Tensor
    mask: Tensor
    apart: Tensor
    ours: Tensor
    theirs: Tensor

    def climb(self, layers: Iterable[Any]) -> None:
        """Take the teacher's states through these layers of it."""
        for layer in layers:
            self.theirs = layer(self.theirs, self.mask)

    def rows(self, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states of the tokens that there are, or of [CLS] where we have no others."""
        if ours.shape[1] == 1:
            return ours[:, 0], theirs[:, 0]
        return ours[self.there], theirs[self.there]


@dataclass(frozen=True)
class Wanted:
    """What a teacher's layer computes of the parts that are kept, float [pairs, tokens, kept] each.

    Attributes:
        query: times what makes up for another head size.
        key: keys.
        value: values.
        attended: what goes into the first LayerNorm.
        attended_norm: what comes out of it.
        inner: what goes into the activation.
        fed: what goes into the second LayerNorm.
        fed_norm: what comes out of it.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    attended: Tensor
    attended_norm: Tensor
    inner: Tensor
    fed: Tensor
    fed_norm: Tensor

    @classmethod
    def of(cls, layer: Any, batch: Batch, parts: Parts, number: int, *, scale: float, first_only: bool) -> Wanted:
        """Compute it, the number of the student's layer telling which parts; of [CLS] alone where that has no others.

        Keys and values are those of all tokens even so.
        """
        hidden, products, values, neurons = (
            torch.from_numpy(each)
            for each in (parts.hidden, parts.products[number], parts.values[number], parts.neurons[number])
        )
        attention, theirs = layer.attention, batch.theirs
        rows = theirs[:, :1] if first_only else theirs
        context = attend(attention.self, rows, theirs, batch.mask)
        attended = attention.output.dense(context) + rows
        attended_norm = attention.output.LayerNorm(attended)
        inner = layer.intermediate.dense(attended_norm)
        fed = layer.output.dense(layer.intermediate.intermediate_act_fn(inner)) + attended_norm
        return cls(
            query=attention.self.query(rows)[..., products] * scale,
            key=attention.self.key(theirs)[..., products],
            value=attention.self.value(theirs)[..., values],
            attended=attended[..., hidden],
            attended_norm=attended_norm[..., hidden],
            inner=inner[..., neurons],
            fed=fed[..., hidden],
            fed_norm=layer.output.LayerNorm(fed)[..., hidden],
        )


@torch.no_grad()
def refit(
    student: BertForSequenceClassification,
    teacher: BertForSequenceClassification,
    layers: Sequence[int],
    parts: Parts,
    pairs: PairTokens,
    rows: Int64,
) -> None:
    """Fit all of a student's weights but the embedding tables.

    Args:
        student: changed in place; on the CPU, in fp32.
        teacher: whole.
        layers: the teacher's layers that the student took.
        parts: what it took of them.
        pairs: the training pairs.
        rows: which of them to fit on, int64 [rows]; 10 kB a token are needed with MiniLM.
    """
    batches = [
        _batch(student, teacher, pairs.batch(rows[start : start + BATCH])) for start in range(0, len(rows), BATCH)
    ]
    norm, kept = student.bert.embeddings.LayerNorm, torch.from_numpy(parts.hidden)
    for batch in batches:
        batch.theirs = teacher.bert.embeddings.LayerNorm(batch.theirs)
    _fit_norm(norm, [batch.rows(batch.ours, batch.theirs[..., kept]) for batch in batches])
    for batch in batches:
        batch.ours = norm(batch.ours)
    done, all_layers = 0, teacher.bert.encoder.layer
    scale = math.sqrt(_head_size(student) / _head_size(teacher))
    for number, source in enumerate(layers):
        first_only, apart = number == len(layers) - 1, number < split_layers(student)
        for batch in batches:
            batch.climb(all_layers[done:source])
        wanted = [
            Wanted.of(all_layers[source], batch, parts, number, scale=scale, first_only=first_only) for batch in batches
        ]
        _refit_layer(student.bert.encoder.layer[number], batches, wanted, first_only, apart)
        done = source
    for batch in batches:
        batch.climb(all_layers[done:])
    _refit_head(student, teacher, batches, torch.from_numpy(parts.pooled))


def _refit_layer(layer: Any, batches: Sequence[Batch], wanted: Sequence[Wanted], first_only: bool, apart: bool) -> None:
    """Fit a layer, one linear map after the other, each to what those before it now give; take the batches through."""
    attention, both = layer.attention, list(zip(batches, wanted, strict=True))
    masks = [batch.apart if apart else batch.mask for batch in batches]
    rows = [batch.ours[:, :1] if first_only else batch.ours for batch in batches]
    _fit(attention.self.query, [b.rows(r, w.query) for (b, w), r in zip(both, rows, strict=True)])
    _fit(attention.self.key, [(b.ours[b.there], w.key[b.there]) for b, w in both])
    _fit(attention.self.value, [(b.ours[b.there], w.value[b.there]) for b, w in both])
    seen = [attend(attention.self, r, b.ours, mask) for b, r, mask in zip(batches, rows, masks, strict=True)]
    rows = _refit_writer(
        attention.output, seen, rows, batches, [w.attended for w in wanted], [w.attended_norm for w in wanted]
    )
    _fit(layer.intermediate.dense, [b.rows(r, w.inner) for (b, w), r in zip(both, rows, strict=True)])
    seen = [layer.intermediate(r) for r in rows]
    rows = _refit_writer(layer.output, seen, rows, batches, [w.fed for w in wanted], [w.fed_norm for w in wanted])
    for batch, made in zip(batches, rows, strict=True):
        batch.ours = made


def _refit_writer(
    output: Any,
    seen: Sequence[Tensor],
    residual: Sequence[Tensor],
    batches: Sequence[Batch],
    sums: Sequence[Tensor],
    norms: Sequence[Tensor],
) -> list[Tensor]:
    """Fit what is added to the residual, so that the sum is the teacher's, then LayerNorm; return what comes out."""
    missing = [total - r for total, r in zip(sums, residual, strict=True)]
    _fit(output.dense, [b.rows(s, m) for b, s, m in zip(batches, seen, missing, strict=True)])
    made = [output.dense(s) + r for s, r in zip(seen, residual, strict=True)]
    _fit_norm(output.LayerNorm, [b.rows(m, n) for b, m, n in zip(batches, made, norms, strict=True)])
    return [output.LayerNorm(m) for m in made]


def _refit_head(student: Any, teacher: Any, batches: Sequence[Batch], pooled: Tensor) -> None:
    ours, theirs = (torch.cat([getattr(b, name)[:, 0] for b in batches]) for name in ("ours", "theirs"))
    wanted = teacher.bert.pooler.dense(theirs)
    _fit(student.bert.pooler.dense, [(ours, wanted[:, pooled])])
    scores = teacher.classifier(torch.tanh(wanted))
    _fit(student.classifier, [(torch.tanh(student.bert.pooler.dense(ours)), scores)])


def _fit(linear: nn.Linear, rows: Rows) -> None:
    """Give a linear layer the weights of least squares, ridge-regressed towards those it has."""
    width = linear.in_features
    gram, error, count = torch.zeros(width + 1, width + 1), torch.zeros(width + 1, linear.out_features), 0
    for inputs, wanted in rows:
        ones = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
        gram = gram + ones.T @ ones
        error = error + ones.T @ (wanted - linear(inputs))
        count += len(inputs)
    pull = RIDGE * gram.diagonal()[:-1].mean().expand(width)
    ridge = torch.diag(torch.cat([pull, torch.tensor([FREE * count])]))
    change = torch.linalg.solve((gram + ridge).double(), error.double()).float()
    linear.weight.add_(change[:-1].T)
    linear.bias.add_(change[-1])


def _fit_norm(norm: nn.LayerNorm, rows: Rows) -> None:
    """Give a LayerNorm the gains and biases of least squares, dimension by dimension."""
    seen, wanted = (torch.cat(each) for each in zip(*rows, strict=True))
    seen = functional.layer_norm(seen, norm.normalized_shape, eps=norm.eps)
    centred = seen - seen.mean(dim=0)
    gains = (centred * wanted).mean(dim=0) / (centred**2).mean(dim=0).clamp_min(LEAST)
    norm.weight.copy_(gains)
    norm.bias.copy_(wanted.mean(dim=0) - gains * seen.mean(dim=0))


def _batch(
    student: BertForSequenceClassification, teacher: BertForSequenceClassification, inputs: dict[str, Int64]
) -> Batch:
    """Return pairs with both models' embeddings before LayerNorm."""
    given = {name: torch.from_numpy(value) for name, value in inputs.items()}
    there = given["attention_mask"].bool()
    types = given["token_type_ids"]
    seen = there[:, None, None], ((types[:, :, None] == types[:, None, :]) & there[:, None, :])[:, None]
    mask, apart = (torch.zeros(each.shape).masked_fill(~each, torch.finfo(torch.float32).min) for each in seen)
    return Batch(there, mask, apart, _embedded(student, given), _embedded(teacher, given))


def _embedded(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    tables, ids, types = model.bert.embeddings, inputs["input_ids"], inputs["token_type_ids"]
    places = torch.arange(ids.shape[1]).expand_as(ids)
    if split_layers(model):
        places = positions(inputs["attention_mask"], types, model.config.item_position)
    words = tables.word_embeddings(ids) + tables.token_type_embeddings(types)
    return torch.as_tensor(words + tables.position_embeddings(places))


def _head_size(model: BertForSequenceClassification) -> int:
    return int(model.config.hidden_size) // int(model.config.num_attention_heads)
