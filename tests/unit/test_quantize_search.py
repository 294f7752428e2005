"""The search for what stays fp32, against brute force, and on a graph with one ruined group."""

from __future__ import annotations

import itertools
import json

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from rankdistill.export.errors import GraphError
from rankdistill.export.graphs.bert_graph import write_bert_graph
from rankdistill.export.graphs.graph_files import FP32, FULL, INT8, INT8_AVX2, Graphs, count_nodes
from rankdistill.export.graphs.node_groups import group_names
from rankdistill.export.quantization.greedy_search import Closeness, Limits, search
from rankdistill.export.quantization.int8 import Int8
from rankdistill.export.quantization.saturation import saturating
from rankdistill.export.quantization.searched_int8 import DevLists, SearchedInt8, group_costs
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.export.torch_models.checkpoint import save_ranker
from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from tests.conftest import THINGS, WORDS, write_encoder

POISONED = "bert.encoder.layer.0.intermediate.dense"


def additive(errors):
    """Errors of groups that add up, as a ranking would show them."""
    total = sum(errors.values())

    def evaluate(kept):
        left = total - sum(errors[group] for group in kept)
        return Closeness(ndcg=1 - left / 10, tau=1 - left, overlap=1 - left / 2)

    return evaluate


def cheapest(costs, evaluate, limits):
    sets = (frozenset(s) for n in range(len(costs) + 1) for s in itertools.combinations(costs, n))
    return min(sum(costs[group] for group in kept) for kept in sets if limits.hold(evaluate(kept)))


groups = st.dictionaries(
    st.sampled_from("abcdefg"),
    st.tuples(st.floats(0.01, 1), st.floats(0, 0.05)),
    min_size=1,
)


@given(groups, st.floats(0, 0.1), st.floats(0.9, 1))
def test_what_is_kept_holds_the_limits_and_none_of_it_is_needless(found, drop, overlap):
    costs, errors = {g: c for g, (c, _) in found.items()}, {g: e for g, (_, e) in found.items()}
    evaluate, limits = additive(errors), Limits(drop, overlap)
    choice = search(costs, evaluate, limits)
    assert limits.hold(choice.closeness) or len(choice.kept) == len(costs)
    assert choice.met == (len(choice.kept) < len(costs))
    if choice.met:
        for group in choice.kept:
            assert not limits.hold(evaluate(frozenset(choice.kept) - {group}))
    assert choice.closeness == evaluate(frozenset(choice.kept))
    assert choice.evaluations <= 2 ** len(costs)


@given(st.lists(st.floats(0.001, 0.05), min_size=2, max_size=7), st.floats(0.9, 0.999))
def test_with_equal_costs_the_choice_is_the_cheapest_by_brute_force(values, overlap):
    errors = {f"g{number}": value for number, value in enumerate(values)}
    costs, limits = dict.fromkeys(errors, 1.0), Limits(1.0, overlap)
    evaluate = additive(errors)
    choice = search(costs, evaluate, limits)
    # a sum in another order may fall to the other side of a limit by its last bit
    assert len(choice.kept) <= cheapest(costs, evaluate, Limits(1.0, overlap + 1e-9)) + 1e-9


def test_each_group_is_told_with_what_it_alone_changes():
    choice = search({"a": 1.0, "b": 2.0}, additive({"a": 0.1, "b": 0.02}), Limits(1.0, 0.98))
    assert choice.kept == ("a",)
    assert choice.evaluations == 3
    rows = {row["group"]: row for row in choice.as_json()["groups"]}
    assert rows["a"]["kept"]
    assert not rows["b"]["kept"]
    assert rows["a"]["tau_gain"] == pytest.approx(0.1)
    assert rows["b"]["overlap_gain"] == pytest.approx(0.01)


def test_limits_that_nothing_in_int8_keeps_are_not_met():
    choice = search({"a": 1.0, "b": 2.0}, additive({"a": 0.1, "b": 0.02}), Limits(0.0, 1.0))
    assert not choice.met
    assert set(choice.kept) == {"a", "b"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poisoned") / "model"
    write_encoder(folder, [*WORDS, *THINGS], layers=2)
    torch.manual_seed(1)
    save_ranker(ClsOnlyBert.from_pretrained(folder, num_labels=1), str(folder))
    return folder


@pytest.fixture(scope="module")
def lists(checkpoint):
    rng = np.random.default_rng(0)
    encoder = PairEncoder.load(checkpoint, 24)
    texts = [" ".join(rng.choice(WORDS + THINGS, rng.integers(2, 9))) for _ in range(210)]
    tokens = [(encoder.ids([texts[n]])[0], encoder.ids(texts[n + 1 : n + 20])) for n in range(0, 200, 20)]
    grades = rng.integers(0, 3, sum(len(items) for _, items in tokens)).astype(np.int32)
    return DevLists(tokens, grades, encoder, 1)


@pytest.fixture(scope="module")
def feeds(lists):
    return [lists.encoder.one(query, items[0]) for query, items in lists.tokens]


@pytest.fixture
def graphs(checkpoint, tmp_path):
    """A graph in which one row of one matrix is so large that 8 bits, one scale for all of it, leave nothing else."""
    write_bert_graph(checkpoint, tmp_path / FP32, cls_only=True, opset=18)
    write_bert_graph(checkpoint, tmp_path / FULL, cls_only=False, opset=18)
    model = onnx.load(tmp_path / FP32)
    for tensor in model.graph.initializer:
        if tensor.name == f"{POISONED}.weight":
            weights = numpy_helper.to_array(tensor).copy()
            weights[:, 0] = 0
            weights[3, 0] = 200  # one output reads one input, and is large
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
        if tensor.name == f"{POISONED}.bias":
            values = numpy_helper.to_array(tensor).copy()
            values[0] = -1e6  # and GELU makes nothing of it: fp32 loses little, and no activation is large
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / FP32)
    return Graphs(checkpoint, tmp_path, True, 18)


