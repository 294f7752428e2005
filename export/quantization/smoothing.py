"""Activations made fit for one 8-bit range: equal in fp32, with less of the range lost to a few large channels.

Dynamic int8 has one range for a whole activation, so one channel of 28 among channels of 2 takes four bits from all the
others. Two remedies, chosen for each activation by the error of its products on real pairs:

- smoothing: channel j is divided by s_j = max|X_j|^a / max|W_j|^(1 - a) and row j of the weights, which have a range
  for each output, multiplied by it (Xiao et al. 2023, "SmoothQuant", eq. 4);
- outliers apart: the k largest channels are multiplied in fp32 beside the int8 product, where they are zero (Dettmers
  et al. 2022, "LLM.int8()", section 3.2).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from rankdistill.export.graphs.graph_files import APART

LEAST = 1e-5  # of a channel's maximum: a channel of zeros has no scale
WORTH = 1.5  # the simplest remedy is taken whose error is at most so many times the least: each step costs time

Float32 = npt.NDArray[np.float32]
Feed = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Remedy:
    """What is done to an activation.

    Attributes:
        factor: float32 [channels], what the activation is multiplied by; 0 for channels apart.
        apart: int64 [k], channels multiplied in fp32.
        products: names of the products that the activation feeds.
        error: of the int8 products with the remedy, root of the mean square over that of the products.
        plain_error: without.
    """

    factor: Float32
    apart: npt.NDArray[np.int64]
    products: tuple[str, ...]
    error: float
    plain_error: float

    @property
    def smoothed(self) -> bool:
        """Return whether channels are scaled."""
        return bool(len(np.unique(self.factor[self.factor > 0])) > 1)


def products_of(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """Return the matrix products with a constant fp32 matrix: the node's name, its activation and its matrix."""
    matrices = {t.name for t in model.graph.initializer if len(t.dims) == 2 and t.data_type == TensorProto.FLOAT}
    nodes = (node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in matrices)
    return {node.name: (node.input[0], node.input[1]) for node in nodes if not node.name.endswith(APART)}


def choose_remedies(
    model: onnx.ModelProto, feeds: Sequence[Feed], *, strength: float | None, outliers: int
) -> dict[str, Remedy]:
    """Choose for each activation what makes its int8 products closest to fp32; nothing where nothing helps.

    Args:
        model: fp32 graph.
        feeds: inputs of the graph, one pair each, that nothing is measured on later.
        strength: of smoothing, the exponent a; None for no smoothing.
        outliers: channels that may be kept apart; 0 for none.

    Returns:
        The remedies by activation; the same graph and feeds give the same.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    fed: dict[str, list[tuple[str, str]]] = {}
    for name, (activation, matrix) in products_of(model).items():
        fed.setdefault(activation, []).append((name, matrix))
    found = {}
    for activation, samples in activations_of(model, list(fed), feeds):
        weights = np.concatenate([numpy_helper.to_array(stored[matrix]) for _, matrix in fed[activation]], axis=1)
        names = tuple(name for name, _ in fed[activation])
        if remedy := _choose(samples, weights, names, strength, outliers):
            found[activation] = remedy
    return found


def smooth(model: onnx.ModelProto, remedies: Mapping[str, Remedy], keep: Collection[str]) -> onnx.ModelProto:
    """Return the graph with remedies applied to the products that will be quantized; its scores stay the same.

    Args:
        model: fp32 graph; not changed.
        remedies: by activation, of `choose_remedies`.
        keep: names of products that stay as they are.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    products, nodes, evened = products_of(model), [], set()
    stored = {tensor.name: tensor for tensor in changed.graph.initializer}
    for node in changed.graph.node:
        activation = products[node.name][0] if node.name in products else ""
        if activation not in remedies or node.name in keep:
            nodes.append(node)
            continue
        remedy, even = remedies[activation], f"{activation}.even"
        if activation not in evened:
            evened.add(activation)
            changed.graph.initializer.append(numpy_helper.from_array(remedy.factor, f"{even}.factor"))
            nodes.append(helper.make_node("Mul", [activation, f"{even}.factor"], [even], name=even))
            if len(remedy.apart):
                changed.graph.initializer.append(numpy_helper.from_array(remedy.apart, f"{activation}.outliers"))
                inputs = [activation, f"{activation}.outliers"]
                nodes.append(helper.make_node("Gather", inputs, [f"{even}.outliers"], name=f"{even}.outliers", axis=-1))
        matrix = stored[node.input[1]]
        weights = numpy_helper.to_array(matrix)
        scale = np.divide(1, remedy.factor, out=np.zeros_like(remedy.factor), where=remedy.factor != 0)
        matrix.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weights * scale[:, None]), matrix.name))
        node.input[0] = even
        nodes.append(node)
        if len(remedy.apart):
            side = np.ascontiguousarray(weights[remedy.apart])
            changed.graph.initializer.append(numpy_helper.from_array(side, f"{matrix.name}{APART}"))
            result, part = node.output[0], f"{node.name}{APART}"
            node.output[0] = f"{node.name}.rest"
            nodes.append(helper.make_node("MatMul", [f"{even}.outliers", f"{matrix.name}{APART}"], [part], name=part))
            nodes.append(helper.make_node("Add", [node.output[0], part], [result], name=f"{node.name}.whole"))
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed


