"""An fp32 graph to one whose weights alone take 8 bits, in blocks that each have a scale: onnxruntime's MatMulNBits.

Activations are rounded block by block, a token at a time (accuracy_level 4), so that a score depends on nothing but its
pair. onnxruntime's own MatMulNBitsQuantizer writes the same, but asks for a further library (onnx_ir).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from rankdistill.export.errors import GraphError
from rankdistill.export.graphs.graph_files import EIGHT_BIT_WEIGHTS, NodeCounts, count_nodes
from rankdistill.export.graphs.tables import quantize_tables
from rankdistill.export.quantization.dynamic import fp32_products

BITS, ZERO = 8, 128  # weights are stored unsigned
BLOCK = 32  # weights that share a scale: the closest to fp32, and no slower than 64 or 128
INT8_SUMS = 4  # accuracy_level: activations in int8 too
DOMAIN = "com.microsoft"


def write_weight8(graph: Path, written: Path) -> NodeCounts:
    """Write a graph whose constant matrices and tables take 8 bits.

    Args:
        graph: fp32 graph to read.
        written: file to write.

    Returns:
        What the written graph holds.

    Raises:
        GraphError: if it has no matrix product with a constant matrix.
    """
    model = onnx.load(str(graph))
    quantize_tables(model)
    products = fp32_products(model)
    if not products:
        raise GraphError(f"{graph}: no matrix product with constant weights")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.name not in products:
            nodes.append(node)
            continue
        matrix = stored.pop(node.input[1])
        weights = numpy_helper.to_array(matrix)
        blocks, scales = pack_blocks(weights)
        names = [f"{matrix.name}_blocks", f"{matrix.name}_scales"]
        model.graph.initializer.remove(matrix)
        model.graph.initializer.extend(map(numpy_helper.from_array, (blocks, scales), names))
        shape = {"K": weights.shape[0], "N": weights.shape[1], "bits": BITS, "block_size": BLOCK}
        nodes.append(
            helper.make_node(
                EIGHT_BIT_WEIGHTS, [node.input[0], *names], list(node.output), name=node.name, domain=DOMAIN,
                accuracy_level=INT8_SUMS, **shape,
            )
        )  # fmt: skip
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    onnx.save(model, str(written))
    return count_nodes(written)


def pack_blocks(weights: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return a matrix as MatMulNBits reads it: column by column, in blocks of `BLOCK`, zero at 128.

    Args:
        weights: float32 [inputs, outputs].

    Returns:
        uint8 [outputs, blocks, BLOCK], the last block filled with zeros; float32 [outputs, blocks], max|block| / 127.
    """
    inputs, outputs = weights.shape
    number = -(-inputs // BLOCK)
    padded = np.zeros((number * BLOCK, outputs), dtype=np.float32)
    padded[:inputs] = weights
    blocks = padded.T.reshape(outputs, number, BLOCK)
    scales = np.abs(blocks).max(axis=2) / np.float32(127)
    scales[scales == 0] = 1
    rounded = np.round(blocks / scales[:, :, None]) + ZERO
    return rounded.astype(np.uint8), scales
