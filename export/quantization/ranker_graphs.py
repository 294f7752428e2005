"""A cross-encoder's checkpoint to ONNX graphs: those that are served, and those that they are compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rankdistill.export.graphs.bert_graph import write_bert_graph
from rankdistill.export.graphs.graph_files import FP32, FULL, FUSED, GRAPHS_FILE, WEIGHT8, Graphs, count_nodes, halves
from rankdistill.export.graphs.split_bert_graph import write_split_graphs
from rankdistill.export.graphs.traced_graph import fuse_graph, trace_graph
from rankdistill.export.quantization.weight8 import write_weight8

EXACT = {"saturating": 0, "wide_weights": 0}  # sums are 32 bits wide on every processor


class Quantization(Protocol):
    """A way to 8 bits: `int8.Int8` and `FusedInt8`, `searched_int8.SearchedInt8`, `weight8.Weight8`."""

    def write(self, graphs: Graphs) -> list[dict[str, Any]]:
        """Write 8-bit graphs beside the fp32 ones.

        Args:
            graphs: whose fp32 ones are written.

        Returns:
            A row of graphs.json for each.
        """


@dataclass(frozen=True)
class Weight8:
    """Weights alone in 8 bits: closer to fp32 than int8, the same in every batch, and about as fast as fp32."""

    def write(self, graphs: Graphs) -> list[dict[str, Any]]:
        """See `Quantization.write`."""
        counts = write_weight8(graphs.folder / FP32, graphs.folder / WEIGHT8)
        rows = [{"file": WEIGHT8, "precision": "weight8", "cls_only": graphs.cls_only} | counts.as_dict() | EXACT]
        for half, fp32 in zip(halves(WEIGHT8), halves(FP32), strict=True) if graphs.is_split else ():
            counts = write_weight8(graphs.folder / fp32, graphs.folder / half)
            rows.append({"file": half, "precision": "weight8", "cls_only": graphs.cls_only} | counts.as_dict() | EXACT)
        return rows


def write_graphs(checkpoint: Path, out: Path, *, cls_only: bool, opset: int, quantization: Quantization | None) -> None:
    """Write every graph of a checkpoint into `out`, and what each holds into graphs.json.

    Args:
        checkpoint: folder of a BERT cross-encoder.
        out: folder to write to.
        cls_only: whether the graph that is served computes the last layer for [CLS] alone. The full one, as it is
            traced, is written too, to compare it with; of a split ranker, which nothing traces, the two halves are.
        opset: of the graphs.
        quantization: how 8-bit graphs are made; None for none.

    Raises:
        ModelError: if the checkpoint is no BERT cross-encoder.
        GraphError: if fewer nodes were fused or quantized than asked for.
    """
    shape = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    write_bert_graph(checkpoint, out / FP32, cls_only=cls_only, opset=opset)
    is_split = "split_layers" in shape
    plain = [(FP32, cls_only)]
    if is_split:
        lower, upper = halves(FP32)
        write_split_graphs(checkpoint, out / lower, out / upper, cls_only=cls_only, opset=opset)
        plain += [(lower, False), (upper, cls_only)]
    else:
        trace_graph(checkpoint, out / FULL, cls_only=False, opset=opset)
        fuse_graph(out / FULL, out / FUSED, shape=shape, attentions=int(shape["num_hidden_layers"]))
        plain += [(FULL, False), (FUSED, False)]
    rows = [
        {"file": name, "precision": "fp32", "cls_only": short} | count_nodes(out / name).as_dict() | EXACT
        for name, short in plain
    ]
    if quantization is not None:
        rows += quantization.write(Graphs(checkpoint, out, cls_only, opset, is_split))
    (out / GRAPHS_FILE).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
