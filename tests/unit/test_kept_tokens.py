"""Tokens that are kept: the same as made anew, within the memory allowed, under many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.export.runtime.text.token_cache import KeptTokens


def tokenise(texts):
    return [np.array([ord(c) for c in text], dtype=np.int32) for text in texts]


class Counting:
    def __init__(self):
        self.texts = []

    def __call__(self, texts):
        self.texts += texts
        return tokenise(texts)


def test_a_text_is_tokenised_once():
    counting = Counting()
    kept = KeptTokens(counting, 1 << 20)
    for texts in (["a", "b", "a"], ["b", "c"], ["c"]):
        assert [ids.tolist() for ids in kept.ids(texts)] == [ids.tolist() for ids in tokenise(texts)]
    assert counting.texts == ["a", "b", "c"]


def test_without_memory_nothing_is_kept():
    counting = Counting()
    kept = KeptTokens(counting, 0)
    kept.ids(["a"])
    kept.ids(["a"])
    assert counting.texts == ["a", "a"]
    assert len(kept) == kept.bytes == 0


@settings(deadline=None)
@given(st.lists(st.lists(st.text(max_size=40), max_size=8), max_size=20), st.integers(0, 4000))
def test_ids_are_those_made_anew_and_memory_stays_within_bounds(requests, most_bytes):
    kept = KeptTokens(tokenise, most_bytes)
    for texts in requests:
        for ids, expected in zip(kept.ids(texts), tokenise(texts), strict=True):
            np.testing.assert_array_equal(ids, expected)
        assert 0 <= kept.bytes <= most_bytes


def test_many_threads_get_the_right_ids_while_texts_are_forgotten():
    kept = KeptTokens(tokenise, 3000)

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(300):
            texts = [f"text {n}" for n in rng.integers(0, 40, 5)]
            for ids, expected in zip(kept.ids(texts), tokenise(texts), strict=True):
                np.testing.assert_array_equal(ids, expected)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert 0 < kept.bytes <= 3000
