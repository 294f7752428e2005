"""Which of a student's parameters an update changes: the head, the last layers, low-rank changes, or all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn
from transformers import BertForSequenceClassification

from rankdistill.errors import ConfigError
from rankdistill.export.extras import require
from rankdistill.models import pruned_embedding
from rankdistill.options import AllUpdate, HeadUpdate, LoraUpdate, TopLayersUpdate, Update

ADAPTED = ["query", "key", "value", "dense"]  # every linear map of a BERT but the classifier


def open_up(model: BertForSequenceClassification, update: Update, freeze_embeddings: bool) -> Callable[[], None]:
    """Let what an update changes learn, and nothing else.

    Args:
        model: a cross-encoder; with `lora`, low-rank adapters are put into it.
        update: its kind says what changes.
        freeze_embeddings: whether `all` leaves them as they are.

    Returns:
        What is called after training: it gives the model its ordinary parameters again.

    Raises:
        ConfigError: if there are fewer layers than are to change.
        UserError: if peft is asked for and not installed.
    """
    model.requires_grad_(False)
    if isinstance(update, LoraUpdate):
        return _adapt(model, update)
    learning: list[nn.Module] = [model.bert.pooler, model.classifier]
    if isinstance(update, TopLayersUpdate):
        layers = model.bert.encoder.layer
        if update.k > len(layers):
            raise ConfigError(f"update.k={update.k}: the student has {len(layers)} layers; allowed is 1 to that")
        learning += layers[-update.k :]
    elif isinstance(update, AllUpdate):
        learning += [model.bert.encoder, *([] if freeze_embeddings else [model.bert.embeddings])]
    else:
        assert isinstance(update, HeadUpdate)
    if not freeze_embeddings and isinstance(update, AllUpdate):
        pruned_embedding.tie(model)  # a pruned vocabulary stays one
    for module in learning:
        module.requires_grad_(True)
    return partial(pruned_embedding.expand, model)


def _adapt(model: BertForSequenceClassification, update: LoraUpdate) -> Callable[[], None]:
    """Put adapters beside every linear map (Hu et al. 2022, "LoRA", section 4.1): W + alpha / rank * B A, B = 0."""
    require("online", "peft")
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=update.rank, lora_alpha=update.alpha, target_modules=ADAPTED, lora_dropout=0.0, bias="none")
    adapted = get_peft_model(model, config)  # changes `model` itself

    def merge() -> None:
        adapted.base_model.merge_and_unload(safe_merge=True)

    return merge
