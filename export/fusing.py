"""A checkpoint's graph as PyTorch's tracer sees it, and the same with onnxruntime's fused nodes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optimum.exporters.onnx import export
from optimum.exporters.tasks import TasksManager

from export.checkpoint import load_ranker
from export.errors import GraphError
from export.graph import NodeCounts, count_nodes
from export.traceable import TraceableClsOnlyBert


def trace_graph(checkpoint: Path, graph: Path, *, cls_only: bool, opset: int) -> None:
    """Write a checkpoint's fp32 graph as PyTorch's tracer sees it, by optimum; inputs and output as `bert_graph`'s.

    Args:
        checkpoint: folder of a BERT cross-encoder.
        graph: file to write.
        cls_only: whether the last layer is computed for [CLS] alone.
        opset: of the graph.

    Raises:
        ModelError: if the checkpoint is no BERT cross-encoder.
        GraphError: if the graph takes other inputs than a cross-encoder's.
    """
    # with sdpa attention: of eager attention onnxruntime fuses nothing
    model = load_ranker(str(checkpoint), cls_only=False)
    if cls_only:
        model = TraceableClsOnlyBert.of(model)
    config = TasksManager.get_exporter_config_constructor(
        "onnx", model=model, task="text-classification", library_name="transformers"
    )(model.config)
    with _quiet():
        inputs, _ = export(model, config, graph, opset=opset)
    if sorted(inputs) != ["attention_mask", "input_ids", "token_type_ids"]:
        raise GraphError(f"the exported graph of {checkpoint} takes {sorted(inputs)}")


def fuse_graph(graph: Path, fused: Path, *, shape: Mapping[str, Any], attentions: int) -> NodeCounts:
    """Write a graph whose attentions and activation functions are single nodes, by onnxruntime's optimizer.

    Sums with normalisations stay apart, as they do when a graph is run: fused, they take 10 to 30% longer. Embeddings
    do too, so that their tables are quantized like every graph's.

    Args:
        graph: fp32 graph to read.
        fused: file to write.
        shape: content of the checkpoint's config.json.
        attentions: how many must be fused; as many activation functions must be as there are layers.

    Returns:
        What the fused graph holds.

    Raises:
        GraphError: if another number was fused.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.enable_skip_layer_norm = options.enable_embed_layer_norm = False
    heads, width, layers = (int(shape[n]) for n in ("num_attention_heads", "hidden_size", "num_hidden_layers"))
    with _quiet():
        model = optimize_model(
            str(graph), model_type="bert", num_heads=heads, hidden_size=width, opt_level=0, optimization_options=options
        )
        model.save_model_to_file(str(fused))
    counts = count_nodes(fused)
    if counts.fused_attention != attentions:
        raise GraphError(f"{graph}: {counts.fused_attention} attentions were fused, {attentions} were asked for")
    if shape["hidden_act"] == "gelu" and counts.fused_activation != layers:
        raise GraphError(f"{graph}: {counts.fused_activation} activations were fused, {layers} were asked for")
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
