"""The graphs of a split ranker: the whole one is the model, and the two halves are the whole one."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rankdistill.export.graphs.bert_graph import write_bert_graph
from rankdistill.export.graphs.graph_files import FP32, FULL, FUSED, GRAPHS_FILE, INT8_AVX2, WEIGHT8, halves
from rankdistill.export.graphs.split_bert_graph import item_parts, write_split_graphs
from rankdistill.export.quantization.int8 import Int8
from rankdistill.export.quantization.ranker_graphs import Weight8, write_graphs
from rankdistill.export.runtime.item_states import PARTS, ItemStates
from rankdistill.export.runtime.scorer import open_session
from rankdistill.export.runtime.split_scorer import (
    ITEM_SCALES,
    ITEM_STATES,
    QUERY_STATES,
    STATES,
    UPPER_INPUTS,
    SplitScorer,
)
from rankdistill.export.torch_models.checkpoint import load_ranker, save_ranker
from rankdistill.export.torch_models.split_bert import split
from tests.unit.test_split_bert import LAYERS, POSITION, ordinary, pairs

PAIRS = pairs([(3, 9), (5, 2), (4, 4), (9, 14), (2, 1)], 2)


@pytest.fixture(scope="module", params=[(1, True), (3, True), (2, False)])
def made(request, tmp_path_factory):
    layers, cls_only = request.param
    folder = tmp_path_factory.mktemp("cls" if cls_only else "all")
    save_ranker(split(ordinary(), layers, POSITION), str(folder))
    write_bert_graph(folder, folder / FP32, cls_only=cls_only, opset=18)
    write_split_graphs(folder, folder / "lower.onnx", folder / "upper.onnx", cls_only=cls_only, opset=18)
    return folder


def test_the_whole_graph_gives_the_scores_of_the_model(made):
    model, session = load_ranker(str(made), cls_only=True), open_session(made / FP32, 1)
    found = session.run(["logits"], {name: value.numpy() for name, value in PAIRS.items()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, model(**PAIRS).logits.numpy(), atol=2e-5)


def above(model, rounded: torch.Tensor, states: torch.Tensor) -> np.ndarray:
    """Return the score from keys, values and states, by transformers' modules and torch's attention."""
    first, *rest = model.bert.encoder.layer[model.config.split_layers :]
    query, key, value = (
        each.view(1, -1, 4, 4).transpose(1, 2)
        for each in (first.attention.self.query(states), rounded[:, :, 0], rounded[:, :, 1])
    )
    with torch.no_grad():
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        hidden = first.attention.output(mixed.transpose(1, 2).flatten(2), states)
        hidden = first.output(first.intermediate(hidden), hidden)
        for layer in rest:
            hidden = layer(hidden)
        return model.classifier(model.bert.pooler(hidden)).numpy()


def test_the_halves_give_the_scores_of_the_whole_but_for_the_rounding_of_states(made):
    whole, lower = open_session(made / FP32, 1), open_session(made / "lower.onnx", 1, STATES)
    upper, model = open_session(made / "upper.onnx", 1, inputs=UPPER_INPUTS), load_ranker(str(made), cls_only=True)
    for ids, mask, types in zip(*(each.numpy() for each in PAIRS.values()), strict=True):
        states = []
        for kind in (0, 1):
            text = ids[(mask == 1) & (types == kind)][None]
            feed = {"input_ids": text, "attention_mask": np.ones_like(text), "token_type_ids": np.full_like(text, kind)}
            states.append(lower.run([STATES], feed)[0])
        parts = item_parts(LAYERS - model.config.split_layers, made.name.startswith("cls"))
        item = ItemStates.of(states[1], parts)
        feed = {QUERY_STATES: states[0], ITEM_STATES: item.values, ITEM_SCALES: item.scales}
        found = upper.run(["logits"], feed)[0]
        rounded = torch.from_numpy(np.concatenate([states[0][:, :, :parts], item.values * item.scales], axis=1))
        whole_states = torch.from_numpy(states[0][:, :, 2])
        if parts == PARTS:
            whole_states = torch.cat([whole_states, rounded[:, states[0].shape[1] :, 2]], dim=1)
        np.testing.assert_allclose(found, above(model, rounded, whole_states), atol=2e-5)
        pair = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        wanted = whole.run(["logits"], {name: value[mask == 1][None] for name, value in pair.items()})[0]
        np.testing.assert_allclose(found, wanted, atol=0.05)


@pytest.mark.parametrize("kind", ["int8", "smooth", "excluded", "weight8"])
def test_halves_in_8_bits_are_near_the_whole_one_in_8_bits(made, tmp_path, kind):
    feeds = [{name: value[:1].numpy() for name, value in PAIRS.items()}]
    plain = Int8(per_channel=True, reduce_range=False, smooth=None, outliers=0, exclude=(), feeds=())
    quantization = {
        "int8": plain,
        "smooth": replace(plain, smooth=0.5, outliers=2, feeds=feeds),
        "excluded": replace(plain, exclude=("embeddings",)),
        "weight8": Weight8(),
    }[kind]
    write_graphs(made, tmp_path, cls_only=True, opset=18, quantization=quantization)
    graph = WEIGHT8 if kind == "weight8" else INT8_AVX2
    rows = {row["file"]: row for row in json.loads((tmp_path / GRAPHS_FILE).read_text())}
    assert {graph, *halves(graph), FP32, *halves(FP32)} <= set(rows)
    assert not {FULL, FUSED} & set(rows)
    assert sum(rows[half]["quantized"] for half in halves(graph)) == rows[graph]["quantized"]
    encoder = SimpleNamespace(cls=2, sep=3, max_length=40, cut=lambda query, item: (query, item))
    lower, upper = (tmp_path / half for half in halves(graph))
    scorer = SplitScorer((lower, upper), encoder, 1, None, 1)
    rng = np.random.default_rng(0)
    queries, items = ([rng.integers(4, 40, size).astype(np.int32) for size in sizes] for sizes in ([3, 5], [6, 9]))
    whole = open_session(tmp_path / FP32, 1)
    wanted = []
    for query, item in zip(queries, items, strict=True):
        ids = np.concatenate([[2], query, [3], item, [3]]).astype(np.int64)[None]
        types = (np.arange(ids.shape[1]) >= len(query) + 2).astype(np.int64)[None]
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
        wanted.append(whole.run(["logits"], feed)[0][0, 0])
    np.testing.assert_allclose(scorer.score_tokens(queries, items), wanted, atol=0.3)
