"""The [CLS]-only model and every graph of it against the ordinary model, on random and on real text."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from rankdistill.export.errors import GraphError, ModelError
from rankdistill.export.graphs.bert_graph import write_bert_graph
from rankdistill.export.graphs.graph_files import FP32, FULL, FULL_INT8, FUSED, INT8, INT8_AVX2, count_nodes
from rankdistill.export.graphs.traced_graph import fuse_graph, trace_graph
from rankdistill.export.measure.systems import System
from rankdistill.export.quantization.dynamic import quantize_graph
from rankdistill.export.quantization.int8 import Int8
from rankdistill.export.quantization.ranker_graphs import write_graphs
from rankdistill.export.quantization.saturation import saturating
from rankdistill.export.runtime.scorer import BatchScorer, PairScorer
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.export.torch_models.checkpoint import load_ranker, save_ranker
from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from tests.conftest import THINGS, WORDS

LAYERS = 3
PLAIN = Int8(per_channel=False, reduce_range=False, smooth=None, outliers=0, exclude=(), feeds=())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from tests.conftest import write_encoder

    folder = tmp_path_factory.mktemp("ranker") / "model"
    write_encoder(folder, [*WORDS, *THINGS], layers=LAYERS)
    torch.manual_seed(1)
    save_ranker(ClsOnlyBert.from_pretrained(folder, num_labels=1), str(folder))
    return folder


@pytest.fixture(scope="module")
def graphs(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("graphs")
    write_graphs(checkpoint, out, cls_only=True, opset=18, quantization=PLAIN)
    return out


@pytest.fixture(scope="module")
def lists():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS + THINGS, rng.integers(1, 12))) for _ in range(60)]
    return [(texts[n], texts[n + 1 : n + 8]) for n in range(0, 50, 7)]


def shape(checkpoint):
    return json.loads((checkpoint / "config.json").read_text())


def scores(scorer, lists):
    return np.concatenate([scorer.score(query, items) for query, items in lists])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_cls_only_scores_and_gradients_equal_the_ordinary_model(checkpoint, attention):
    ordinary = BertForSequenceClassification.from_pretrained(checkpoint, attn_implementation=attention).eval()
    short = load_ranker(str(checkpoint), cls_only=True, attention=attention)
    torch.manual_seed(0)
    ids = torch.randint(5, 60, (6, 20))
    mask = (torch.arange(20) < torch.tensor([20, 3, 7, 12, 20, 5])[:, None]).long()
    types = (torch.arange(20) > 8).long().expand(6, 20)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    one, other = ordinary(**inputs).logits, short(**inputs).logits
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    one.sum().backward()
    other.sum().backward()
    for (name, a), b in zip(ordinary.named_parameters(), short.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=2e-4, rtol=1e-3, msg=name)


def test_checkpoint_stays_an_ordinary_bert(checkpoint):
    assert json.loads((checkpoint / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    assert type(AutoModelForSequenceClassification.from_pretrained(checkpoint)) is BertForSequenceClassification


def test_fp32_graphs_equal_pytorch_on_text(checkpoint, graphs, lists):
    expected = scores(System("m", "pytorch", "fp32", checkpoint, None, 24, 0).open(1), lists)
    for name in (FP32, FULL, FUSED):
        for kind in (BatchScorer, PairScorer):
            values = scores(kind(graphs / name, PairEncoder.load(checkpoint, 24), 2), lists)
            np.testing.assert_allclose(values, expected, atol=1e-5, err_msg=f"{name} {kind.__name__}")


def test_counts_are_what_the_layers_ask_for(graphs):
    counts = {row["file"]: row for row in json.loads((graphs / "graphs.json").read_text())}
    assert set(counts) == {FP32, FULL, FUSED, INT8, INT8_AVX2, FULL_INT8}
    # query, key, value, output and two feed-forward ones a layer; pooler and classifier; the last has no key and value
    products = 6 * LAYERS + 2 - 2
    assert counts[FP32]["left_fp32"] == products
    assert counts[FP32]["by_head"] == counts[INT8]["by_head"] == 2
    assert counts[FULL_INT8]["by_head"] == 0
    assert counts[INT8]["quantized"] == products
    assert counts[INT8]["left_fp32"] == 0
    assert counts[INT8]["quantized_embeddings"] == 1  # the words
    assert counts[FULL_INT8]["quantized_embeddings"] == 2  # traced, positions are looked up too
    assert counts[FUSED]["fused_attention"] == counts[FUSED]["fused_activation"] == LAYERS
    assert counts[FP32]["nodes"] < counts[FULL]["nodes"] / 2
    assert (counts[INT8]["cls_only"], counts[FULL_INT8]["cls_only"]) == (True, False)


def test_all_attentions_of_the_full_graph_are_fused(checkpoint, graphs, tmp_path):
    counts = fuse_graph(graphs / FULL, tmp_path / "f.onnx", shape=shape(checkpoint), attentions=LAYERS)
    assert counts.fused_attention == LAYERS


def test_a_graph_that_does_not_fuse_as_asked_is_an_error(checkpoint, graphs, tmp_path):
    with pytest.raises(GraphError, match="3 attentions were fused, 2 were asked for"):
        fuse_graph(graphs / FULL, tmp_path / "f.onnx", shape=shape(checkpoint), attentions=2)


def test_int8_scores_do_not_depend_on_company_order_or_threads(checkpoint, graphs, lists):
    encoder = PairEncoder.load(checkpoint, 24)
    query, items = lists[0]
    many, alone = PairScorer(graphs / INT8, encoder, 3), PairScorer(graphs / INT8, encoder, 1)
    together = many.score(query, items)
    np.testing.assert_array_equal(together, [alone.score(query, [item])[0] for item in items])
    np.testing.assert_array_equal(together[::-1], many.score(query, items[::-1]))


def test_int8_keeps_most_of_the_order(checkpoint, graphs, lists):
    fp32 = scores(BatchScorer(graphs / FP32, PairEncoder.load(checkpoint, 24), 1), lists)
    int8 = scores(PairScorer(graphs / INT8, PairEncoder.load(checkpoint, 24), 1), lists)
    assert 0 < np.abs(fp32 - int8).max() < np.ptp(fp32) / 2
    assert np.corrcoef(fp32, int8)[0, 1] > 0.95


def test_reduce_range_keeps_weights_within_seven_bits(graphs, tmp_path):
    quantize_graph(graphs / FP32, tmp_path / "r.onnx", per_channel=True, reduce_range=True)
    weights = list(matrices(tmp_path / "r.onnx")[0].values())
    assert len(weights) == 6 * LAYERS  # the last layer has no keys and values
    assert max(np.abs(w.astype(int)).max() for w in weights) <= 64


def matrices(graph):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph)
    used = {node.input[1] for node in model.graph.node if node.op_type == "MatMulInteger"}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: stored[name] for name in used}, stored


def worst_sums(weights):
    """The furthest 16-bit sums of two neighbouring products, by brute force over activations that make them."""
    sums = []
    for k in range(0, len(weights) - 1, 2):
        for a in (0, 255):
            for b in (0, 255):
                sums.append(a * weights[k].astype(int) + b * weights[k + 1].astype(int))
    return np.min(sums), np.max(sums)


def test_no_sum_of_the_avx2_graph_leaves_16_bits_and_no_other_weight_changes(graphs):
    full, everything = matrices(graphs / INT8)
    narrow, stored = matrices(graphs / INT8_AVX2)
    risky = {name for name, w in full.items() if worst_sums(w)[0] < -(1 << 15) or worst_sums(w)[1] > (1 << 15) - 1}
    assert risky == set(saturating(graphs / INT8))
    assert risky  # else this says nothing
    for name, weights in narrow.items():
        low, high = worst_sums(weights)
        assert -(1 << 15) <= low <= high <= (1 << 15) - 1, name
    changed = {name for name, value in stored.items() if not np.array_equal(value, everything[name])}
    assert changed == risky | {name.replace("_quantized", "_scale") for name in risky}


def test_a_graph_that_cannot_saturate_stays_as_it_is(graphs, tmp_path):
    write = {"per_channel": False, "reduce_range": True}
    quantize_graph(graphs / FP32, tmp_path / "seven.onnx", **write)
    assert saturating(tmp_path / "seven.onnx") == []


def test_no_items_give_no_scores(checkpoint, graphs):
    encoder = PairEncoder.load(checkpoint, 24)
    assert PairScorer(graphs / INT8, encoder, 2).score("red", []).shape == (0,)
    assert BatchScorer(graphs / FP32, encoder, 1).score("red", []).shape == (0,)


def test_what_is_no_ranker_is_refused(encoder, tmp_path, checkpoint):
    with pytest.raises(ModelError, match="is no BERT checkpoint"):
        load_ranker(str(tmp_path), cls_only=True)
    BertForSequenceClassification.from_pretrained(
        checkpoint, num_labels=2, ignore_mismatched_sizes=True
    ).save_pretrained(tmp_path / "two")
    with pytest.raises(ModelError, match="with 2 outputs"):
        load_ranker(str(tmp_path / "two"), cls_only=True)
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="cannot be run by onnxruntime"):
        PairScorer(tmp_path / "broken.onnx", PairEncoder.load(checkpoint, 24), 1)


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("cls_only", [True, False])
def test_the_built_graph_has_pytorchs_scores_in_padded_batches(encoder, tmp_path, activation, cls_only):
    import onnxruntime

    config = json.loads((encoder / "config.json").read_text())
    torch.manual_seed(3)
    model = BertForSequenceClassification.from_pretrained(encoder, num_labels=1, hidden_act=activation).eval()
    assert config["hidden_act"] == "gelu"
    model.save_pretrained(tmp_path)
    write_bert_graph(tmp_path, tmp_path / "g.onnx", cls_only=cls_only, opset=17)
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx")
    for pairs, tokens in ((1, 1), (1, 30), (7, 20)):
        ids = torch.randint(5, 60, (pairs, tokens))
        lengths = torch.randint(1, tokens + 1, (pairs,))
        mask = (torch.arange(tokens) < lengths[:, None]).long()
        types = (torch.arange(tokens) > tokens // 2).long().expand(pairs, tokens)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        with torch.no_grad():
            expected = model(**inputs).logits.numpy()
        (found,) = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_the_builder_does_not_know_is_refused(checkpoint, tmp_path):
    config = json.loads((checkpoint / "config.json").read_text())
    for change, message in (
        ({"hidden_act": "silu"}, "hidden_act=silu; built are gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type=relative_key"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=message):
            write_bert_graph(tmp_path, tmp_path / "g.onnx", cls_only=True, opset=18)


def test_graphs_are_reproducible(checkpoint, graphs, tmp_path):
    trace_graph(checkpoint, tmp_path / "traced.onnx", cls_only=False, opset=18)
    write_bert_graph(checkpoint, tmp_path / "built.onnx", cls_only=True, opset=18)
    for name, again in ((FULL, "traced.onnx"), (FP32, "built.onnx")):
        assert (tmp_path / again).read_bytes() == (graphs / name).read_bytes()
        assert count_nodes(tmp_path / again) == count_nodes(graphs / name)
