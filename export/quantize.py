"""An fp32 graph to dynamic int8: s8 weights, u8 activations whose range is found at run time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.errors import GraphError
from export.graph import NodeCounts, count_nodes

QUANTIZED, SCALE = "_quantized", "_scale"  # what quantize_dynamic appends to a weight's name
SMALL = 16  # rows of a table
ACTIVATION = 255  # largest activation
SUMS = (-(1 << 15), (1 << 15) - 1)  # what a 16-bit sum holds

Int8 = npt.NDArray[np.int8]


def quantize_graph(graph: Path, quantized: Path, *, per_channel: bool, reduce_range: bool) -> NodeCounts:
    """Write the int8 graph of an fp32 one.

    Args:
        graph: fp32 graph to read.
        quantized: file to write.
        per_channel: whether every output channel of a weight has a scale of its own.
        reduce_range: whether weights take 7 bits, so that AVX2's 16-bit sums cannot saturate.

    Returns:
        What the int8 graph holds.

    Raises:
        GraphError: if a matrix product other than a Gemm stayed fp32.
    """
    before = count_nodes(graph)
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # its advice on preprocessing is for static quantization
    try:
        quantize_dynamic(
            graph,
            quantized,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=reduce_range,
            # without a default type, a graph whose shapes are not all known raises "Unable to find data type"
            nodes_to_exclude=_small_tables(graph),
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
    finally:
        logging.root.setLevel(level)
    counts = count_nodes(quantized)
    if counts.quantized == 0 or counts.quantized + counts.left_fp32 < before.left_fp32:
        raise GraphError(
            f"{graph}: {counts.quantized} of {before.left_fp32} matrix products were quantized, {counts.left_fp32} left"
        )
    return counts


def _small_tables(graph: Path) -> list[str]:
    """Return the names of look-ups in tables so small (two token types) that 8 bits save less than they cost."""
    model = onnx.load(str(graph))
    rows = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    nodes = (node for node in model.graph.node if node.op_type == "Gather")
    return [node.name for node in nodes if rows.get(node.input[0], SMALL + 1) <= SMALL]


def saturating(graph: Path) -> list[str]:
    """Return the names of the int8 weights with which sums of two products can leave 16 bits.

    Processors without VNNI or dot products (AVX2 and AVX-512's `vpmaddubsw`) add the products of two neighbouring
    weights, rows 2i and 2i + 1, with unsigned activations in 16 bits, and cut off what does not fit.
    """
    return [name for name, weights in _matrices(onnx.load(str(graph))) if _can_saturate(weights)]


def reduce_saturating(fp32: Path, int8: Path, reduced: Path, *, per_channel: bool) -> NodeCounts:
    """Write an int8 graph in which no sum saturates: weights that could make one take 7 bits, all others stay.

    Args:
        fp32: graph to read.
        int8: the graph that `quantize_graph` made of it.
        reduced: file to write.
        per_channel: as `int8` was made.

    Returns:
        What the written graph holds.

    Raises:
        GraphError: if a weight could saturate even so.
    """
    doomed = {name.removesuffix(QUANTIZED) for name in saturating(int8)}
    whole = {tensor.name: tensor for tensor in onnx.load(str(int8)).graph.initializer}
    quantize_graph(fp32, reduced, per_channel=per_channel, reduce_range=True)
    model = onnx.load(str(reduced))
    for tensor in model.graph.initializer:
        if tensor.name.removesuffix(QUANTIZED).removesuffix(SCALE) not in doomed:
            tensor.CopyFrom(whole[tensor.name])
    onnx.save(model, str(reduced))
    if left := saturating(reduced):
        raise GraphError(f"{reduced}: {left[0]} can saturate even in 7 bits")
    return count_nodes(reduced)


def _matrices(model: onnx.ModelProto) -> Iterator[tuple[str, Int8]]:
    """Yield the int8 matrices [inputs, outputs] that products are made with, by name."""
    used = {node.input[1] for node in model.graph.node if node.op_type in ("MatMulInteger", "DynamicQuantizeMatMul")}
    for tensor in model.graph.initializer:
        if tensor.name in used and tensor.data_type == onnx.TensorProto.INT8:
            yield tensor.name, numpy_helper.to_array(tensor)


def _can_saturate(weights: Int8) -> bool:
    pairs = weights[: len(weights) // 2 * 2].reshape(-1, 2, weights.shape[1]).astype(np.int32)
    least, most = np.minimum(pairs, 0).sum(axis=1).min(initial=0), np.maximum(pairs, 0).sum(axis=1).max(initial=0)
    return bool(ACTIVATION * least < SUMS[0] or ACTIVATION * most > SUMS[1])
