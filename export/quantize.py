"""An fp32 graph to dynamic int8: s8 weights, u8 activations whose range is found at run time."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.errors import GraphError
from export.graph import NodeCounts, count_nodes


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
