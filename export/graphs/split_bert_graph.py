"""A split ranker as two ONNX graphs: the lower one for a text alone, the upper one for a query and an item's states.

Node for node what the whole graph holds (`graphs.bert_graph`), under the same names, so that what is decided of that
one's activations and products holds of these. The lower one reads one text at a time, a query or an item.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import load_file

from rankdistill.export.graphs.bert_graph import LAYER, WEIGHTS, GraphBuilder, buildable, token_inputs
from rankdistill.export.runtime.item_states import PARTS
from rankdistill.export.runtime.scorer import OUTPUT
from rankdistill.export.runtime.split_scorer import ITEM_SCALES, ITEM_STATES, QUERY_STATES, STATES


def write_split_graphs(checkpoint: Path, lower: Path, upper: Path, *, cls_only: bool, opset: int) -> None:
    """Write a split ranker's fp32 graphs.

    Args:
        checkpoint: folder of a split ranker.
        lower: file of the graph from tokens, int64 [texts, tokens], to their parts, float32 [texts, tokens, 3, width]:
            keys and values of the first layer that reads both texts, and states.
        upper: file of the graph from a query's parts, float32 [pairs, query tokens, 3, width], and an item's first
            ones, int8 [pairs, item tokens, parts, width] with float32 scales [pairs, item tokens, parts, 1], to logits.
        cls_only: whether the last layer is computed for [CLS] alone.
        opset: of the graphs.

    Raises:
        ModelError: if the checkpoint has something that is not built here.
    """
    config, weights = buildable(checkpoint), load_file(checkpoint / WEIGHTS)
    onnx.save(SplitGraphBuilder(config, weights).lower(opset), str(lower))
    onnx.save(SplitGraphBuilder(config, weights).upper(cls_only, opset), str(upper))


class SplitGraphBuilder(GraphBuilder):
    """Builds either half of a split ranker.

    The first layer that reads both texts needs of an item's tokens the keys and values, and if it is not the last, or
    computes all tokens, their states too: so many parts are kept of an item.
    """

    def lower(self, opset: int) -> onnx.ModelProto:
        """Return the graph from a text's tokens to their parts; padding is masked."""
        hidden = self._climb(self._embeddings(), [self._mask()] * self._apart, False)
        prefix = f"{LAYER}.{self._apart}.attention.self"
        parts = [*(self._linear(f"{prefix}.{each}", hidden) for each in ("key", "value")), hidden]
        rows = [self._node("Unsqueeze", f"part{n}", part, self._shape("at2", [2])) for n, part in enumerate(parts)]
        self._output(self._node("Concat", "parts", *rows, axis=2), STATES)
        shape = ["batch_size", "sequence_length", PARTS, self._width]
        return self._model(opset, token_inputs(), [helper.make_tensor_value_info(STATES, TensorProto.FLOAT, shape)])

    def upper(self, cls_only: bool, opset: int) -> onnx.ModelProto:
        """Return the graph from parts to logits; there is no padding."""
        kept = item_parts(self._layers - self._apart, cls_only)
        cast = self._node("Cast", "item_cast", ITEM_STATES, to=TensorProto.FLOAT)
        items = self._node("Mul", "item_scaled", cast, ITEM_SCALES)
        first = f"{LAYER}.{self._apart}"
        key, value = (self._joined(f"joined{number}", items, number) for number in range(2))
        # named like what they stand for in the whole graph
        below = f"{LAYER}.{self._apart - 1}.output.LayerNorm"
        if kept == PARTS:
            rows = self._joined(below, items, 2)
        else:
            bounds = [self._shape(f"at{n}", [n]) for n in (0, 1, 1)]
            rows = self._node("Slice", f"{below}.out.0:1", self._part(QUERY_STATES, 2), *bounds)
        hidden = self._attended_layer(first, rows, key, value, None)
        above = self._layers - self._apart - 1
        hidden = self._climb(hidden, [None] * above, cls_only, self._apart + 1)
        self._output(self._linear("classifier", self._pooled(self._first(hidden, cls_only))), OUTPUT)
        kinds = {
            QUERY_STATES: (TensorProto.FLOAT, ["batch_size", "query_length", PARTS, self._width]),
            ITEM_STATES: (TensorProto.INT8, ["batch_size", "item_length", kept, self._width]),
            ITEM_SCALES: (TensorProto.FLOAT, ["batch_size", "item_length", kept, 1]),
        }
        inputs = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
        return self._model(opset, inputs, [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch_size", 1])])

    def _joined(self, name: str, items: str, number: int) -> str:
        """Return a part of the query's tokens and the item's behind them, [pairs, tokens, width]."""
        return self._node("Concat", name, self._part(QUERY_STATES, number), self._part(items, number), axis=1)

    def _part(self, value: str, number: int) -> str:
        """Return one of the parts of texts, [pairs, tokens, width]."""
        number_of = self._constant(f"part.{number}", np.int64(number))
        return self._node("Gather", f"{value}.part{number}", value, number_of, axis=2)


def item_parts(joint: int, cls_only: bool) -> int:
    """Return how many parts are kept of an item whose query is joined by so many layers."""
    return PARTS - 1 if joint == 1 and cls_only else PARTS
