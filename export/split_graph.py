"""A split ranker as two ONNX graphs: the lower one for a text alone, the upper one for a query and an item's states.

Node for node what the whole graph holds (`export.bert_graph`), under the same names, so that what is decided of that
one's activations and products holds of these. The lower one reads one text at a time, a query or an item.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper
from safetensors.numpy import load_file

from export.bert_graph import LAYER, WEIGHTS, GraphBuilder, buildable, token_inputs
from export.runtime.scorer import OUTPUT
from export.runtime.split_scorer import ITEM_SCALES, ITEM_STATES, QUERY_STATES, STATES


def write_split_graphs(checkpoint: Path, lower: Path, upper: Path, *, cls_only: bool, opset: int) -> None:
    """Write a split ranker's fp32 graphs.

    Args:
        checkpoint: folder of a split ranker.
        lower: file of the graph from tokens, int64 [texts, tokens], to states, float32 [texts, tokens, width].
        upper: file of the graph from a query's states, float32 [pairs, query tokens, width], and an item's, int8
            [pairs, item tokens, width] with a scale for each token, float32 [pairs, item tokens, 1], to logits.
        cls_only: whether the last layer is computed for [CLS] alone.
        opset: of the graphs.

    Raises:
        ModelError: if the checkpoint has something that is not built here.
    """
    config, weights = buildable(checkpoint), load_file(checkpoint / WEIGHTS)
    onnx.save(SplitGraphBuilder(config, weights).lower(opset), str(lower))
    onnx.save(SplitGraphBuilder(config, weights).upper(cls_only, opset), str(upper))


class SplitGraphBuilder(GraphBuilder):
    """Builds either half of a split ranker."""

    def lower(self, opset: int) -> onnx.ModelProto:
        """Return the graph from a text's tokens to its states; padding is masked."""
        self._output(self._climb(self._embeddings(), [self._mask()] * self._apart, False), STATES)
        shape = ["batch_size", "sequence_length", self._width]
        return self._model(opset, token_inputs(), [helper.make_tensor_value_info(STATES, TensorProto.FLOAT, shape)])

    def upper(self, cls_only: bool, opset: int) -> onnx.ModelProto:
        """Return the graph from states to logits; there is no padding."""
        whole = self._node("Cast", "item_cast", ITEM_STATES, to=TensorProto.FLOAT)
        items = self._node("Mul", "item_scaled", whole, ITEM_SCALES)
        # named like what it stands for in the whole graph
        states = self._node("Concat", f"{LAYER}.{self._apart - 1}.output.LayerNorm", QUERY_STATES, items, axis=1)
        hidden = self._climb(states, [None] * (self._layers - self._apart), cls_only, self._apart)
        self._output(self._linear("classifier", self._pooled(self._first(hidden, cls_only))), OUTPUT)
        kinds = {
            QUERY_STATES: (TensorProto.FLOAT, ["batch_size", "query_length", self._width]),
            ITEM_STATES: (TensorProto.INT8, ["batch_size", "item_length", self._width]),
            ITEM_SCALES: (TensorProto.FLOAT, ["batch_size", "item_length", 1]),
        }
        inputs = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
        return self._model(opset, inputs, [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch_size", 1])])
