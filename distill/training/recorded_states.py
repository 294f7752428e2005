"""The states of a BERT's tokens, kept by forward hooks while a batch goes through it; the model itself is untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification

from rankdistill.export.torch_models.cls_only import ClsOnlyBert, EveryTokenBert


class Place(NamedTuple):
    """Where a state is had from.

    Attributes:
        part: a name of `PARTS`.
        layer: from 0; 0 for the embedding, which has none.
    """

    part: str
    layer: int


PARTS: dict[str, Callable[[BertForSequenceClassification, int], nn.Module]] = {
    "embedding": lambda model, _: model.bert.embeddings,
    "output": lambda model, layer: model.bert.encoder.layer[layer],
    "query": lambda model, layer: model.bert.encoder.layer[layer].attention.self.query,
    "key": lambda model, layer: model.bert.encoder.layer[layer].attention.self.key,
    "value": lambda model, layer: model.bert.encoder.layer[layer].attention.self.value,
}


def every_token(model: ClsOnlyBert) -> BertForSequenceClassification:
    """Return the same model, its modules shared, with a last layer that computes every token."""
    with torch.device("meta"):  # its own modules are not wanted
        ordinary = EveryTokenBert(model.config)
    ordinary.bert, ordinary.dropout, ordinary.classifier = model.bert, model.dropout, model.classifier
    return ordinary.train(model.training)


@contextmanager
def recording(model: BertForSequenceClassification, places: Iterable[Place]) -> Iterator[dict[Place, Tensor]]:
    """Keep what one forward pass within the context gives at these places.

    Args:
        model: whose last layer computes every token.
        places: of the model.

    Yields:
        States, float [pairs, tokens, width], of every place once the pass is done. They live as long as the caller
        keeps them: the model has no hooks beyond the context.

    Raises:
        TypeError: if the model computes its last layer for [CLS] alone.
        RuntimeError: from a second pass within the context, whose states would take the place of the first one's.
    """
    if isinstance(model, ClsOnlyBert):
        raise TypeError("a ClsOnlyBert has no states of its last layer's other tokens")
    states: dict[Place, Tensor] = {}
    hooks = [PARTS[place.part](model, place.layer).register_forward_hook(_keep(states, place)) for place in set(places)]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def _keep(states: dict[Place, Tensor], place: Place) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_: nn.Module, __: Any, output: Tensor) -> None:
        if place in states:
            raise RuntimeError(f"a second forward pass while {place.part} of layer {place.layer} is recorded")
        states[place] = output

    return hook
