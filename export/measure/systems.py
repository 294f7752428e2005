"""The models side by side: each a checkpoint or a graph, opened the way it is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rankdistill.export.graphs.graph_files import STATES, halves
from rankdistill.export.runtime.scorer import BatchScorer, Float32, PairScorer
from rankdistill.export.runtime.split_scorer import SplitScorer
from rankdistill.export.runtime.text.tokens import PairEncoder

STATES_MB = 4096.0  # of items' states: nothing that is measured has more
BATCH = 32  # of the padded, length-sorted batches that fp32 models are scored in


class Scorer(Protocol):
    """Scores a query's candidates."""

    def score(self, query: str, items: Sequence[str]) -> Float32:
        """Return raw logits, float32 [items]."""

    def close(self) -> None:
        """Give back what it holds."""


@dataclass(frozen=True)
class System:
    """A model as it is measured.

    Attributes:
        model: "teacher" or "student".
        engine: "pytorch", "onnxruntime", "openvino", or "states": onnxruntime with items' states computed before.
        precision: "fp32", "int8" or "weight8"; of OpenVINO "fp32" or "bf16", of the same graph.
        checkpoint: folder with the tokenizer (and, for PyTorch, the weights).
        graph: ONNX file, whose halves are run where the engine is "states"; None for PyTorch.
        max_length: tokens of a pair.
        params: parameters of the checkpoint.
    """

    model: str
    engine: str
    precision: str
    checkpoint: Path
    graph: Path | None
    max_length: int
    params: int

    @property
    def name(self) -> str:
        """The three words of a row."""
        return f"{self.model} {self.engine} {self.precision}"

    @property
    def size_mb(self) -> float:
        """Size of the files with the weights, in 10^6 bytes."""
        files = [self.graph or self.checkpoint / "model.safetensors"] if self.engine != STATES else self._halves
        return sum(file.stat().st_size for file in files) / 1e6

    @property
    def _halves(self) -> tuple[Path, Path]:
        assert self.graph is not None
        lower, upper = halves(self.graph.name)
        return self.graph.with_name(lower), self.graph.with_name(upper)

    def open(self, threads: int) -> Scorer:
        """Load the model: 8 bits and states score pair by pair over a thread pool, fp32 and OpenVINO in batches.

        Raises:
            ModelError: if it cannot be loaded.
        """
        if self.graph is None:
            from rankdistill.export.measure.pytorch_scorer import PytorchScorer

            return PytorchScorer(self.checkpoint, self.max_length, threads, BATCH)
        encoder = PairEncoder.load(self.checkpoint, self.max_length)
        if self.engine == "openvino":
            from rankdistill.export.measure.openvino_scorer import OpenvinoScorer

            return OpenvinoScorer(self.graph, encoder, threads, self.precision)
        if self.engine == STATES:
            return SplitScorer(self._halves, encoder, threads, None, STATES_MB)
        if self.precision == "fp32":
            return BatchScorer(self.graph, encoder, threads, BATCH)
        return PairScorer(self.graph, encoder, threads)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, for a process that measures it."""
        return {
            "model": self.model,
            "engine": self.engine,
            "precision": self.precision,
            "checkpoint": str(self.checkpoint),
            "graph": str(self.graph) if self.graph else None,
            "max_length": self.max_length,
            "params": self.params,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> System:
        """Read what `as_json` made."""
        paths = {"checkpoint": Path(fields["checkpoint"]), "graph": Path(fields["graph"]) if fields["graph"] else None}
        return cls(**(fields | paths))
