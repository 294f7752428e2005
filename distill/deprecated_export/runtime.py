"""`export.runtime` of version 0.1."""

import warnings

from rankdistill import Embedder, Ranked, Ranker

warnings.warn(
    "export.runtime goes with the next release: write `from rankdistill import Ranker`", FutureWarning, stacklevel=2
)

__all__ = ["Embedder", "Ranked", "Ranker"]
