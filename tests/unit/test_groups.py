"""Groups of candidates: every candidate once an epoch, graded ones spread, deterministic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.groups import NONE, draw_groups
from distill.records import Split


def make_split(sizes: list[int], seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    offsets = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    grade = rng.integers(0, 3, offsets[-1]).astype(np.int32)
    return Split(np.arange(len(sizes), dtype=np.int32), offsets, np.arange(offsets[-1], dtype=np.int32), grade)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(2, 9), st.integers(1, 5), st.integers(0, 99))
def test_an_epoch_deals_every_pair_once_and_never_mixes_queries(sizes, size, batch, seed):
    split = make_split(sizes)
    lengths = np.random.default_rng(seed).integers(5, 80, split.pairs)
    groups = draw_groups(split, lengths, size=size, batch=batch, epochs=1, max_pairs=None, seed=seed)
    rows = groups[groups != NONE]
    assert sorted(rows.tolist()) == list(range(split.pairs))
    query = split.pair_query()
    for group in groups:
        assert len(set(query[group[group != NONE]].tolist())) == 1


def test_relevant_candidates_are_spread_over_a_querys_groups():
    split = Split(
        np.array([0], np.int32),
        np.array([0, 40]),
        np.arange(40, dtype=np.int32),
        np.r_[np.full(5, 2), np.zeros(35)].astype(np.int32),
    )
    groups = draw_groups(split, np.full(40, 9), size=8, batch=1, epochs=1, max_pairs=None, seed=3)
    assert [(split.grade[group] == 2).sum() for group in groups] == [1] * 5


def test_same_seed_same_groups_other_seed_others():
    split = make_split([20, 30, 17])
    lengths = np.full(split.pairs, 9)
    options = {"size": 4, "batch": 2, "epochs": 2, "max_pairs": None}
    first = draw_groups(split, lengths, seed=1, **options)
    np.testing.assert_array_equal(first, draw_groups(split, lengths, seed=1, **options))
    assert not np.array_equal(first, draw_groups(split, lengths, seed=2, **options))


@pytest.mark.parametrize(
    ("epochs", "max_pairs", "expected"), [(1, None, 20), (2, None, 40), (0.5, None, 10), (3, 48, 12)]
)
def test_length_of_a_training(epochs, max_pairs, expected):
    split = make_split([40, 40])
    groups = draw_groups(split, np.full(80, 9), size=4, batch=2, epochs=epochs, max_pairs=max_pairs, seed=0)
    assert len(groups) == expected


def test_batches_hold_groups_of_like_length():
    split = make_split([8] * 64)
    lengths = np.random.default_rng(0).integers(5, 80, split.pairs)
    groups = draw_groups(split, lengths, size=8, batch=8, epochs=1, max_pairs=None, seed=0)
    longest = lengths[groups].max(axis=1).reshape(-1, 8)
    spread = (longest.max(axis=1) - longest.min(axis=1)).mean()
    assert spread < (longest.max() - longest.min()) / 2
