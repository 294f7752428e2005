"""What a graph holds: nodes fused, quantized and left, counted from the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# the graphs of a checkpoint that are served: fp32, int8, int8 for processors whose sums saturate; and those that they
# are compared with: traced, its int8, and traced with its attentions fused
FP32, INT8, INT8_AVX2 = "model.onnx", "int8.onnx", "int8_avx2.onnx"
FULL, FULL_INT8, FUSED = "full.onnx", "full_int8.onnx", "fused.onnx"
WEIGHT8 = "weight8.onnx"  # served where only weights take 8 bits
LOWER, UPPER = "lower_", "upper_"  # begin the names of a split ranker's halves, before the name of the whole graph
STATES = "states"  # the engine that runs the halves of a split ranker, with items' states between them
GRAPHS_FILE = "graphs.json"  # what each of them holds
EXACT_INT8 = ("avx512_vnni", "avx_vnni", "arm64")  # abilities of processors whose 8-bit products never saturate

BUILT = {  # values of a checkpoint's configuration that graphs are built of
    "hidden_act": ("gelu", "relu", "gelu_new", "gelu_pytorch_tanh"),
    "position_embedding_type": ("absolute",),
}
UNTOLD = {"position_embedding_type": "absolute"}  # what a configuration means that does not tell
FUSED_ATTENTION = ("Attention", "MultiHeadAttention", "QAttention")
FUSED_ACTIVATION = ("Gelu", "BiasGelu", "FastGelu", "QuickGelu")
INTEGER_MATMUL = ("MatMulInteger", "DynamicQuantizeMatMul", "QAttention")
EIGHT_BIT_WEIGHTS = "MatMulNBits"
BY_HEAD = ".by_head"  # ends the name of a product with a matrix of each head, in fp32 in every graph
APART = ".apart"  # ends the name of a product of a few outlier channels in fp32, beside the int8 one


def unbuildable(config: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Yield what no graph is built of: its name, its value in a checkpoint's configuration, and the values that are."""
    for name, built in BUILT.items():
        value = config.get(name, UNTOLD.get(name))
        if value not in built:
            yield name, value, built


@dataclass(frozen=True)
class Graphs:
    """A checkpoint's graphs as they are being made.

    Attributes:
        checkpoint: folder of a BERT cross-encoder.
        folder: where the graphs are written.
        cls_only: whether what is served computes the last layer for [CLS] alone.
        opset: of the graphs.
        is_split: whether the checkpoint is a split ranker, whose graphs have halves; none of it is traced.
    """

    checkpoint: Path
    folder: Path
    cls_only: bool
    opset: int
    is_split: bool = False


def halves(graph: str) -> tuple[str, str]:
    """Return the names of the lower and the upper half of a split ranker's graph."""
    return f"{LOWER}{graph}", f"{UPPER}{graph}"


@dataclass(frozen=True)
class NodeCounts:
    """Nodes of a graph by what was done to them.

    Attributes:
        nodes: all of them.
        fused_attention: whole attentions in one node.
        fused_activation: activation functions in one node.
        quantized: matrix products in 8 bits.
        quantized_embeddings: embedding tables kept in 8 bits.
        left_fp32: matrix products with a constant matrix that stayed fp32.
        apart: fp32 products of a few outlier channels beside an int8 product.
        by_head: fp32 products of [CLS] with each head's own matrix: one row, which 8 bits would not make faster.
    """

    nodes: int
    fused_attention: int
    fused_activation: int
    quantized: int
    quantized_embeddings: int
    left_fp32: int
    apart: int
    by_head: int

    def as_dict(self) -> dict[str, Any]:
        """Return the counts by name."""
        return asdict(self)


def count_nodes(graph: Path) -> NodeCounts:
    """Count the nodes of the graph in a file."""
    import onnx  # here: naming a graph's file must not load it

    model = onnx.load(str(graph))
    constant = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kinds = Counter(node.op_type for node in model.graph.node)
    fp32 = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm", "FusedMatMul") and n.input[1] in constant]
    apart, by_head = (sum(node.name.endswith(end) for node in fp32) for end in (APART, BY_HEAD))
    eight_bits = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    tables = sum(node.op_type == "Gather" and constant.get(node.input[0]) in eight_bits for node in model.graph.node)
    return NodeCounts(
        nodes=len(model.graph.node),
        fused_attention=sum(kinds[kind] for kind in FUSED_ATTENTION),
        fused_activation=sum(kinds[kind] for kind in FUSED_ACTIVATION),
        quantized=sum(kinds[kind] for kind in (*INTEGER_MATMUL, EIGHT_BIT_WEIGHTS)),
        quantized_embeddings=tables,
        left_fp32=len(fp32) - apart - by_head,
        apart=apart,
        by_head=by_head,
    )
