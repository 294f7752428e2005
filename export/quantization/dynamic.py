"""An fp32 graph to dynamic int8: s8 weights, u8 activations whose range is found at run time."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from rankdistill.export.errors import GraphError
from rankdistill.export.graphs.graph_files import APART, BY_HEAD, NodeCounts, count_nodes
from rankdistill.export.graphs.tables import quantize_tables


def quantize_graph(
    graph: Path | onnx.ModelProto, quantized: Path, *, per_channel: bool, reduce_range: bool, keep: Collection[str] = ()
) -> NodeCounts:
    """Write the int8 graph of an fp32 one.

    Args:
        graph: fp32 graph, or its file; not changed.
        quantized: file to write.
        per_channel: whether every output channel of a weight has a scale of its own.
        reduce_range: whether weights take 7 bits, so that AVX2's 16-bit sums cannot saturate.
        keep: names of products and look-ups that stay fp32.

    Returns:
        What the int8 graph holds.

    Raises:
        GraphError: if a matrix product that should be quantized stayed fp32, or nothing was quantized.
    """
    model = onnx.load(str(graph)) if isinstance(graph, Path) else _copy(graph)
    quantize_tables(model, keep)
    stays = (APART, BY_HEAD)
    kept = [n.name for n in model.graph.node if n.op_type == "Gather" or n.name in keep or n.name.endswith(stays)]
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # its advice on preprocessing is for static quantization
    try:
        quantize_dynamic(
            model,
            quantized,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=reduce_range,
            nodes_to_exclude=kept,
            # without a default type, a graph whose shapes are not all known raises "Unable to find data type"
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
    finally:
        logging.root.setLevel(level)
    counts = count_nodes(quantized)
    if left := fp32_products(onnx.load(str(quantized))) - set(keep):
        raise GraphError(f"{quantized}: {sorted(left)[0]} and {len(left) - 1} other matrix products stayed fp32")
    if counts.quantized + counts.quantized_embeddings == 0:
        raise GraphError(f"{quantized}: nothing was quantized, {counts.left_fp32} matrix products are left in fp32")
    return counts


def fp32_products(model: onnx.ModelProto) -> set[str]:
    """Return the names of the products with a constant fp32 matrix, those of outlier channels apart."""
    matrices = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2}
    products = (n for n in model.graph.node if n.op_type in ("MatMul", "Attention") and n.input[1] in matrices)
    return {node.name for node in products if not node.name.endswith(APART)}


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied
