"""Models of transformers whose every weight is their checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rankdistill.export.errors import ModelError
from rankdistill.export.torch_models.bert_weights import HARMLESS, named
from rankdistill.export.torch_models.no_bars import no_bars


def load_whole(kind: Any, folder: str | Path, *, may_lack: tuple[str, ...] = (), **options: Any) -> Any:
    """Load a model in fp32, and refuse it if a part of it would begin at random or is left out.

    Args:
        kind: class of transformers.
        folder: of the checkpoint.
        may_lack: beginnings of the names of weights that may be new.
        options: of `from_pretrained`.

    Raises:
        ModelError: naming weights that are missing, unknown, of another shape, or not finite.
    """
    try:
        with no_bars():
            model, told = kind.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # those are told with the rest
                **options,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder} is no BERT checkpoint: {_reason(error)}") from error
    if problem := _unloaded(told, may_lack, hasattr(model, "classifier")):
        raise ModelError(f"{folder} would be loaded in part; {problem}")
    for name, value in model.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"{folder}: {name} holds values that are not finite")
    return model


def _reason(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[:2]) if isinstance(error, RuntimeError) else lines[0]


def _unloaded(told: Mapping[str, Any], may_lack: tuple[str, ...], ranks: bool) -> str:
    """Return which weights did not load; the head of a cross-encoder is unknown to an encoder alone."""
    missing = sorted(name for name in told["missing_keys"] if not name.startswith(may_lack or "\0"))
    unexpected = sorted(
        name
        for name in told["unexpected_keys"]
        if not HARMLESS.fullmatch(name) and (ranks or not name.startswith("classifier."))
    )
    other = [str(each[0]) for each in told["mismatched_keys"]]
    found = (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
    return "; ".join(f"{what}: {named(names)}" for what, names in found if names)
