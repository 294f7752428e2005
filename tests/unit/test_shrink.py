"""Narrower students: what is kept is most important, and a cut model is the masked one, exactly."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification

from rankdistill.data.records import Split
from rankdistill.export.torch_models.checkpoint import load_ranker, save_ranker
from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from rankdistill.models import importance as importance_
from rankdistill.models.importance import Importance, fisher, magnitude, measure, taylor
from rankdistill.models.masked_bert import Masks, masked_scores
from rankdistill.models.narrowing import Parts, choose_parts, cut
from rankdistill.options.student_width import Width

LAYERS, HIDDEN, HEADS, NEURONS = 2, 16, 4, 24
TEACHER = Width(HIDDEN, HEADS, NEURONS)


class Pairs:
    """Random pairs of 5 to 9 tokens, as `tokens.PairTokens` gives them: 6 queries with 8 candidates each."""

    def __init__(self, queries: int = 6, candidates: int = 8) -> None:
        rng = np.random.default_rng(0)
        count = queries * candidates
        self.lengths = rng.integers(5, 10, count)
        self.ids = rng.integers(5, 50, (count, 9))
        offsets = np.arange(queries + 1) * candidates
        grades = np.tile(np.arange(candidates) % 3, queries).astype(np.int32)
        self.split = Split(np.arange(queries, dtype=np.int32), offsets, np.arange(count, dtype=np.int32), grades)

    def batch(self, rows):
        mask = (np.arange(9) < self.lengths[rows][:, None]).astype(np.int64)
        return {
            "input_ids": self.ids[rows] * mask,
            "attention_mask": mask,
            "token_type_ids": (np.arange(9) >= 3).astype(np.int64) * mask,
        }

    def inputs(self):
        return {name: torch.from_numpy(value) for name, value in self.batch(np.arange(len(self.ids))).items()}


def bert(seed: int = 0, kind: type = ClsOnlyBert) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=NEURONS, max_position_embeddings=16, num_labels=1, initializer_range=0.5,
        attn_implementation="eager",
    )  # fmt: skip
    model = kind(config)
    with torch.no_grad():  # LayerNorm begins as the identity: it would hide a wrong order of its dimensions
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def scores(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**Pairs().inputs()).logits[:, 0]


def random_importance(rng: np.random.Generator) -> Importance:
    ones = {name: mask.shape[1:] for name, mask in Masks.ones(bert(), 1).tensors().items()}
    return Importance(**{name: rng.random(shape).astype(np.float32) for name, shape in ones.items()})


def masks_of(parts: Parts, pairs: int) -> Masks:
    """Return masks that are 1 at these parts and 0 elsewhere."""
    masks = Masks.ones(bert(), pairs)
    with torch.no_grad():
        for name, kept in vars(parts).items():
            mask = getattr(masks, name)
            chosen = torch.zeros(mask.shape[1:])
            chosen.scatter_(-1, torch.from_numpy(kept), 1.0)
            mask.copy_(chosen.expand_as(mask))
    return masks


def test_masks_of_ones_change_nothing():
    model = bert()
    found = masked_scores(model, Pairs().inputs(), Masks.ones(model, 48)).detach()
    torch.testing.assert_close(found, scores(bert(kind=BertForSequenceClassification)), rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([(16, 4), (8, 2), (8, 4), (12, 3), (12, 4), (4, 1), (6, 3), (2, 2), (1, 1)]),
    st.integers(1, NEURONS),
    st.integers(0, 999),
)
def test_a_cut_model_scores_as_the_masked_one(shape, neurons, seed):
    """Masks of 0 take parts out of every product and of LayerNorm's statistics: another way to the same scores."""
    width, model = Width(*shape, neurons), bert()
    parts = choose_parts(random_importance(np.random.default_rng(seed)), width)
    narrow = cut(model, parts, width)
    assert Width.of(narrow.config.to_dict()) == width
    expected = masked_scores(model, Pairs().inputs(), masks_of(parts, 48)).detach()
    torch.testing.assert_close(scores(narrow), expected, rtol=1e-4, atol=1e-4)


