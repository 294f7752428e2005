"""The combination of baselines against the training's own loss in PyTorch, and against a search of all weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.baselines.combination import RIDGE, Combination
from rankdistill.data.records import UNKNOWN, Split
from rankdistill.errors import TrainingError
from rankdistill.losses import score_losses


def split_of(grades):
    sizes = np.array([len(each) for each in grades])
    return Split(
        query=np.arange(len(grades), dtype=np.int32),
        offsets=np.r_[0, np.cumsum(sizes)].astype(np.int64),
        item=np.arange(sizes.sum(), dtype=np.int32),
        grade=np.concatenate(grades).astype(np.int32),
    )


def loss_in_torch(split, logits, weights):
    """The mean over lists of `listwise_labels`, its constant entropy aside, with the ridge."""
    rows = [slice(*each) for each in zip(split.offsets[:-1], split.offsets[1:], strict=True)]
    of_lists = [
        score_losses.listwise_labels(
            torch.tensor(logits[each])[None],
            torch.tensor(split.grade[each])[None],
            torch.ones(1, len(logits[each]), dtype=torch.bool),
        )
        for each in rows
        if (split.grade[each] > 0).any()
    ]
    return float(torch.stack(of_lists).mean()) + RIDGE * float(np.square(weights).sum())


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_no_other_weights_are_better(data):
    sizes = data.draw(st.lists(st.integers(2, 9), min_size=3, max_size=8))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    grades = [rng.choice([UNKNOWN, 0, 0, 1, 2], size) for size in sizes]
    grades[0][:2] = 1, 0
    split = split_of(grades)
    scores = {name: rng.normal(size=split.pairs).astype(np.float32) for name in ("bm25", "embedding")}
    found = Combination.fit(scores, split)
    columns = np.stack([(scores[name] - found.mean[name]) / found.deviation[name] for name in found.weight], axis=1)
    weights = np.array([*found.weight.values()])
    best = loss_in_torch(split, columns @ weights, weights)
    for step in (*np.eye(2), *-np.eye(2), *rng.normal(size=(6, 2))):
        for size in (1e-2, 0.3, 3.0):
            other = weights + size * step
            assert loss_in_torch(split, columns @ other, other) >= best - 1e-6


def test_it_finds_what_the_grades_were_made_of():
    rng = np.random.default_rng(0)
    scores = {
        "popularity": rng.integers(0, 1000, 40_000).astype(np.float32),
        "bm25": rng.normal(size=40_000).astype(np.float32),
        "embedding": rng.normal(size=40_000).astype(np.float32),
    }
    popular = np.log1p(scores["popularity"])
    popular = (popular - popular.mean()) / popular.std()
    logits = (2.0 * popular + 0.5 * scores["bm25"]).reshape(-1, 20) + rng.gumbel(size=(2000, 20))
    grades = (logits == logits.max(axis=1, keepdims=True)).astype(int)  # drawn by the softmax (Gumbel-max)
    split = split_of([*grades])
    found = Combination.fit(scores, split)
    assert found.weight == pytest.approx({"popularity": 2.0, "bm25": 0.5, "embedding": 0.0}, abs=0.1)
    np.testing.assert_allclose(found.score(scores), 2.0 * popular + 0.5 * scores["bm25"], atol=0.6)


def test_it_is_noted_with_its_quality(tmp_path):
    split = split_of([np.array([0, 1, 0]), np.array([1, 0, 0])])
    scores = {"bm25": np.array([0, 2, 1, 3, 1, 0], np.float32), "embedding": np.ones(6, np.float32)}
    found = Combination.fit(scores, split)
    assert [*found.weight] == ["bm25"]  # the other tells nothing apart
    told, ndcg = found.write(scores, split, tmp_path)
    assert (told, ndcg) == (f"bm25 {found.weight['bm25']:.2f}", 1.0)
    assert json.loads((tmp_path / "combination.json").read_text())["weight"] == found.weight
    assert (np.diff(found.score(scores).reshape(2, 3)[0]) != 0).all()


@pytest.mark.parametrize(
    ("grades", "score"), [([0, 0, 0], [1, 2, 3]), ([0, 1, 0], [1, 1, 1]), ([-1, -1, 0], [1, 2, 3])]
)
def test_where_there_is_nothing_to_learn_it_says_so(grades, score):
    with pytest.raises(TrainingError, match="warm=similarity"):
        Combination.fit({"bm25": np.array(score, np.float32)}, split_of([np.array(grades)]))
