"""Steps of groups: every candidate once an epoch, graded ones spread, within the token budget, deterministic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.data.records import Split
from rankdistill.training import steps as groups
from rankdistill.training.steps import NONE, draw_steps


def make_split(sizes: list[int], seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    offsets = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    grade = rng.integers(0, 3, offsets[-1]).astype(np.int32)
    return Split(np.arange(len(sizes), dtype=np.int32), offsets, np.arange(offsets[-1], dtype=np.int32), grade)


def draw(split, lengths, **options):
    defaults = {"size": 8, "batch": 8, "tokens": None, "epochs": 1, "max_pairs": None, "seed": 0}
    return draw_steps(split, lengths, **defaults | options)


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=12)
TOKENS = st.none() | st.integers(1, 3000)


@settings(max_examples=150, deadline=None)
@given(SIZES, st.integers(2, 9), st.integers(1, 5), TOKENS, st.integers(0, 99))
def test_an_epoch_deals_every_pair_once_and_never_mixes_queries(sizes, size, batch, tokens, seed):
    split = make_split(sizes)
    lengths = np.random.default_rng(seed).integers(5, 80, split.pairs)
    steps = draw(split, lengths, size=size, batch=batch, tokens=tokens, seed=seed)
    groups = np.concatenate([steps[number] for number in range(len(steps))])
    rows = groups[groups != NONE]
    assert sorted(rows.tolist()) == list(range(split.pairs))
    assert steps.pairs == split.pairs
    assert steps.mean_groups * len(steps) == pytest.approx(len(groups))
    query = split.pair_query()
    for group in groups:
        assert len(set(query[group[group != NONE]].tolist())) == 1


@settings(max_examples=150, deadline=None)
@given(SIZES, st.integers(2, 9), st.integers(1, 3000), st.integers(0, 99))
def test_no_step_of_several_groups_has_more_tokens_than_the_budget(sizes, size, tokens, seed):
    split = make_split(sizes)
    lengths = np.random.default_rng(seed).integers(5, 80, split.pairs)
    steps = draw(split, lengths, size=size, tokens=tokens, seed=seed)
    for number in range(len(steps)):
        groups = steps[number]
        rows = groups[groups != NONE]
        assert len(groups) == 1 or len(rows) * lengths[rows].max() <= tokens


def test_short_texts_come_in_larger_steps():
    split = make_split([8] * 400)
    lengths = np.random.default_rng(0).integers(10, 81, 400).repeat(8)
    steps = draw(split, lengths, tokens=8 * 8 * 45)
    spent = [lengths[steps[n]].max() * steps[n].size for n in range(len(steps))]
    assert np.mean(spent) > 0.85 * 8 * 8 * 45
    longest, counts = zip(*((lengths[steps[n]].max(), len(steps[n])) for n in range(len(steps))), strict=True)
    assert np.corrcoef(longest, counts)[0, 1] < -0.8


@pytest.mark.parametrize(("pairs", "batch"), [(40 * 8, 8), (37 * 8, 8), (3 * 8, 8)])
def test_without_a_budget_steps_hold_the_groups_asked_for(pairs, batch):
    steps = draw(make_split([pairs]), np.full(pairs, 9), batch=batch)
    counts = sorted((len(steps[n]) for n in range(len(steps))), reverse=True)
    assert counts == [batch] * (pairs // 8 // batch) + [pairs // 8 % batch] * (pairs // 8 % batch > 0)


def test_relevant_candidates_are_spread_over_a_querys_groups():
    split = Split(
        np.array([0], np.int32),
        np.array([0, 40]),
        np.arange(40, dtype=np.int32),
        np.r_[np.full(5, 2), np.zeros(35)].astype(np.int32),
    )
    groups = draw(split, np.full(40, 9), batch=1, seed=3).groups
    assert [(split.grade[group] == 2).sum() for group in groups] == [1] * 5


@pytest.mark.parametrize("tokens", [None, 200])
def test_same_seed_same_steps_other_seed_others(tokens):
    split = make_split([20, 30, 17])
    lengths = np.random.default_rng(0).integers(5, 30, split.pairs)
    options = {"size": 4, "batch": 2, "epochs": 2, "tokens": tokens}
    first, again = (draw(split, lengths, seed=1, **options) for _ in range(2))
    np.testing.assert_array_equal(first.groups, again.groups)
    np.testing.assert_array_equal(first.offsets, again.offsets)
    assert not np.array_equal(first.groups, draw(split, lengths, seed=2, **options).groups)


@pytest.mark.parametrize("tokens", [None, 100])
@pytest.mark.parametrize(
    ("epochs", "max_pairs", "expected"), [(1, None, 20), (2, None, 40), (0.5, None, 10), (3, 48, 12)]
)
def test_length_of_a_training(epochs, max_pairs, expected, tokens):
    split = make_split([40, 40])
    steps = draw(split, np.full(80, 9), size=4, batch=2, epochs=epochs, max_pairs=max_pairs, tokens=tokens)
    assert len(steps.groups) == expected


@settings(max_examples=150, deadline=None)
@given(SIZES, st.integers(2, 9), st.integers(1, 5), TOKENS, st.integers(1, 400), st.integers(1, 6))
def test_a_training_shows_as_many_pairs_as_it_may(sizes, size, batch, tokens, max_pairs, epochs):
    split = make_split(sizes)
    lengths = np.full(split.pairs, 9)
    options = {"size": size, "batch": batch, "tokens": tokens, "epochs": epochs}
    steps = draw(split, lengths, max_pairs=max_pairs, **options)
    least = min(batch if tokens is None else 1, len(draw(split, lengths, size=size).groups))
    assert steps.pairs <= max_pairs or len(steps.groups) == least
    assert steps.pairs > min(max_pairs, epochs * split.pairs) - size  # a group is not parted


@pytest.mark.parametrize("tokens", [None, 8 * 8 * 60])
def test_steps_hold_groups_of_like_length(tokens):
    split = make_split([8] * 64)
    lengths = np.random.default_rng(0).integers(5, 80, split.pairs)
    steps = draw(split, lengths, tokens=tokens)
    longest = [lengths[steps[n]].max(axis=1) for n in range(len(steps))]
    spread = np.mean([step.max() - step.min() for step in longest])
    assert spread < (np.concatenate(longest).max() - np.concatenate(longest).min()) / 2


@pytest.mark.parametrize(("max_pairs", "dealt"), [(48, 1), (80, 1), (84, 2), (None, 50)])
def test_epochs_that_max_pairs_leaves_nothing_of_are_not_dealt(monkeypatch, max_pairs, dealt):
    split, rounds = make_split([8] * 10), []
    deal = groups._deal
    monkeypatch.setattr(groups, "_deal", lambda *each: rounds.append(deal(*each)) or rounds[-1])
    steps = draw(split, np.full(80, 9), size=4, batch=2, epochs=50, max_pairs=max_pairs)
    assert len(rounds) == dealt
    assert steps.pairs == (max_pairs or 50 * 80)