def test_what_nothing_reads_is_cut_without_a_trace():
    """A narrow model, written twice into a wide one: LayerNorm's statistics are the same over one half as over both.

    Nothing reads the second half of the stream, of the heads, of the neurons and of the pooled, so cutting it off
    leaves the narrow model's own weights and scores.
    """
    config = bert().config.to_dict() | {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
    torch.manual_seed(3)
    narrow, wide = ClsOnlyBert(BertConfig(**config, attn_implementation="eager")).eval(), bert()
    state = {}
    for name, value in narrow.state_dict().items():
        twice = torch.cat([value, value]) if value.shape[0] in (8, 12) else value
        if value.ndim == 2:  # embeddings are written twice, all other columns read the first half
            twice = torch.cat([twice, twice if "embeddings" in name else torch.zeros_like(twice)], dim=1)
        state[name] = twice
    wide.load_state_dict(state)
    torch.testing.assert_close(scores(wide), scores(narrow), rtol=1e-4, atol=1e-5)
    falling = {name: -np.arange(value.size).reshape(value.shape) for name, value in vars(magnitude(wide)).items()}
    again = cut(wide, choose_parts(Importance(**falling), Width(8, 2, 12)), Width(8, 2, 12))
    assert all(torch.equal(value, narrow.state_dict()[name]) for name, value in again.state_dict().items())
    torch.testing.assert_close(scores(again), scores(narrow), rtol=1e-5, atol=1e-6)


def test_head_sizes_keep_the_scale_of_products():
    """Half of the head size with the dropped half 0 in queries: the same attention, though the root in it changes."""
    model, width = bert(), Width(HIDDEN // 2, HEADS, NEURONS)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            for part in (layer.attention.self.query.weight, layer.attention.self.query.bias):
                part.reshape(HEADS, 4, -1)[:, 2:] = 0
    everything = random_importance(np.random.default_rng(0))
    first = np.tile(np.array([1.0, 1.0, 0.0, 0.0], dtype=np.float32), (LAYERS, HEADS))
    parts = choose_parts(replace(everything, products=first), width)
    loose = replace(parts, products=np.tile(np.arange(HIDDEN), (LAYERS, 1)))
    expected = masked_scores(model, Pairs().inputs(), masks_of(loose, 48)).detach()
    torch.testing.assert_close(scores(cut(model, parts, width)), expected, rtol=1e-4, atol=1e-4)


def test_the_largest_parts_are_kept_heads_before_dimensions():
    ones = random_importance(np.random.default_rng(0))
    heads = np.array([[0.1, 0.9, 0.2, 0.8], [0.9, 0.1, 0.8, 0.2]], dtype=np.float32)
    products = np.tile(np.array([4, 3, 2, 1], dtype=np.float32), (LAYERS, HEADS))
    values = np.tile(np.array([1, 2, 3, 4], dtype=np.float32), (LAYERS, HEADS))
    hidden = np.arange(HIDDEN, dtype=np.float32)
    parts = choose_parts(replace(ones, heads=heads, products=products, values=values, hidden=hidden), Width(4, 2, 3))
    assert parts.products.tolist() == [[4, 5, 12, 13], [0, 1, 8, 9]]
    assert parts.values.tolist() == [[6, 7, 14, 15], [2, 3, 10, 11]]
    assert parts.hidden.tolist() == [12, 13, 14, 15]
    for layer, kept in zip(ones.neurons, parts.neurons, strict=True):
        assert kept.tolist() == sorted(np.argsort(layer)[-3:].tolist())


def wiggled(model, name: str, part: tuple[int, ...], step: float) -> np.ndarray:
    masks = Masks.ones(model, 48)
    with torch.no_grad():
        masks = Masks(**{each: mask.double() for each, mask in masks.tensors().items()})
        getattr(masks, name)[(slice(None), *part)] += step
        return masked_scores(model, Pairs().inputs(), masks).numpy()


PARTS = [("hidden", (3,)), ("heads", (0, 2)), ("products", (0, 5)), ("values", (1, 7)), ("neurons", (1, 11)),
         ("pooled", (9,))]  # fmt: skip


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_fisher_is_the_sum_of_squares_of_finite_differences_of_margins(name, part):
    model, pairs = bert().double(), Pairs()
    slope = (wiggled(model, name, part, 1e-4) - wiggled(model, name, part, -1e-4)) / 2e-4
    # each query's 8 candidates are one group; half the mean over ordered couples is the sum around the group's mean
    slope = slope.reshape(6, 8)
    expected = ((slope[:, :, None] - slope[:, None]) ** 2).sum() / (2 * 8)
    found = getattr(fisher(bert(), pairs, 48, 0), name)[part]
    assert found == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_taylor_is_the_finite_difference_of_the_margin_mse(name, part, monkeypatch):
    monkeypatch.setattr(importance_, "BATCH", 6)  # one step, whose loss is the mean over all groups
    model = bert().double()
    wanted = scores(bert(1)).numpy()

    def loss(step: float) -> float:
        error = (wiggled(model, name, part, step) - wanted).reshape(6, 8)
        margins = error[:, :, None] - error[:, None]
        upper = np.triu_indices(8, 1)
        return float((margins[:, upper[0], upper[1]] ** 2).mean())

    expected = abs(loss(1e-4) - loss(-1e-4)) / 2e-4
    found = getattr(taylor(bert(), Pairs(), wanted, 48, 0), name)[part]
    assert found == pytest.approx(expected, rel=2e-2)


def test_taylor_sees_nothing_in_a_model_that_equals_its_teacher_and_fisher_does():
    model = bert()
    with torch.no_grad():
        same = scores(model).numpy()
    assert taylor(model, Pairs(), same, 48, 0).neurons.max() < 1e-4
    assert fisher(model, Pairs(), 48, 0).neurons.min() > 1e-9


def test_magnitude_is_the_norm_of_what_goes():
    model = bert()
    layer = model.bert.encoder.layer[1]
    into, out = layer.intermediate.dense.weight[4].detach(), layer.output.dense.weight[:, 4].detach()
    assert magnitude(model).neurons[1, 4] == pytest.approx(float(into.norm() * out.norm()), rel=1e-5)
    with torch.no_grad():
        layer.output.dense.weight[:, 4] = 0
    assert magnitude(model).neurons[1, 4] == 0


@pytest.mark.parametrize("criterion", ["fisher", "taylor", "magnitude"])
def test_what_goes_into_nothing_is_worth_nothing(criterion):
    model = bert()
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[:, 7] = 0
        model.classifier.weight[0, 3] = 0
    found = measure(model, Pairs(), np.zeros(48, np.float32), criterion=criterion, count=48, seed=0)
    assert (found.neurons[0] == 0).nonzero()[0].tolist() == [7]
    assert (found.pooled == 0).nonzero()[0].tolist() == [3]


def test_importance_hangs_on_the_seed_and_on_no_number_of_threads():
    many = Pairs(queries=40)
    teacher = np.zeros(320, np.float32)
    threads, found = torch.get_num_threads(), []
    try:
        for number, seed in ((1, 0), (2, 0), (1, 1)):
            torch.set_num_threads(number)
            found.append(measure(bert(), many, teacher, criterion="fisher", count=64, seed=seed))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(value, vars(found[1])[name]) for name, value in vars(found[0]).items())
    assert not np.array_equal(found[0].hidden, found[2].hidden)


def test_a_cut_checkpoint_is_an_ordinary_one(tmp_path):
    width = Width(8, 2, 12)
    narrow = cut(bert(), choose_parts(fisher(bert(), Pairs(), 48, 0), width), width)
    assert isinstance(narrow, ClsOnlyBert)
    assert not narrow.training
    assert narrow.config._attn_implementation == "eager"
    save_ranker(narrow, str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    ordinary, notes = BertForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(notes.values())
    torch.testing.assert_close(scores(ordinary.eval()), scores(narrow), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores(load_ranker(str(tmp_path), cls_only=True)), scores(narrow), rtol=1e-5, atol=1e-5)