def quantized_error(
    samples: Sequence[Float32], weights: Float32, factor: Float32, apart: npt.NDArray[np.int64]
) -> float:
    """Return the error of an int8 product: the root of its mean square over that of the fp32 product.

    Args:
        samples: activations, float32 [rows, channels] a pair; each pair has a range of its own.
        weights: float32 [channels, outputs]; each output has a scale of its own.
        factor: float32 [channels], what the activation is multiplied by; 0 for channels apart.
        apart: int64 [k], channels multiplied in fp32.
    """
    scale = np.divide(1, factor, out=np.zeros_like(factor), where=factor != 0)
    rounded = _round_weights(weights * scale[:, None])
    wrong = whole = 0.0
    for sample in samples:
        exact = sample @ weights
        product = _round_activation(sample * factor) @ rounded + sample[:, apart] @ weights[apart]
        wrong += float(np.square(product - exact).sum())
        whole += float(np.square(exact).sum())
    return float(np.sqrt(wrong / max(whole, LEAST)))


def _choose(
    samples: Sequence[Float32], weights: Float32, products: tuple[str, ...], strength: float | None, outliers: int
) -> Remedy | None:
    """Return the simplest remedy that is about as good as the best; None if that is to do nothing."""
    largest = np.max([np.abs(sample).max(axis=0) for sample in samples], axis=0)
    scales = [np.ones_like(largest)]
    if strength is not None:
        heaviest = np.abs(weights).max(axis=1)
        scale = np.maximum(largest, LEAST) ** strength / np.maximum(heaviest, LEAST) ** (1 - strength)
        scales.append((scale / np.exp(np.log(scale).mean())).astype(np.float32))
    apart = [np.empty(0, dtype=np.int64)]
    if 0 < outliers < len(largest):
        apart.append(np.sort(np.argsort(-largest, kind="stable")[:outliers]).astype(np.int64))
    tried = []
    for channels, scale in itertools.product(apart, scales):
        factor = (1 / scale).astype(np.float32)
        factor[channels] = 0
        tried.append((quantized_error(samples, weights, factor, channels), factor, channels))
    least = min(error for error, _, _ in tried)
    number, (error, factor, channels) = next(each for each in enumerate(tried) if each[1][0] <= WORTH * least)
    return Remedy(factor, channels, products, error, tried[0][0]) if number else None


def activations_of(
    model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed]
) -> list[tuple[str, list[Float32]]]:
    """Return each activation's values, float32 [rows, channels] a feed."""
    import onnxruntime as ort

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values: list[list[Float32]] = [[] for _ in names]
    for feed in feeds:
        for kept, value in zip(values, session.run(list(names), dict(feed)), strict=True):
            kept.append(value.reshape(-1, value.shape[-1]))
    return list(zip(names, values, strict=True))


def _round_weights(weights: Float32) -> Float32:
    """Return weights as symmetric int8 with a scale an output gives them back."""
    scale = np.abs(weights).max(axis=0) / np.float32(127)
    scale[scale == 0] = 1
    return np.asarray(np.round(weights / scale) * scale, dtype=np.float32)


def _round_activation(values: Float32) -> Float32:
    """Return an activation as u8 over its whole range gives it back (ONNX's DynamicQuantizeLinear)."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    zero = np.clip(np.round(-low / scale), 0, 255)
    return np.asarray((np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale, dtype=np.float32)
