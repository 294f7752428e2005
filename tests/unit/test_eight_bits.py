"""Tables, smoothing, blocks of weights and fused nodes in 8 bits, each against its formula."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from rankdistill.errors import ConfigError
from rankdistill.export.errors import GraphError
from rankdistill.export.graphs.bert_graph import write_bert_graph
from rankdistill.export.graphs.graph_files import FP32, FULL, INT8, INT8_AVX2, WEIGHT8, Graphs, count_nodes
from rankdistill.export.graphs.node_groups import excluded, group_names, group_of, node_names
from rankdistill.export.graphs.tables import quantize_tables
from rankdistill.export.graphs.variants import served_int8
from rankdistill.export.quantization.int8 import FusedInt8, Int8, quantizable
from rankdistill.export.quantization.ranker_graphs import Weight8
from rankdistill.export.quantization.saturation import count_wide, saturating
from rankdistill.export.quantization.smoothing import choose_remedies, products_of, quantized_error, smooth
from rankdistill.export.quantization.weight8 import BLOCK, pack_blocks
from rankdistill.export.runtime.processor import abilities
from rankdistill.export.runtime.scorer import BatchScorer, PairScorer
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.export.torch_models.checkpoint import save_ranker
from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from tests.composing import composed
from tests.conftest import THINGS, WORDS, write_encoder

LAYERS = 2
SERVED = served_int8(abilities())  # of int8 graphs the one that this processor computes exactly


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranker") / "model"
    write_encoder(folder, [*WORDS, *THINGS], layers=LAYERS)
    torch.manual_seed(1)
    save_ranker(ClsOnlyBert.from_pretrained(folder, num_labels=1), str(folder))
    return folder


@pytest.fixture(scope="module")
def graphs(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    write_bert_graph(checkpoint, folder / FP32, cls_only=True, opset=18)
    write_bert_graph(checkpoint, folder / FULL, cls_only=False, opset=18)
    return Graphs(checkpoint, folder, True, 18)


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return PairEncoder.load(checkpoint, 24)


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS + THINGS, rng.integers(1, 12))) for _ in range(40)]


@pytest.fixture(scope="module")
def feeds(encoder, pairs):
    ids = encoder.ids(pairs)
    return [encoder.one(ids[n], ids[n + 1]) for n in range(0, 38, 2)]


def run(model, feeds):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.array([session.run(None, feed)[0][0, 0] for feed in feeds])


def look_up(table):
    node = helper.make_node("Gather", ["table", "rows"], ["out"], name="words")
    inputs = [helper.make_tensor_value_info("rows", TensorProto.INT64, [None])]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, table.shape[1]])]
    graph = helper.make_graph([node], "g", inputs, outputs, [numpy_helper.from_array(table, "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return model


@settings(max_examples=20)
@given(arrays(np.float32, (20, 3), elements=st.floats(-1e3, 1e3, width=32)))
def test_a_tables_row_is_off_by_half_a_step_of_its_own(table):
    model = look_up(table)
    quantize_tables(model)
    (found,) = ort.InferenceSession(model.SerializeToString()).run(None, {"rows": np.arange(20)})
    step = np.abs(table).max(axis=1, keepdims=True) / 127
    assert (np.abs(found - table) <= step * 0.5001 + 1e-30).all()
    assert {t.name for t in model.graph.initializer} == {"table_quantized", "table_scale"}


def test_a_small_table_and_an_id_map_stay_as_they_are():
    small = look_up(np.ones((16, 2), dtype=np.float32))
    before = small.SerializeToString()
    quantize_tables(small)
    assert small.SerializeToString() == before
    model = look_up(np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32))
    ids = np.arange(100, dtype=np.int32) % 30
    model.graph.initializer.append(numpy_helper.from_array(ids, "ids"))
    model.graph.node.insert(0, helper.make_node("Gather", ["ids", "rows"], ["mapped"], name="map"))
    model.graph.node[1].input[1] = "mapped"
    quantize_tables(model)
    (found,) = ort.InferenceSession(model.SerializeToString()).run(None, {"rows": np.array([5, 35, 99])})
    np.testing.assert_array_equal(found[0], found[1])
    assert [t.data_type for t in model.graph.initializer if t.name == "ids"] == [TensorProto.INT32]


@pytest.mark.parametrize(("strength", "outliers"), [(0.5, 0), (0.9, 0), (None, 3), (0.8, 1)])
def test_smoothing_changes_no_score_in_fp32(graphs, feeds, strength, outliers):
    model = onnx.load(graphs.folder / FP32)
    remedies = poisoned_remedies(model, feeds, strength, outliers)
    evened = smooth(model, remedies, ())
    assert len(evened.graph.node) > len(model.graph.node)
    np.testing.assert_allclose(run(evened, feeds), run(model, feeds), atol=2e-5)


def poisoned_remedies(model, feeds, strength, outliers):
    """Make one channel of a normalisation 50 times as large, and return what is done against it."""
    for tensor in model.graph.initializer:
        if tensor.name == "bert.encoder.layer.0.attention.output.LayerNorm.weight":
            values = numpy_helper.to_array(tensor).copy()
            values[7] *= 50
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return choose_remedies(model, feeds, strength=strength, outliers=outliers)


def test_an_outlier_channel_is_what_is_set_apart(graphs, feeds):
    model = onnx.load(graphs.folder / FP32)
    found = poisoned_remedies(model, feeds, None, 1)["bert.encoder.layer.0.attention.output.LayerNorm.out"]
    assert found.apart.tolist() == [7]
    assert found.factor[7] == 0
    assert (np.delete(found.factor, 7) == 1).all()
    assert found.error < found.plain_error / 3


def test_the_error_told_is_that_of_onnxruntimes_int8(graphs, feeds, tmp_path):
    """One product by itself, with its activation's range found and rounded by onnxruntime."""
    from rankdistill.export.quantization.dynamic import quantize_graph

    rng = np.random.default_rng(0)
    sample, weights = rng.normal(size=(9, 24)).astype(np.float32), rng.normal(size=(24, 6)).astype(np.float32)
    sample[:, 3] *= 20
    node = helper.make_node("MatMul", ["in", "w"], ["out"], name="product")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [9, k]) for n, k in (("in", 24), ("out", 6))]
    graph = helper.make_graph([node], "g", values[:1], values[1:], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    quantize_graph(model, tmp_path / "q.onnx", per_channel=True, reduce_range=False)
    (product,) = ort.InferenceSession(tmp_path / "q.onnx").run(None, {"in": sample})
    exact = sample @ weights
    told = quantized_error([sample], weights, np.ones(24, dtype=np.float32), np.empty(0, dtype=np.int64))
    assert told == pytest.approx(np.sqrt(((product - exact) ** 2).sum() / (exact**2).sum()), rel=0.02)


def test_kept_products_are_not_smoothed(graphs, feeds):
    model = onnx.load(graphs.folder / FP32)
    remedies = poisoned_remedies(model, feeds, 0.8, 1)
    assert smooth(model, remedies, list(products_of(model))) == model


@given(arrays(np.float32, st.tuples(st.integers(1, 70), st.integers(1, 5)), elements=st.floats(-100, 100, width=32)))
def test_blocks_give_weights_back_within_half_a_step(weights):
    blocks, scales = pack_blocks(weights)
    back = ((blocks.astype(np.float32) - 128) * scales[:, :, None]).reshape(weights.shape[1], -1)
    assert (back[:, weights.shape[0] :] == 0).all()
    step = np.repeat(scales, BLOCK, axis=1)[:, : weights.shape[0]]
    assert (np.abs(back[:, : weights.shape[0]].T - weights) <= step.T * 0.5001 + 1e-30).all()


def test_weight8_scores_do_not_depend_on_company_and_are_close_to_fp32(graphs, encoder, pairs):
    (row,) = Weight8().write(graphs)
    assert (row["file"], row["precision"]) == (WEIGHT8, "weight8")
    assert (row["quantized"], row["quantized_embeddings"], row["left_fp32"]) == (
        6 * LAYERS,
        1,
        0,
    )  # the last layer has no keys and values
    nodes = onnx.load(graphs.folder / WEIGHT8).graph.node
    assert sum(node.op_type == "MatMulNBits" for node in nodes) == row["quantized"]
    alone = PairScorer(graphs.folder / WEIGHT8, encoder, 1).score(pairs[0], pairs[1:])
    shared = PairScorer(graphs.folder / WEIGHT8, encoder, 2, batch=4).score(pairs[0], pairs[1:])
    np.testing.assert_allclose(shared, alone, atol=1e-6)
    fp32 = BatchScorer(graphs.folder / FP32, encoder, 1).score(pairs[0], pairs[1:])
    assert np.abs(alone - fp32).max() > 0
    assert np.corrcoef(alone, fp32)[0, 1] > 0.99


def test_fused_int8_holds_what_was_asked_for(graphs, encoder, pairs):
    rows = FusedInt8(per_channel=True, reduce_range=False).write(graphs)
    assert [row["file"] for row in rows] == [INT8, INT8_AVX2]
    assert rows[0]["fused_attention"] == LAYERS - 1  # the last one computes [CLS] alone
    assert rows[0]["fused_activation"] == LAYERS
    assert rows[0]["quantized"] == 6 * LAYERS + 2 - 2 * (LAYERS - 1)  # q, k and v in one
    assert saturating(graphs.folder / INT8_AVX2) == []
    int8 = PairScorer(graphs.folder / SERVED, encoder, 1).score(pairs[0], pairs[1:])
    fp32 = BatchScorer(graphs.folder / FP32, encoder, 1).score(pairs[0], pairs[1:])
    assert np.corrcoef(int8, fp32)[0, 1] > 0.95


def test_int8_comes_closer_to_fp32_when_evened(graphs, encoder, pairs, feeds, tmp_path_factory):
    model = onnx.load(graphs.folder / FP32)
    part = "bert.encoder.layer.0.attention"
    for tensor in model.graph.initializer:  # one channel of the values 300 times as large, which fp32 does not notice
        values, factor = numpy_helper.to_array(tensor).copy(), np.float32(300)
        if tensor.name in (f"{part}.self.value.weight", f"{part}.self.value.bias"):
            values[..., 7] *= factor
        elif tensor.name == f"{part}.output.dense.weight":
            values[7] /= factor
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    folder = tmp_path_factory.mktemp("evened")
    onnx.save(model, folder / FP32)
    onnx.save(onnx.load(graphs.folder / FULL), folder / FULL)
    fp32 = BatchScorer(folder / FP32, encoder, 1).score(pairs[0], pairs[1:])
    away = []
    for strength, outliers in ((None, 0), (0.8, 1)):
        int8 = Int8(True, False, strength, outliers, (), feeds)
        row = int8.write(Graphs(graphs.checkpoint, folder, True, 18))[0]
        assert row["wide_weights"] == count_wide(folder / INT8) > 0
        assert bool(row["smoothed"]) == bool(outliers)
        away.append(np.abs(PairScorer(folder / SERVED, encoder, 1).score(pairs[0], pairs[1:]) - fp32).mean())
    assert away[1] < away[0] / 2


def test_every_node_that_can_take_8_bits_has_the_group_and_name_that_options_may_use(graphs):
    nodes = quantizable(onnx.load(graphs.folder / FP32))
    assert sorted(nodes) == sorted(node_names(LAYERS, keyless=True))
    assert list(dict.fromkeys(map(group_of, nodes))) == group_names(LAYERS)


@pytest.mark.parametrize(
    ("pattern", "number"),
    [("embeddings", 1), ("layer.0.qkv", 3), ("layer.1.qkv", 1), ("layer.*", 10), ("*.value.product", 1), ("*", 13)],
)
def test_patterns_name_groups_and_nodes(pattern, number):
    assert len(excluded([pattern], node_names(LAYERS, keyless=True))) == number


def test_a_pattern_that_names_nothing_is_refused():
    with pytest.raises(GraphError, match=r"quantize.exclude=layer.2.output: allowed are .*layer.1.output, pooler"):
        excluded(["layer.2.output"], node_names(LAYERS, keyless=True))


def test_counting_by_hand(graphs, feeds):
    Int8(True, False, None, 2, ("pooler",), feeds).write(graphs)
    nodes = onnx.load(graphs.folder / INT8).graph.node
    counts = count_nodes(graphs.folder / INT8)
    apart = [node for node in nodes if node.name.endswith(".apart")]
    assert counts.apart == len(apart)
    assert counts.left_fp32 == 1
    assert counts.quantized == sum(node.op_type == "MatMulInteger" for node in nodes) == 6 * LAYERS - 1


def test_a_calibration_that_nothing_is_fitted_to_is_refused():
    asked = ["quantize.smooth=null", "quantize.calibration=5"]
    assert composed(*asked).quantize.calibration == 5  # outlier channels are
    with pytest.raises(ConfigError, match=r"quantize\.calibration=5: allowed is 16 with quantize\.smooth=null"):
        composed(*asked, "quantize.outliers=0")