def by_tensor(feeds, **changes):
    options = {
        "per_channel": False,
        "reduce_range": False,
        "smooth": None,
        "outliers": 0,
        "exclude": (),
        "feeds": feeds,
    }
    return Int8(**options | changes)


def test_the_search_finds_the_one_ruined_group(graphs, lists, feeds):
    rows = SearchedInt8(by_tensor(feeds), Limits(1.0, 0.85), lists, INT8).write(graphs)
    row = {each["file"]: each for each in rows}[INT8]
    found = row["search"]
    assert found["met"]
    assert found["kept"] == ["layer.0.intermediate"]
    assert found["begun"]["overlap"] < 0.85 <= found["closeness"]["overlap"]
    effects = {each["group"]: each["tau_gain"] for each in found["groups"]}
    assert set(effects) == set(group_names(2))
    assert max(effects, key=effects.get) == "layer.0.intermediate"
    assert [each["node"] for each in row["kept_fp32"]] == [f"{POISONED}.product"]
    assert row["kept_fp32"][0]["reason"].startswith("search: tau +")
    scores, _ = lists.score(graphs.folder / INT8)
    reference, _ = lists.score(graphs.folder / FP32)
    assert lists.compare(scores, reference, 0).overlap == found["closeness"]["overlap"]


def test_the_counts_of_a_searched_graph_are_those_of_onnx(graphs, lists, feeds):
    rows = SearchedInt8(by_tensor(feeds), Limits(1.0, 0.85), lists, INT8).write(graphs)
    for row in rows[:2]:
        nodes = onnx.load(graphs.folder / row["file"]).graph.node
        assert row["quantized"] == sum(node.op_type == "MatMulInteger" for node in nodes) == 6 * 2 - 1
        assert row["left_fp32"] == sum(
            node.name == f"{POISONED}.product" and node.op_type == "MatMul" for node in nodes
        )
        assert row["nodes"] == len(nodes)
    assert json.loads(json.dumps(rows)) == rows


def test_the_same_search_gives_the_same_graphs(graphs, lists, feeds):
    found = []
    for _ in range(2):
        SearchedInt8(by_tensor(feeds), Limits(1.0, 0.85), lists, INT8).write(graphs)
        found.append([(graphs.folder / name).read_bytes() for name in (INT8, INT8_AVX2)])
    assert found[0] == found[1]


def test_a_budget_that_cannot_be_met_says_so(graphs, lists, feeds):
    others = tuple(group for group in group_names(2) if group != "layer.0.intermediate")
    searched = SearchedInt8(by_tensor(feeds, exclude=others), Limits(0.0, 0.95), lists, INT8)
    with pytest.raises(GraphError, match=r"quantize.max_drop=0, quantize.min_overlap=0.95: the search found no graph"):
        searched.write(graphs)


def test_groups_excluded_by_hand_are_neither_searched_nor_quantized(graphs, lists, feeds):
    int8 = by_tensor(feeds, exclude=("layer.0.inter*",))
    row = SearchedInt8(int8, Limits(1.0, 0.5), lists, INT8).write(graphs)[0]
    assert row["search"]["kept"] == []
    assert "layer.0.intermediate" not in {each["group"] for each in row["search"]["groups"]}
    assert row["kept_fp32"] == [
        {"node": f"{POISONED}.product", "group": "layer.0.intermediate", "reason": "excluded by layer.0.inter*"}
    ]
    assert count_nodes(graphs.folder / INT8).left_fp32 == 1


@pytest.mark.parametrize(("served", "narrow"), [(INT8, False), (INT8_AVX2, True)])
def test_what_is_judged_is_what_this_processor_is_served_with(graphs, lists, feeds, served, narrow, monkeypatch):
    judged = []

    def score(self, graph):
        if graph.name != FP32:
            judged.append(not saturating(graph))
        return original(self, graph)

    original = DevLists.score
    monkeypatch.setattr(DevLists, "score", score)
    rows = SearchedInt8(by_tensor(feeds), Limits(1.0, 0.85), lists, served).write(graphs)
    assert judged
    assert all(judged) or not narrow
    assert saturating(graphs.folder / INT8) or not narrow  # else the two graphs are the same
    found = rows[0]["search"]["closeness"]
    scores, _ = original(lists, graphs.folder / served)
    reference, _ = original(lists, graphs.folder / FP32)
    assert lists.compare(scores, reference, 0).overlap == found["overlap"]


def test_costs_are_shares_of_products_and_bytes(graphs, lists, feeds):
    model = onnx.load(graphs.folder / FP32)
    tokens = np.mean([feed["input_ids"].shape[1] for feed in feeds])
    costs = group_costs(
        model, {"wide": [f"{POISONED}.product"], "first": ["classifier.product"], "embeddings": ["words"]}, feeds
    )
    table = next(t.dims for t in model.graph.initializer if t.name == "bert.embeddings.word_embeddings.weight")
    work, size = tokens * 32 * 64 + 32, 32 * 64 + 32 + np.prod(table)
    assert costs["wide"] == pytest.approx(tokens * 32 * 64 / work + 32 * 64 / size)
    assert costs["first"] == pytest.approx(32 / work + 32 / size)
    assert costs["embeddings"] == pytest.approx(np.prod(table) / size)
