"""Embedding tables: equal rows once, and 8 bits with a scale a row: a large vector costs no other its precision."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

QUANTIZED, SCALE = "_quantized", "_scale"  # what onnxruntime's quantizer appends to a weight's name
SMALL = 16  # rows of a table; in one so small (two token types) 8 bits save less than they cost
MOST = 127  # largest value, of both signs


def large_tables(model: onnx.ModelProto) -> dict[str, str]:
    """Return the look-ups in fp32 tables of more than `SMALL` rows: the node's name, and its table's."""
    rows = {t.name: t.dims[0] for t in model.graph.initializer if len(t.dims) == 2 and t.data_type == TensorProto.FLOAT}
    nodes = (node for node in model.graph.node if node.op_type == "Gather")
    return {node.name: node.input[0] for node in nodes if rows.get(node.input[0], 0) > SMALL}


def quantize_tables(model: onnx.ModelProto, keep: Collection[str] = ()) -> None:
    """Change a graph so that its large tables are int8 [rows, width], looked up together with fp32 scales [rows, 1].

    A row is round(row / scale) with scale = max|row| / 127, symmetric; a row of zeros has scale 1.

    Args:
        model: changed in place.
        keep: names of look-ups that stay fp32.
    """
    chosen = {node: table for node, table in large_tables(model).items() if node not in keep}
    used = [name for node in model.graph.node if node.name not in chosen for name in node.input]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for table in dict.fromkeys(chosen.values()):
        values = numpy_helper.to_array(stored[table])
        scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(MOST)
        scale[scale == 0] = 1
        rounded = np.round(values / scale).astype(np.int8)
        if table not in used:
            model.graph.initializer.remove(stored[table])
        model.graph.initializer.append(numpy_helper.from_array(rounded, table + QUANTIZED))
        model.graph.initializer.append(numpy_helper.from_array(scale, table + SCALE))
    nodes = []
    for node in model.graph.node:
        nodes += _look_up(node, chosen[node.name]) if node.name in chosen else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _look_up(node: onnx.NodeProto, table: str) -> list[onnx.NodeProto]:
    name, rows = node.name, node.input[1]
    return [
        helper.make_node("Gather", [table + QUANTIZED, rows], [f"{name}.int8"], name=name),
        helper.make_node("Gather", [table + SCALE, rows], [f"{name}.row_scale"], name=f"{name}.row_scale"),
        helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], name=f"{name}.float", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.float", f"{name}.row_scale"], [node.output[0]], name=f"{name}.scaled"),
    ]


def distinct_rows(table: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Find the rows of a table that are equal bit by bit.

    Args:
        table: float32 [rows, width].

    Returns:
        Where each distinct row stands first, rising, int64 [distinct]; which of these every row equals, int32 [rows].
    """
    table = np.ascontiguousarray(table)
    keys = table.view(np.dtype((np.void, table.shape[1] * table.itemsize)))[:, 0]
    _, first, equal = np.unique(keys, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))  # np.unique sorts by content; a row's place should not hang on training
    return np.sort(first), place[equal].astype(np.int32)
