"""The teacher beside the student in one step: the part of a loss that compares the states of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from rankdistill.errors import ConfigError
from rankdistill.export.torch_models.checkpoint import load_ranker
from rankdistill.losses import state_losses
from rankdistill.losses.state_terms import Shape, mapped_layers, problems
from rankdistill.options import Attention, Embedding, Hidden, Relations, StateTerm
from rankdistill.training.device import Device
from rankdistill.training.recorded_states import Place, recording
from rankdistill.training.scoring import autocast

PROJECTIONS = "projections"  # the student's module of that name while it trains

States = Sequence[Tensor]


@dataclass(frozen=True)
class Comparison:
    """What one term compares.

    Attributes:
        weight: of the term.
        student: places whose states are compared.
        teacher: as many places.
        loss: takes the states of both and a mask, bool [pairs, tokens]; gives a scalar.
    """

    weight: float
    student: Sequence[Place]
    teacher: Sequence[Place]
    loss: Callable[[States, States, Tensor], Tensor]


class Imitation:
    """Runs the teacher beside the student and compares their states.

    Attributes:
        projections: by term, from the student's width to the teacher's; empty where the widths are equal.
    """

    def __init__(
        self,
        terms: Mapping[str, StateTerm],
        student: BertForSequenceClassification,
        teacher: BertForSequenceClassification,
        *,
        bf16: bool,
    ) -> None:
        ours, theirs = Shape.of(student.config.to_dict()), Shape.of(teacher.config.to_dict())
        if wrong := [*problems(terms, ours, theirs)]:
            raise ConfigError("\n".join(wrong))
        self.projections = {
            name: nn.Linear(ours.hidden_size, theirs.hidden_size, bias=False)
            for name, term in terms.items()
            if isinstance(term, (Hidden, Embedding)) and ours.hidden_size != theirs.hidden_size
        }
        self._comparisons = [
            _comparison(term, ours, theirs, self.projections.get(name)) for name, term in terms.items()
        ]
        self._student, self._teacher, self._bf16 = student, teacher.eval().requires_grad_(False), bf16
        deepest = max(place.layer + (place.part != "embedding") for each in self._comparisons for place in each.teacher)
        teacher.bert.encoder.layer = teacher.bert.encoder.layer[:deepest]  # nobody looks at what lies above

    def __call__(self, model: nn.Module, ids: Mapping[str, Tensor]) -> tuple[SequenceClassifierOutput, Tensor]:
        """Run both models on a batch.

        Args:
            model: the student, in whatever the Trainer wraps it.
            ids: `input_ids`, `attention_mask` and `token_type_ids`, int64 [pairs, tokens].

        Returns:
            The student's output, and the weighted sum of the terms, a scalar.
        """
        device = ids["input_ids"].device
        with recording(self._student, (place for each in self._comparisons for place in each.student)) as ours:
            outputs = model(**ids)
        asked = (place for each in self._comparisons for place in each.teacher)
        with recording(self._teacher.to(device), asked) as theirs, torch.no_grad(), autocast(device, self._bf16):
            self._teacher.bert(**ids)
        mask = ids["attention_mask"].bool()
        values = [
            each.weight * each.loss([ours[at] for at in each.student], [theirs[at] for at in each.teacher], mask)
            for each in self._comparisons
        ]
        return outputs, torch.stack(values).sum()


@contextmanager
def imitating(
    student: BertForSequenceClassification, terms: Mapping[str, StateTerm], teacher: Path | None, device: Device
) -> Iterator[Imitation | None]:
    """Give a student what its training with these terms takes: its teacher, and projections as a module of its own.

    As the student's module, the projections are in the optimizer, in the Trainer's checkpoints and in what torchrun's
    processes average; beyond the context the student is as it was, and trained.

    Args:
        student: whose last layer computes every token, if there are terms.
        terms: by name.
        teacher: its folder; None where there are but its scores.
        device: resolved precision and attention.

    Yields:
        None if there are no terms.

    Raises:
        ConfigError: if there is no teacher, or a term does not fit the two models.
    """
    if not terms:
        yield None
        return
    if teacher is None:
        told = (
            "needs the teacher's model beside the student; where there are but its scores, allowed are terms on scores"
        )
        raise ConfigError("\n".join(f"loss.terms.{name}: {told}" for name in terms))
    model = load_ranker(str(teacher), cls_only=False, attention=device.attention)
    imitation = Imitation(terms, student, model, bf16=device.bf16)
    if not imitation.projections:
        yield imitation
        return
    student.add_module(PROJECTIONS, nn.ModuleDict(imitation.projections))
    try:
        yield imitation
    finally:
        delattr(student, PROJECTIONS)


def unscored(scores: Tensor, _: Mapping[str, Tensor]) -> Tensor:
    """Return 0, the loss on scores where there are terms on states alone.

    It depends on the scores, and so on every parameter: torchrun's processes wait for each one's gradient.
    """
    return 0.0 * scores.sum()


def _comparison(term: StateTerm, student: Shape, teacher: Shape, projection: nn.Linear | None) -> Comparison:
    if isinstance(term, Embedding):
        places = [Place("embedding", 0)]
        return Comparison(
            term.weight,
            places,
            places,
            lambda s, t, mask: state_losses.embedding(s[0], t[0], mask, _weight(projection)),
        )
    if isinstance(term, Relations):
        deepest = teacher.layers - 1 if term.teacher_layer is None else term.teacher_layer
        vectors = ("query", "key", "value")
        return Comparison(
            term.weight,
            [Place(part, student.layers - 1) for part in vectors],
            [Place(part, deepest) for part in vectors],
            lambda s, t, mask: state_losses.relations(s, t, mask, term.heads),
        )
    assert isinstance(term, (Hidden, Attention))
    parts = ("output",) if isinstance(term, Hidden) else ("query", "key")
    layers = mapped_layers(term.layer_map, student.layers, teacher.layers)
    ours = [Place(part, layer) for layer in range(student.layers) for part in parts]
    theirs = [Place(part, layer) for layer in layers for part in parts]
    if isinstance(term, Hidden):
        return Comparison(
            term.weight, ours, theirs, lambda s, t, mask: state_losses.hidden(s, t, mask, _weight(projection))
        )
    return Comparison(
        term.weight,
        ours,
        theirs,
        lambda s, t, mask: state_losses.attention([*_couples(s)], [*_couples(t)], mask, teacher.heads),
    )


def _weight(projection: nn.Linear | None) -> Tensor | None:
    return None if projection is None else projection.weight


def _couples(states: States) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield queries with keys, which follow each other."""
    return zip(states[::2], states[1::2], strict=True)
