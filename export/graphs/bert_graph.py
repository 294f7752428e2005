"""A BERT cross-encoder as an ONNX graph of few nodes, built from its checkpoint's weights.

A traced graph computes shapes, scales and a mask of tokens x tokens at every call: 50 of its 115 nodes at two layers,
5% of a student's time at 62 tokens, 9% at 24. Here shapes are constants (0 copies a dimension), the scale is part of
the query's weights and the mask is one row. The graph that the tracer writes is what this one is compared with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from rankdistill.export.errors import ModelError
from rankdistill.export.graphs.graph_files import BY_HEAD, unbuildable
from rankdistill.export.graphs.node_groups import is_keyless
from rankdistill.export.graphs.tables import distinct_rows
from rankdistill.export.runtime.scorer import INPUTS, OUTPUT

WEIGHTS = "model.safetensors"
IR_VERSION = 8  # of opset 18's time; readers refuse a newer one than they know
MASKED = float(np.finfo(np.float32).min)
LEAST_OPSET = 17  # has LayerNormalization
LAYER = "bert.encoder.layer"
MAP_BYTES = 4  # of a token's entry in the map from ids to rows, int32

Float32 = npt.NDArray[np.float32]


def write_bert_graph(checkpoint: Path, graph: Path, *, cls_only: bool, opset: int) -> None:
    """Write a checkpoint's fp32 graph: int64 [pairs, tokens] inputs, `logits` float32 [pairs, 1].

    Args:
        checkpoint: folder of a BERT cross-encoder.
        graph: file to write.
        cls_only: whether the last layer is computed for [CLS] alone.
        opset: of the graph.

    Raises:
        ModelError: if the checkpoint has something that is not built here.
    """
    builder = GraphBuilder(buildable(checkpoint), load_file(checkpoint / WEIGHTS))
    builder.build(cls_only)
    onnx.save(builder.model(opset, OUTPUT, 1), str(graph))


def buildable(checkpoint: Path) -> dict[str, Any]:
    """Return the configuration of a checkpoint, if it can be built.

    Raises:
        ModelError: if it has something that is not built here.
    """
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    for name, value, built in unbuildable(config):
        verb = "is" if len(built) == 1 else "are"
        raise ModelError(f"{checkpoint}: {name}={value}; built {verb} {', '.join(built)}")
    return config


def token_inputs() -> list[onnx.ValueInfoProto]:
    """Return a BERT's inputs, int64 [batch, tokens]."""
    shape = ["batch_size", "sequence_length"]
    return [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in INPUTS]


