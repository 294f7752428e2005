"""An embedder's checkpoint to ONNX graphs: fp32, and 8 bits as rankers have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors.numpy import load_file

from rankdistill.export.graphs.bert_graph import WEIGHTS, Float32, GraphBuilder, buildable
from rankdistill.export.graphs.graph_files import FP32, GRAPHS_FILE, INT8, INT8_AVX2, WEIGHT8, NodeCounts, count_nodes
from rankdistill.export.quantization.dynamic import quantize_graph
from rankdistill.export.quantization.int8 import int8_row
from rankdistill.export.quantization.saturation import reduce_saturating
from rankdistill.export.quantization.smoothing import Feed, choose_remedies, smooth
from rankdistill.export.quantization.weight8 import write_weight8
from rankdistill.export.runtime.embedder import OUTPUT

DENSE = "4_Projection"  # folder of the linear layer in a sentence-transformers checkpoint
EMBEDDER_FILE = "embedder.json"  # of a checkpoint: pooling, max_length, dimensions, kind
PROJECTION = "projection"
LEAST = 1e-12  # length of a pooled vector that is divided by, as torch's normalize has it


@dataclass(frozen=True)
class EmbedderInt8:
    """How an embedder's graph becomes dynamic int8; see `rankdistill.export.quantization.int8.Int8`.

    Attributes:
        per_channel: whether every output channel of a weight has a scale of its own.
        reduce_range: whether weights take 7 bits.
        smooth: strength of smoothing, from 0 to 1; None for none.
        outliers: channels of an activation that may be kept apart in fp32; 0 for none.
        feeds: real texts as the graph's inputs, which smoothing is fitted to.
    """

    per_channel: bool
    reduce_range: bool
    smooth: float | None
    outliers: int
    feeds: Sequence[Feed]

    def write(self, folder: Path) -> list[dict[str, object]]:
        """Write the int8 graphs beside the fp32 one; the projection, which is small and last, stays fp32."""
        model = onnx.load(str(folder / FP32))
        keep = [f"{PROJECTION}.product"]
        if self.smooth is not None or self.outliers:
            remedies = choose_remedies(model, self.feeds, strength=self.smooth, outliers=self.outliers)
            model = smooth(model, remedies, keep)
        counts = quantize_graph(
            model, folder / INT8, per_channel=self.per_channel, reduce_range=self.reduce_range, keep=keep
        )
        narrow = reduce_saturating(model, folder / INT8, folder / INT8_AVX2, per_channel=self.per_channel, keep=keep)
        return [int8_row(folder, INT8, False, counts), int8_row(folder, INT8_AVX2, False, narrow)]


@dataclass(frozen=True)
class EmbedderWeight8:
    """Weights alone in 8 bits."""

    def write(self, folder: Path) -> list[dict[str, object]]:
        """Write the graph beside the fp32 one."""
        return [_row(WEIGHT8, "weight8", write_weight8(folder / FP32, folder / WEIGHT8))]


def write_embedder_graphs(
    checkpoint: Path, out: Path, *, opset: int, quantization: EmbedderInt8 | EmbedderWeight8 | None
) -> None:
    """Write the graphs of an embedder into `out`, and what each holds into graphs.json.

    Args:
        checkpoint: folder of a sentence-transformers model: BERT, pooling, normalising, a linear layer.
        out: folder to write to.
        opset: of the graphs.
        quantization: how 8-bit graphs are made; None for none.

    Raises:
        ModelError: if the checkpoint has something that is not built here.
        GraphError: if less was quantized than asked for.
    """
    builder = _EmbedderBuilder.of(checkpoint)
    onnx.save(builder.embedding(opset), str(out / FP32))
    rows = [_row(FP32, "fp32", count_nodes(out / FP32))]
    if quantization is not None:
        rows += quantization.write(out)
    (out / GRAPHS_FILE).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def read_about(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself: kind, pooling (mean, cls, pooler), max_length, dimensions, width."""
    return dict(json.loads((checkpoint / EMBEDDER_FILE).read_text(encoding="utf-8")))


def _row(file: str, precision: str, counts: NodeCounts) -> dict[str, object]:
    return {"file": file, "precision": precision, "cls_only": False, **counts.as_dict(), "saturating": 0,
            "wide_weights": 0}  # fmt: skip


class _EmbedderBuilder(GraphBuilder):
    """Builds BERT, pooling, a length of 1, and the projection."""

    pooling = "mean"

    @classmethod
    def of(cls, checkpoint: Path) -> _EmbedderBuilder:
        """Read a checkpoint, whose weights have BertModel's names."""
        weights = {f"bert.{name}": value for name, value in load_file(checkpoint / WEIGHTS).items()}
        dense = load_file(checkpoint / DENSE / WEIGHTS)
        weights |= {f"{PROJECTION}.{kind}": dense[f"linear.{kind}"] for kind in ("weight", "bias")}
        builder = cls(buildable(checkpoint), weights)
        builder.pooling = str(read_about(checkpoint)["pooling"])
        return builder

    def embedding(self, opset: int) -> onnx.ModelProto:
        """Return the graph: int64 [texts, tokens] inputs, `embedding` float32 [texts, width], of any length."""
        if self.pooling == "mean":
            pooled = self._mean(self._hidden(first_only=False))
        else:
            pooled = self._first(self._hidden(first_only=True), first_only=True)
            pooled = self._pooled(pooled) if self.pooling == "pooler" else pooled
        squared = self._node("Mul", "pooled.squared", pooled, pooled)
        squares = self._node("ReduceSum", "pooled.squares", squared, self._shape("last", [-1]), keepdims=1)
        length = self._node("Sqrt", "pooled.length", squares)
        at_least = self._node("Max", "pooled.at_least", length, self._constant("least_length", np.float32(LEAST)))
        even = self._node("Div", "pooled.even", pooled, at_least)
        self._output(self._linear(PROJECTION, even), OUTPUT)
        weight: Float32 = self._weights[f"{PROJECTION}.weight"]
        return self.model(opset, OUTPUT, weight.shape[0])

    def _mean(self, hidden: str) -> str:
        """Return the mean over the tokens that are there, [texts, width]."""
        kept = self._node("Unsqueeze", "kept.column", "kept.out", self._shape("end", [2]))
        axis = self._shape("tokens", [1])
        total = self._node("ReduceSum", "total", self._node("Mul", "kept.states", hidden, kept), axis, keepdims=0)
        return self._node("Div", "mean", total, self._node("ReduceSum", "count", kept, axis, keepdims=0))
