"""Which int8 weights are too large for processors that add two products in 16 bits, and a graph without them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from rankdistill.export.errors import GraphError
from rankdistill.export.graphs.graph_files import INTEGER_MATMUL, NodeCounts, count_nodes
from rankdistill.export.graphs.tables import QUANTIZED, SCALE
from rankdistill.export.quantization.dynamic import quantize_graph

ACTIVATION = 255  # largest activation
SUMS = (-(1 << 15), (1 << 15) - 1)  # what a 16-bit sum holds
SAFE = 64  # two weights of this size and two largest activations still fit

Int8 = npt.NDArray[np.int8]


def saturating(graph: Path) -> list[str]:
    """Return the names of the int8 weights with which sums of two products can leave 16 bits.

    Processors without VNNI or dot products (AVX2 and AVX-512's `vpmaddubsw`) add the products of two neighbouring
    weights, rows 2i and 2i + 1, with unsigned activations in 16 bits, and cut off what does not fit.
    """
    return [name for name, weights in _matrices(onnx.load(str(graph))) if _can_saturate(weights)]


def count_wide(graph: Path) -> int:
    """Return how many int8 weights of matrix products are outside +-64, where 7 bits would end."""
    return sum(int((np.abs(w.astype(np.int16)) > SAFE).sum()) for _, w in _matrices(onnx.load(str(graph))))


def reduce_saturating(
    fp32: Path | onnx.ModelProto, int8: Path, reduced: Path, *, per_channel: bool, keep: Collection[str] = ()
) -> NodeCounts:
    """Write an int8 graph in which no sum saturates: weights that could make one take 7 bits, all others stay.

    Args:
        fp32: graph to read, or its file.
        int8: the graph that `quantize_graph` made of it.
        reduced: file to write.
        per_channel: as `int8` was made.
        keep: as `int8` was made.

    Returns:
        What the written graph holds.

    Raises:
        GraphError: if a weight could saturate even so.
    """
    doomed = {name.removesuffix(QUANTIZED) for name in saturating(int8)}
    whole = {tensor.name: tensor for tensor in onnx.load(str(int8)).graph.initializer}
    quantize_graph(fp32, reduced, per_channel=per_channel, reduce_range=True, keep=keep)
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
    used = {node.input[1] for node in model.graph.node if node.op_type in INTEGER_MATMUL}
    for tensor in model.graph.initializer:
        if tensor.name in used and tensor.data_type == onnx.TensorProto.INT8:
            yield tensor.name, numpy_helper.to_array(tensor)


def _can_saturate(weights: Int8) -> bool:
    pairs = weights[: len(weights) // 2 * 2].reshape(-1, 2, weights.shape[1]).astype(np.int32)
    least, most = np.minimum(pairs, 0).sum(axis=1).min(initial=0), np.maximum(pairs, 0).sum(axis=1).max(initial=0)
    return bool(ACTIVATION * least < SUMS[0] or ACTIVATION * most > SUMS[1])
