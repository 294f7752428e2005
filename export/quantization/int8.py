"""Dynamic int8 graphs of a checkpoint: plain and evened, fused, and with some groups left in fp32 by hand."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from rankdistill.export.errors import GraphError
from rankdistill.export.graphs.graph_files import FP32, FULL, FULL_INT8, INT8, INT8_AVX2, Graphs, NodeCounts, halves
from rankdistill.export.graphs.node_groups import excluded, group_of
from rankdistill.export.graphs.tables import large_tables
from rankdistill.export.graphs.traced_graph import fuse_graph, trace_graph
from rankdistill.export.quantization.dynamic import quantize_graph
from rankdistill.export.quantization.saturation import count_wide, reduce_saturating, saturating
from rankdistill.export.quantization.smoothing import Feed, Remedy, choose_remedies, products_of, smooth

PRECISION = "int8"


@dataclass(frozen=True)
class Int8:
    """How the graphs that are served become int8.

    Attributes:
        per_channel: whether every output channel of a weight has a scale of its own.
        reduce_range: whether weights take 7 bits.
        smooth: strength of smoothing, from 0 to 1; None for none.
        outliers: channels of an activation that may be kept apart in fp32; 0 for none.
        exclude: names or globs of nodes or groups that stay fp32.
        feeds: real pairs as the graph's inputs, which smoothing is fitted to.
    """

    per_channel: bool
    reduce_range: bool
    smooth: float | None
    outliers: int
    exclude: tuple[str, ...]
    feeds: Sequence[Feed]

    def write(self, graphs: Graphs) -> list[dict[str, Any]]:
        """Write the int8 graphs beside the fp32 ones; see `ranker_graphs.Quantization`."""
        model = onnx.load(str(graphs.folder / FP32))
        return self.write_kept(graphs, model, self.remedies(model), self.reasons(model))

    def reasons(self, model: onnx.ModelProto) -> dict[str, str]:
        """Return the nodes that `exclude` keeps in fp32, each with its reason.

        Raises:
            GraphError: if it names no node.
        """
        found = excluded(self.exclude, quantizable(model))
        return {node: f"excluded by {pattern}" for node, pattern in found.items()}

    def remedies(self, model: onnx.ModelProto) -> dict[str, Remedy]:
        """Return what is done to activations."""
        if self.smooth is None and self.outliers == 0:
            return {}
        return choose_remedies(model, self.feeds, strength=self.smooth, outliers=self.outliers)

    def write_kept(
        self, graphs: Graphs, model: onnx.ModelProto, remedies: Mapping[str, Remedy], reasons: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """Write the graphs with these nodes in fp32, and the traced graph's int8 with nothing done to it.

        Returns:
            A row for each graph.

        Raises:
            GraphError: if nothing of a split ranker's half is left to quantize.
        """
        out = graphs.folder
        kept = [{"node": node, "group": group_of(node), "reason": reason} for node, reason in reasons.items()]
        applied = {name: remedy for name, remedy in remedies.items() if set(remedy.products) - reasons.keys()}
        told = {"kept_fp32": kept, "smoothed": [_told(name, remedy) for name, remedy in applied.items()]}
        rows = [row | told for row in self._write(graphs, model, (INT8, INT8_AVX2), remedies, reasons)]
        if graphs.is_split:  # its halves have the nodes of the whole one, and what was decided of them
            for fp32, *names in zip(halves(FP32), halves(INT8), halves(INT8_AVX2), strict=True):
                half = onnx.load(str(out / fp32))
                if set(quantizable(half)) <= reasons.keys():
                    raise GraphError(f"{fp32}: all of it is kept in fp32; a split student's halves are both in int8")
                rows += self._write(graphs, half, names, remedies, reasons)
            return rows
        full = quantize_graph(out / FULL, out / FULL_INT8, per_channel=self.per_channel, reduce_range=self.reduce_range)
        return [*rows, int8_row(out, FULL_INT8, False, full)]

    def _write(
        self,
        graphs: Graphs,
        model: onnx.ModelProto,
        names: Sequence[str],
        remedies: Mapping[str, Remedy],
        reasons: Mapping[str, str],
    ) -> list[dict[str, Any]]:
        """Write a graph in int8, and without weights that saturate; returns a row for each."""
        plain, narrow = (graphs.folder / name for name in names)
        model = smooth(model, remedies, reasons)
        counts = [
            quantize_graph(model, plain, per_channel=self.per_channel, reduce_range=self.reduce_range, keep=reasons),
            reduce_saturating(model, plain, narrow, per_channel=self.per_channel, keep=reasons),
        ]
        return [
            int8_row(graphs.folder, name, graphs.cls_only, count) for name, count in zip(names, counts, strict=True)
        ]


@dataclass(frozen=True)
class FusedInt8:
    """Int8 of the traced graph with attentions and activation functions fused into single nodes.

    Attributes:
        per_channel: whether every output channel of a weight has a scale of its own.
        reduce_range: whether weights take 7 bits.
    """

    per_channel: bool
    reduce_range: bool

    def write(self, graphs: Graphs) -> list[dict[str, Any]]:
        """Write the int8 graphs beside the fp32 ones; see `ranker_graphs.Quantization`.

        Raises:
            GraphError: if an attention was not fused; of a last layer for [CLS] alone onnxruntime fuses none.
        """
        checkpoint, out, cls_only = graphs.checkpoint, graphs.folder, graphs.cls_only
        shape = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory(dir=out) as folder:
            traced, fused = Path(folder) / "traced.onnx", Path(folder) / "fused.onnx"
            trace_graph(checkpoint, traced, cls_only=cls_only, opset=graphs.opset)
            fuse_graph(traced, fused, shape=shape, attentions=int(shape["num_hidden_layers"]) - cls_only)
            counts = quantize_graph(fused, out / INT8, per_channel=self.per_channel, reduce_range=self.reduce_range)
            narrow = reduce_saturating(fused, out / INT8, out / INT8_AVX2, per_channel=self.per_channel)
        return [int8_row(out, INT8, graphs.cls_only, counts), int8_row(out, INT8_AVX2, graphs.cls_only, narrow)]


def quantizable(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that can take 8 bits: large look-ups and products, from the input to the output."""
    names = large_tables(model).keys() | products_of(model).keys()
    return [node.name for node in model.graph.node if node.name in names]


def int8_row(out: Path, file: str, cls_only: bool, counts: NodeCounts) -> dict[str, Any]:
    """Return what graphs.json says of an int8 graph."""
    risk = {"saturating": len(saturating(out / file)), "wide_weights": count_wide(out / file)}
    return {"file": file, "precision": PRECISION, "cls_only": cls_only} | counts.as_dict() | risk


def _told(activation: str, remedy: Remedy) -> dict[str, Any]:
    return {
        "activation": activation,
        "products": list(remedy.products),
        "scaled": remedy.smoothed,
        "apart": remedy.apart.tolist(),
        "error": remedy.error,
        "plain_error": remedy.plain_error,
    }