class GraphBuilder:
    """Collects nodes; a value is its name."""

    def __init__(self, config: dict[str, Any], weights: dict[str, Float32]) -> None:
        self._config, self._weights = config, weights
        self._heads = int(config["num_attention_heads"])
        self._width = int(config["hidden_size"])
        self._layers, self._apart = int(config["num_hidden_layers"]), int(config.get("split_layers", 0))
        self._is_keyless = is_keyless(self._layers, self._apart)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def build(self, cls_only: bool) -> None:
        """Add every node from the inputs to the logits."""
        self._output(self._linear("classifier", self._pooled(self._first(self._hidden(cls_only), cls_only))), OUTPUT)

    def _hidden(self, first_only: bool) -> str:
        """Return the last layer's output: of every token, or of the first alone."""
        mask = self._mask()
        seen = [self._same_text(mask)] * self._apart if self._apart else []
        return self._climb(self._embeddings(), [*seen, *[mask] * (self._layers - self._apart)], first_only)

    def _climb(self, hidden: str, masks: Sequence[str | None], first_only: bool, start: int = 0) -> str:
        """Return what layers make of states, those from `start` on, each with its mask; None masks nothing."""
        for number, mask in enumerate(masks, start):
            hidden = self._layer(f"{LAYER}.{number}", hidden, mask, first_only and number == self._layers - 1)
        return hidden

    def _first(self, hidden: str, first_only: bool) -> str:
        """Return the first token's state, [pairs, width]; `first_only`: of a value that has no other tokens."""
        first = self._slice(hidden, 0, 1, axis=1) if not first_only else hidden
        return self._node("Reshape", "first", first, self._shape("row", [0, self._width]))

    def _pooled(self, first: str) -> str:
        return self._node("Tanh", "pooled", self._linear("bert.pooler.dense", first))

    def _output(self, value: str, name: str) -> None:
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))

    def model(self, opset: int, output: str, width: int) -> onnx.ModelProto:
        """Return the graph, whose output is float32 [batch, width]."""
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch_size", width])]
        return self._model(opset, token_inputs(), outputs)

    def _model(
        self, opset: int, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, "bert", inputs, outputs, list(self._constants.values()))
        model = helper.make_model(graph, producer_name="rankdistill", opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        return model

    def _embeddings(self) -> str:
        prefix = "bert.embeddings"
        words = self._words(f"{prefix}.word_embeddings.weight")
        types = self._node("Gather", "types", self._weight(f"{prefix}.token_type_embeddings.weight"), "token_type_ids")
        table = self._weight(f"{prefix}.position_embeddings.weight")
        positions = self._positions_apart(table) if self._apart else self._positions(table)
        total = self._node("Add", "placed", self._node("Add", "typed", words, types), positions)
        return self._norm(f"{prefix}.LayerNorm", total)

    def _positions(self, table: str) -> str:
        """Return the positions' rows, [tokens, width]."""
        length = self._node("Shape", "length", "input_ids", start=1, end=2)
        return self._node("Slice", "positions", table, self._shape("zero", [0]), length, self._shape("axis0", [0]))

    def _positions_apart(self, table: str) -> str:
        """Return the positions' rows, [pairs, tokens, width], an item's from `item_position` on."""
        length = self._node("Shape", "length", "input_ids", start=1, end=2)
        zero, one = self._constant("count0", np.int64(0)), self._constant("count1", np.int64(1))
        end = self._node("Squeeze", "end", length, self._shape("axis0", [0]))
        steps = self._node("Range", "steps", zero, end, one)
        of_query = self._node("Mul", "of_query", self._node("Sub", "no_item", one, "token_type_ids"), "attention_mask")
        queries = self._node("ReduceSum", "queries", of_query, self._shape("at1", [1]), keepdims=1)
        start = self._constant("item_position", np.int64(self._config["item_position"]))
        moved = self._node("Add", "moved", self._node("Sub", "from_item", steps, queries), start)
        is_item = self._node("Cast", "is_item", "token_type_ids", to=TensorProto.BOOL)
        return self._node("Gather", "positions", table, self._node("Where", "places", is_item, moved, steps))

    def _words(self, name: str) -> str:
        """Return the tokens' rows of the word table, of which equal ones are stored once if that saves bytes."""
        table = self._weights[name].astype(np.float32)
        first, rows = distinct_rows(table)
        # reckoned for an int8 table, a byte an entry: where the map pays there, it pays in fp32 all the more
        if (len(table) - len(first)) * table.shape[1] <= MAP_BYTES * len(table):
            return self._node("Gather", "words", self._constant(name, table), "input_ids")
        row = self._node("Gather", "rows", self._constant("word_rows", rows), "input_ids")
        return self._node("Gather", "words", self._constant(name, table[first]), row)

    def _mask(self) -> str:
        """Return what is added to attention scores: [pairs, 1, 1, tokens], 0 at tokens, the least number at padding."""
        kept = self._node("Cast", "kept", "attention_mask", to=TensorProto.FLOAT)
        left_out = self._node("Sub", "left_out", self._constant("one", np.float32(1)), kept)
        row = self._node("Mul", "masked", left_out, self._constant("least", np.float32(MASKED)))
        return self._node("Unsqueeze", "mask", row, self._shape("axes", [1, 2]))

    def _same_text(self, mask: str) -> str:
        """Return a mask of tokens that stand in another text too, [pairs, 1, tokens, tokens]."""
        kinds = self._node("Cast", "kinds", "token_type_ids", to=TensorProto.FLOAT)
        rows, columns = (self._node("Unsqueeze", f"kinds{n}", kinds, self._shape(f"at{n}", [n])) for n in (2, 1))
        apart = self._node("Sub", "apart", rows, columns)
        other = self._node("Mul", "other_text", apart, apart)  # 1 where they differ
        masked = self._node("Mul", "other_masked", other, self._constant("least", np.float32(MASKED)))
        return self._node("Min", "same_text", mask, self._node("Unsqueeze", "by_head", masked, self._shape("at1", [1])))

    def _layer(self, prefix: str, hidden: str, mask: str | None, first_only: bool) -> str:
        """Return a layer's output: of every token, or of the first alone."""
        rows = self._slice(hidden, 0, 1, axis=1) if first_only else hidden
        if first_only and self._is_keyless:
            return self._fed_layer(prefix, self._first_attention(f"{prefix}.attention.self", rows, hidden, mask), rows)
        key, value = (self._linear(f"{prefix}.attention.self.{each}", hidden) for each in ("key", "value"))
        return self._attended_layer(prefix, rows, key, value, mask)

    def _attended_layer(self, prefix: str, rows: str, key: str, value: str, mask: str | None) -> str:
        """Return the output of a layer for `rows`, which attend to tokens by their keys and values."""
        return self._fed_layer(prefix, self._attention(f"{prefix}.attention.self", rows, key, value, mask), rows)

    def _fed_layer(self, prefix: str, attended: str, rows: str) -> str:
        """Return the output of a layer for `rows` and what they attended to."""
        attended = self._linear(f"{prefix}.attention.output.dense", attended)
        rows = self._norm(
            f"{prefix}.attention.output.LayerNorm", self._node("Add", f"{prefix}.attended", attended, rows)
        )
        inner = self._activation(f"{prefix}.inner", self._linear(f"{prefix}.intermediate.dense", rows))
        outer = self._linear(f"{prefix}.output.dense", inner)
        return self._norm(f"{prefix}.output.LayerNorm", self._node("Add", f"{prefix}.fed", outer, rows))

    def _attention(self, prefix: str, rows: str, key: str, value: str, mask: str | None) -> str:
        scale = 1 / math.sqrt(self._width // self._heads)
        query = self._split(f"{prefix}.query", self._linear(f"{prefix}.query", rows, scale), [0, 2, 1, 3])
        key = self._split(f"{prefix}.key", key, [0, 2, 3, 1])
        value = self._split(f"{prefix}.value", value, [0, 2, 1, 3])
        scores = self._node("MatMul", f"{prefix}.products", query, key)
        if mask is not None:
            scores = self._node("Add", f"{prefix}.scores", scores, mask)
        shares = self._node("Softmax", f"{prefix}.shares", scores, axis=-1)
        mixed = self._node("MatMul", f"{prefix}.mixed", shares, value)
        mixed = self._node("Transpose", f"{prefix}.tokens", mixed, perm=[0, 2, 1, 3])
        return self._node("Reshape", f"{prefix}.joined", mixed, self._shape("width", [0, 0, self._width]))

    def _first_attention(self, prefix: str, first: str, hidden: str, mask: str | None) -> str:
        """Return what one row attends to, [pairs, 1, width], without keys or values of any token.

        q (W_k h + b_k) = (q W_k) h + a constant, which a softmax does not see; the values' sum by shares s, whose sum
        is 1, is W_v (sum s h) + b_v.
        """
        scale = 1 / math.sqrt(self._width // self._heads)
        query = self._linear(f"{prefix}.query", first, scale)
        asked = self._by_head(f"{prefix}.key", query, transposed=False)
        tokens = self._node("Transpose", f"{prefix}.states", hidden, perm=[0, 2, 1])
        scores = self._node("MatMul", f"{prefix}.products", asked, tokens)
        if mask is not None:
            row = self._node("Squeeze", f"{prefix}.mask", mask, self._shape("at1", [1]))
            scores = self._node("Add", f"{prefix}.scores", scores, row)
        shares = self._node("Softmax", f"{prefix}.shares", scores, axis=-1)
        mixed = self._by_head(
            f"{prefix}.value", self._node("MatMul", f"{prefix}.mixed", shares, hidden), transposed=True
        )
        joined = self._node("Reshape", f"{prefix}.joined", mixed, self._shape("one_row", [0, 1, self._width]))
        return self._node("Add", f"{prefix}.value", joined, self._weight(f"{prefix}.value.bias"))

    def _by_head(self, name: str, value: str, transposed: bool) -> str:
        """Return [pairs, heads, m], each head's part times its own rows of a matrix, or those transposed."""
        size = self._width // self._heads
        matrices = self._weights[f"{name}.weight"].astype(np.float32).reshape(self._heads, size, self._width)
        matrices = matrices.transpose(0, 2, 1) if transposed else matrices
        shape = self._shape(f"{matrices.shape[1]}_by_head", [0, self._heads, 1, matrices.shape[1]])
        rows = self._node("Reshape", f"{name}.rows", value, shape)
        stored = self._constant(f"{name}{BY_HEAD}", np.ascontiguousarray(matrices))
        product = self._node("MatMul", f"{name}{BY_HEAD}", rows, stored)
        shape = self._shape(f"{matrices.shape[2]}_of_heads", [0, self._heads, matrices.shape[2]])
        return self._node("Reshape", f"{name}.heads", product, shape)

    def _split(self, name: str, value: str, perm: list[int]) -> str:
        """Return [pairs, tokens, width] as heads."""
        shape = self._shape("heads", [0, 0, self._heads, self._width // self._heads])
        return self._node("Transpose", f"{name}.heads", self._node("Reshape", f"{name}.split", value, shape), perm=perm)

    def _linear(self, name: str, value: str, scale: float = 1.0) -> str:
        """Return value @ weight.T + bias, both times `scale`."""
        factor = np.float32(scale)
        weight = np.ascontiguousarray(self._weights[f"{name}.weight"].astype(np.float32).T * factor)
        bias = self._weights[f"{name}.bias"].astype(np.float32) * factor
        product = self._node("MatMul", f"{name}.product", value, self._constant(f"{name}.weight", weight))
        return self._node("Add", name, product, self._constant(f"{name}.bias", bias))

    def _norm(self, name: str, value: str) -> str:
        epsilon = float(self._config["layer_norm_eps"])
        scale, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self._node("LayerNormalization", name, value, scale, bias, axis=-1, epsilon=epsilon)

    def _activation(self, name: str, value: str) -> str:
        kind = self._config["hidden_act"]
        if kind == "relu":
            return self._node("Relu", name, value)
        half, one = self._constant("half", np.float32(0.5)), self._constant("one", np.float32(1))
        if kind == "gelu":
            part = self._node("Div", f"{name}.scaled", value, self._constant("root2", np.float32(math.sqrt(2))))
            curve = self._node("Erf", f"{name}.curve", part)
        else:  # the tanh form (Hendrycks, Gimpel 2016)
            cube = self._node("Pow", f"{name}.cube", value, self._constant("three", np.float32(3)))
            bent = self._node("Mul", f"{name}.bent", cube, self._constant("bend", np.float32(0.044715)))
            total = self._node("Add", f"{name}.total", value, bent)
            rate = self._constant("rate", np.float32(math.sqrt(2 / math.pi)))
            curve = self._node("Tanh", f"{name}.curve", self._node("Mul", f"{name}.scaled", total, rate))
        share = self._node("Add", f"{name}.share", curve, one)
        return self._node("Mul", name, self._node("Mul", f"{name}.product", value, share), half)

    def _slice(self, value: str, start: int, end: int, axis: int) -> str:
        bounds = [self._shape(f"at{number}", [number]) for number in (start, end, axis)]
        return self._node("Slice", f"{value}.{start}:{end}", value, *bounds)

    def _weight(self, name: str) -> str:
        return self._constant(name, self._weights[name].astype(np.float32))

    def _shape(self, name: str, values: list[int]) -> str:
        return self._constant(f"shape.{name}", np.array(values, dtype=np.int64))

    def _constant(self, name: str, value: npt.NDArray[Any] | np.generic) -> str:
        self._constants.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        output = f"{name}.out"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output
