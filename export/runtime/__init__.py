"""The serving half: numpy, onnxruntime and tokenizers only."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankdistill.export.runtime.embedder import Embedder
    from rankdistill.export.runtime.ranker import Ranked, Ranker

__all__ = ["Embedder", "Ranked", "Ranker"]
PLACES = {"Embedder": "embedder", "Ranked": "ranker", "Ranker": "ranker"}


def __getattr__(name: str) -> Any:
    """Load the engine when one of these is first asked for: naming a file of a bundle must not."""
    if name in PLACES:
        return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
