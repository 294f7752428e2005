"""A checkpoint's graph as PyTorch's tracer sees it, and the same with onnxruntime's fused nodes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from optimum.exporters.base import ExporterConfig
from optimum.utils import DummyTextInputGenerator, NormalizedTextConfig

from rankdistill.export.errors import GraphError
from rankdistill.export.graphs.graph_files import NodeCounts, count_nodes
from rankdistill.export.runtime.scorer import INPUTS
from rankdistill.export.torch_models.checkpoint import load_ranker
from rankdistill.export.torch_models.traceable import TraceableBert, TraceableClsOnlyBert

Axes = dict[str, dict[int, str]]


class RankerExport(ExporterConfig):  # type: ignore[misc]
    """What optimum's exporters need to know of a cross-encoder: its inputs, its output and inputs to trace it with."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig
    DUMMY_INPUT_GENERATOR_CLASSES = (DummyTextInputGenerator,)

    @property
    def inputs(self) -> Axes:
        """The axes of each input that may differ in length."""
        axes = {0: "batch_size", 1: "sequence_length"}
        return dict.fromkeys(INPUTS, axes)

    @property
    def outputs(self) -> Axes:
        """The same of the output."""
        return {name: {0: "batch_size"} for name in super().outputs}


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
    kind = TraceableClsOnlyBert if cls_only else TraceableBert
    model = kind.of(load_ranker(str(checkpoint), cls_only=False))
    config = RankerExport(model.config, task="text-classification")
    inputs = config.generate_dummy_inputs(batch_size=2, sequence_length=16)
    with _quiet():
        torch.onnx.export(
            model,
            tuple(inputs.values()),
            str(graph),
            input_names=list(config.inputs),
            output_names=list(config.outputs),
            dynamic_axes=config.inputs | config.outputs,
            opset_version=opset,
            dynamo=False,  # of the graph that torch.export makes onnxruntime fuses no attention
        )


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
