"""The serving half: numpy, onnxruntime and tokenizers only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.runtime.ranker import Ranked, Ranker

__all__ = ["Ranked", "Ranker"]


def __getattr__(name: str) -> Any:
    """Load the engine when the ranker is first asked for: naming a file of a bundle must not."""
    if name in __all__:
        from export.runtime import ranker

        return getattr(ranker, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
