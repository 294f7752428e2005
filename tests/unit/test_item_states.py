"""Stored states: what is written is found by its tokens, and nothing else is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.export.errors import UserError
from rankdistill.export.runtime.item_states import (
    ABOUT,
    KEYS,
    OFFSETS,
    PARTS,
    VALUES,
    ItemStates,
    StoredStates,
    keys_of,
    write,
)

WIDTH, LOWER = 6, "f" * 64
ITEMS = st.lists(st.lists(st.integers(0, 5), max_size=6).map(tuple), unique=True, max_size=30)


def store(items: list[tuple[int, ...]], folder: Path) -> tuple[list[np.ndarray], list[ItemStates]]:
    ids = [np.array(item, dtype=np.int32) for item in items]
    ids = [ids[row] for row in np.lexsort(keys_of(ids).T[::-1])]
    rng = np.random.default_rng(0)
    states = [ItemStates.of(rng.normal(size=(1, len(each) + 1, PARTS, WIDTH)).astype(np.float32), 2) for each in ids]
    write(ids, iter(states), {"lower": LOWER, "variant": "fp32"}, (2, WIDTH), 1, folder)
    return ids, states


@settings(max_examples=50, deadline=None)
@given(items=ITEMS, others=ITEMS)
def test_an_item_is_found_by_its_tokens_alone(items, others):
    with tempfile.TemporaryDirectory() as name:
        ids, states = store(items, Path(name))
        stored = StoredStates.open(Path(name), LOWER, 2, WIDTH)
        assert len(stored) == len(items)
        for each, wanted in zip(ids, states, strict=True):
            found = stored.find(each)
            np.testing.assert_array_equal(found.values, wanted.values)
            np.testing.assert_array_equal(found.scales, wanted.scales)
        for other in set(others) - set(items):
            assert stored.find(np.array(other, dtype=np.int32)) is None


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), size=st.floats(1e-6, 1e6))
def test_rounded_states_are_off_by_half_a_step_of_their_token_at_most(seed, size):
    states = (size * np.random.default_rng(seed).normal(size=(1, 5, PARTS, WIDTH))).astype(np.float32)
    states[0, 2] = 0
    found = ItemStates.of(states, 2)
    states = states[:, :, :2]
    step = np.abs(states).max(axis=3, keepdims=True) / 127
    assert (np.abs(found.values * found.scales - states) <= step / 2 * (1 + 1e-5)).all()
    assert found.nbytes == 5 * 2 * (WIDTH + 4)


@pytest.mark.parametrize("name", [ABOUT, VALUES, OFFSETS, KEYS])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"[]"])
def test_a_damaged_file_is_told_of(tmp_path, name, content):
    store([(1, 2), (3,)], tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="ranker states"):
        StoredStates.open(tmp_path, LOWER, 2, WIDTH)


def test_offsets_that_leave_the_values_are_told_of(tmp_path):
    store([(1, 2), (3,)], tmp_path)
    np.save(tmp_path / OFFSETS, np.array([0, 9, 5]))
    with pytest.raises(UserError, match="do not fit"):
        StoredStates.open(tmp_path, LOWER, 2, WIDTH)
