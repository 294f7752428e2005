"""A split ranker: its lower layers read query and item apart, so that an item's states can be computed beforehand.

MacAvaney et al. 2020, "Efficient Document Re-Ranking for Transformers by Precomputing Term Representations" (PreTTR):
in the lower layers a token attends to the tokens of its own text alone. An item's states must not hang on the query's
length either, so items begin at one position for all queries.
"""

from __future__ import annotations

import torch
from huggingface_hub.dataclasses import strict
from transformers import BertConfig, BertForSequenceClassification

from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from rankdistill.export.torch_models.packing import Packing

MODEL_TYPE = "split_bert"  # a library that reads it as an ordinary BERT would give other scores: so none can


@strict
class SplitBertConfig(BertConfig):  # type: ignore[misc]
    """BertConfig with what a split ranker needs.

    Attributes:
        split_layers: how many lower layers read query and item apart.
        item_position: position of an item's first token.
    """

    model_type = MODEL_TYPE

    split_layers: int = 1
    item_position: int = 0


class SplitBert(ClsOnlyBert):
    """A [CLS]-only BERT whose lower layers read query and item apart; same parameters as an ordinary one's."""

    config_class = SplitBertConfig

    def _positions(self, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        return positions(attention_mask, token_type_ids, self.config.item_position)

    def _seen(self, packing: Packing, types: torch.Tensor) -> list[Packing]:
        apart, joint = self.config.split_layers, len(self.bert.encoder.layer) - 1 - self.config.split_layers
        return [packing.apart(types)] * apart + [packing] * joint


def split_layers(model: BertForSequenceClassification) -> int:
    """Return how many of a ranker's lower layers read query and item apart; 0 of an ordinary one."""
    return int(model.config.split_layers) if isinstance(model, SplitBert) else 0


def positions(attention_mask: torch.Tensor, token_type_ids: torch.Tensor, item_position: int) -> torch.Tensor:
    """Return the position of each token, int64 [pairs, tokens]: an item's are counted from `item_position`."""
    steps = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    queries = (attention_mask * (1 - token_type_ids)).sum(dim=1, keepdim=True)
    return torch.where(token_type_ids == 1, steps - queries + item_position, steps)


def split(model: ClsOnlyBert, layers: int, item_position: int) -> SplitBert:
    """Return a model with the same parameters whose lower `layers` read query and item apart."""
    told = model.config.to_dict() | {"split_layers": layers, "item_position": item_position}
    config = SplitBertConfig(**told, attn_implementation=model.config._attn_implementation)
    made: SplitBert = SplitBert(config).to(model.device).eval()
    made.load_state_dict(model.state_dict())
    return made
