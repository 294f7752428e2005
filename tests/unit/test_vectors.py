"""Vectors in small types, against NumPy written out, whatever their values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rankdistill.export.errors import UserError
from rankdistill.export.runtime.vectors import Vectors, pack, prefix, unpack

numbers = st.floats(-100, 100, width=32)
matrices = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=numbers)


@given(matrices, st.integers(1, 40))
def test_a_prefix_has_length_one_and_the_direction_of_its_numbers(vectors, dimensions):
    kept = prefix(vectors, dimensions)
    for row, whole in zip(kept.astype(float), vectors[:, :dimensions].astype(float), strict=True):
        length = np.linalg.norm(whole)
        expected = whole / length if length > 1e-30 else whole
        if length > 1e-15:  # squares of smaller numbers are 0 in float32
            assert row == pytest.approx(expected, abs=1e-5)
        assert np.isfinite(row).all()


@given(matrices)
def test_int8_is_the_rounded_share_of_the_largest(vectors):
    packed = pack(vectors, "int8")
    assert packed.dtype == np.int8
    assert packed.shape == vectors.shape
    for row, whole in zip(packed, vectors.astype(np.float64), strict=True):
        largest = np.abs(whole).max()
        if largest > 1e-30:
            assert np.abs(row - 127 * whole / largest).max() <= 0.5 + 1e-3
            assert np.abs(row).max() == 127
        else:
            assert not row.any() or largest > 0


@given(matrices)
def test_a_bit_is_a_sign_and_the_first_is_the_highest(vectors):
    packed = pack(vectors, "binary")
    assert packed.shape == (len(vectors), -(-vectors.shape[1] // 8))
    for row, whole in zip(packed, vectors, strict=True):
        for place, value in enumerate(whole):
            assert (row[place // 8] >> (7 - place % 8)) & 1 == (value > 0)
    assert set(np.unique(np.sign(unpack(packed, "binary", vectors.shape[1])))) <= {-1.0, 1.0}


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_similarities_are_cosines_with_what_was_kept(dtype):
    rng = np.random.default_rng(0)
    items = prefix(rng.normal(size=(300, 32)).astype(np.float32), 32)
    queries = prefix(rng.normal(size=(5, 32)).astype(np.float32), 32)
    kept = Vectors.of(items, dtype)
    meant = {"float32": items, "int8": pack(items, "int8").astype(float), "binary": np.where(items > 0, 1.0, -1.0)}
    expected = queries @ (meant[dtype] / np.linalg.norm(meant[dtype], axis=1, keepdims=True)).T
    assert kept.similarities(queries) == pytest.approx(expected, abs=1e-6)
    rows, cosines = kept.nearest(queries[0], 7)
    assert rows.tolist() == np.argsort(-expected[0], kind="stable")[:7].tolist()
    assert cosines == pytest.approx(np.sort(expected[0])[::-1][:7], abs=1e-6)


def test_int8_changes_a_cosine_by_little_and_bits_by_more():
    rng = np.random.default_rng(1)
    items = prefix(rng.normal(size=(500, 64)).astype(np.float32), 64)
    query = items[:1]
    exact = (query @ items.T)[0]
    wrong = {dtype: np.abs(Vectors.of(items, dtype).similarities(query)[0] - exact).max() for dtype in
             ("float32", "int8", "binary")}  # fmt: skip
    assert wrong["float32"] < 1e-6 < wrong["int8"] < 0.01 < wrong["binary"]


def test_the_nearest_of_an_empty_catalogue_are_none():
    rows, cosines = Vectors.of(np.zeros((0, 8), np.float32), "int8").nearest(np.ones(8, np.float32), 5)
    assert len(rows) == len(cosines) == 0


def test_an_unknown_type_is_refused():
    with pytest.raises(UserError, match="dtype=int4: allowed is float32, int8, binary"):
        pack(np.zeros((1, 8), np.float32), "int4")
