"""A ranker's checkpoint: read into the class that computes it, and written as what it is."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import BertForSequenceClassification

from rankdistill.export.errors import ModelError
from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from rankdistill.export.torch_models.loading import load_whole
from rankdistill.export.torch_models.no_bars import no_bars
from rankdistill.export.torch_models.split_bert import MODEL_TYPE, SplitBert

ORDINARY = "BertForSequenceClassification"  # the architecture that a checkpoint states, whichever class wrote it


def load_ranker(folder: str, *, cls_only: bool, attention: str = "sdpa") -> BertForSequenceClassification:
    """Load a cross-encoder's checkpoint in fp32, in evaluation mode; a split one as what it is, `cls_only` or not.

    Raises:
        ModelError: if it is no BERT with one output, or not all of it would be loaded.
    """
    kind = SplitBert if _is_split(Path(folder)) else ClsOnlyBert if cls_only else BertForSequenceClassification
    model: BertForSequenceClassification = load_whole(kind, folder, attn_implementation=attention)
    if model.config.model_type not in ("bert", MODEL_TYPE) or model.config.num_labels != 1:
        raise ModelError(
            f"{folder} is a {model.config.model_type} with {model.config.num_labels} outputs; a ranker here is a BERT "
            "cross-encoder with one"
        )
    return model.eval()


def save_ranker(model: BertForSequenceClassification, folder: str) -> None:
    """Save a checkpoint that every library loads, whichever class `model` is; a split one, that none reads wrongly."""
    with no_bars():
        model.save_pretrained(folder)
    if not isinstance(model, SplitBert):
        model.config.architectures = [ORDINARY]
        model.config.save_pretrained(folder)


def _is_split(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # transformers tells of it in its own words
        return False
    return isinstance(config, dict) and config.get("model_type") == MODEL_TYPE
