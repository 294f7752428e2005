"""Distil a BERT ranker into a small student, quantize it, and serve it: what a program imports.

`Ranker`, `Cascade` and `Embedder` score with a bundle, `EventLog` records what became of it, `verify` checks a bundle.
They need numpy, onnxruntime and tokenizers alone, and are loaded when they are first asked for.
"""

from __future__ import annotations

import rankdistill.export  # noqa: F401 - first: it silences libraries that would tell their makers of their use

# isort: split
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankdistill.export.bundle.verification import verify
    from rankdistill.export.runtime.cascade import Cascade
    from rankdistill.export.runtime.embedder import Embedder
    from rankdistill.export.runtime.event_log import EventLog
    from rankdistill.export.runtime.ranker import Ranked, Ranker

    __version__: str

if __name__ != "rankdistill":  # second copies of all modules would not know of each other
    raise ImportError(f"the folder {__name__}/ is the package rankdistill: import rankdistill")

__all__ = ["Cascade", "Embedder", "EventLog", "Ranked", "Ranker", "__version__", "verify"]
PLACES = {
    "Cascade": "runtime.cascade",
    "Embedder": "runtime.embedder",
    "EventLog": "runtime.event_log",
    "Ranked": "runtime.ranker",
    "Ranker": "runtime.ranker",
    "verify": "bundle.verification",
}


def __getattr__(name: str) -> Any:
    """Load what is first asked for."""
    if name in PLACES:
        return getattr(import_module(f"rankdistill.export.{PLACES[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("rankdistill")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
