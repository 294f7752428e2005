"""A cross-encoder's checkpoint to ONNX graphs: those that are served, and those that they are compared with."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from optimum.exporters.onnx import export
from optimum.exporters.tasks import TasksManager

from export.bert_graph import write_bert_graph
from export.cls_only import load_ranker
from export.errors import GraphError
from export.graph import FP32, FULL, FULL_INT8, FUSED, INT8, INT8_AVX2, NodeCounts, count_nodes
from export.quantize import quantize_graph, reduce_saturating, saturating


def write_graphs(checkpoint: Path, out: Path, *, cls_only: bool, opset: int, int8: Mapping[str, bool] | None) -> None:
    """Write every graph of a checkpoint into `out`, and what each holds into graphs.json.

    Args:
        checkpoint: folder of a BERT cross-encoder.
        out: folder to write to.
        cls_only: whether the graph that is served computes the last layer for [CLS] alone. The full one, as it is
            traced, is always written too, to compare it with.
        opset: of the graphs.
        int8: options of `quantize_graph`; None for no int8 graphs.

    Raises:
        ModelError: if the checkpoint is no BERT cross-encoder.
        GraphError: if fewer nodes were fused or quantized than asked for.
    """
    shape = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    layers = int(shape["num_hidden_layers"])
    write_bert_graph(checkpoint, out / FP32, cls_only=cls_only, opset=opset)
    trace_graph(checkpoint, out / FULL, opset=opset)
    plain = [(FP32, INT8, cls_only), (FULL, FULL_INT8, False)]
    found = [(name, "fp32", short, count_nodes(out / name)) for name, _, short in plain]
    fused = fuse_graph(
        out / FULL,
        out / FUSED,
        heads=int(shape["num_attention_heads"]),
        hidden_size=int(shape["hidden_size"]),
        attentions=layers,
    )
    found.append((FUSED, "fp32", False, fused))
    if int8 is not None:
        for name, quantized, short in plain:
            found.append((quantized, "int8", short, quantize_graph(out / name, out / quantized, **int8)))
        narrow = reduce_saturating(out / FP32, out / INT8, out / INT8_AVX2, per_channel=int8["per_channel"])
        found.append((INT8_AVX2, "int8", cls_only, narrow))
    rows = [
        {"file": name, "precision": precision, "cls_only": short}
        | counts.as_dict()
        | {"saturating": len(saturating(out / name))}
        for name, precision, short, counts in found
    ]
    (out / "graphs.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def trace_graph(checkpoint: Path, graph: Path, *, opset: int) -> None:
    """Write a checkpoint's fp32 graph as PyTorch's tracer sees it, by optimum; inputs and output as `bert_graph`'s.

    Args:
        checkpoint: folder of a BERT cross-encoder.
        graph: file to write.
        opset: of the graph.

    Raises:
        ModelError: if the checkpoint is no BERT cross-encoder.
        GraphError: if the graph takes other inputs than a cross-encoder's.
    """
    model = load_ranker(str(checkpoint), cls_only=False)  # sdpa: with eager attention onnxruntime fuses nothing
    config = TasksManager.get_exporter_config_constructor(
        "onnx", model=model, task="text-classification", library_name="transformers"
    )(model.config)
    with _quiet():
        inputs, _ = export(model, config, graph, opset=opset)
    if sorted(inputs) != ["attention_mask", "input_ids", "token_type_ids"]:
        raise GraphError(f"the exported graph of {checkpoint} takes {sorted(inputs)}")


def fuse_graph(graph: Path, fused: Path, *, heads: int, hidden_size: int, attentions: int) -> NodeCounts:
    """Write a graph whose attentions are single nodes, by onnxruntime's transformer optimizer.

    Args:
        graph: fp32 graph to read.
        fused: file to write.
        heads: attention heads of a layer.
        hidden_size: width of the model.
        attentions: how many must be fused.

    Returns:
        What the fused graph holds.

    Raises:
        GraphError: if another number of attentions was fused.
    """
    from onnxruntime.transformers.optimizer import optimize_model

    with _quiet():
        model = optimize_model(str(graph), model_type="bert", num_heads=heads, hidden_size=hidden_size, opt_level=0)
        model.save_model_to_file(str(fused))
    counts = count_nodes(fused)
    if counts.fused_attention != attentions:
        raise GraphError(f"{graph}: {counts.fused_attention} attentions were fused, {attentions} were asked for")
    return counts


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tracer's and the optimizer's chatter off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
