"""Losses of an embedder, against formulas written out and sentence-transformers' own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rankdistill.embedder.embed_losses import Lesson, embedder_loss, in_batch, margin_scale
from rankdistill.embedder.embed_training import choose_group
from rankdistill.options import DistilledEmbed

QUERIES, SIZE, WIDTH = 3, 4, 16
OFF = DistilledEmbed(margin_mse=0.0, in_batch=0.0, similarity=0.0)


@pytest.fixture
def lesson() -> Lesson:
    rng = np.random.default_rng(0)
    items = QUERIES * SIZE
    group = torch.arange(items).reshape(QUERIES, SIZE)
    mask = torch.ones(QUERIES, SIZE, dtype=torch.bool)
    mask[1, 3] = False
    group[1, 3] = group[1, 0]  # as training fills a place where nothing is
    own = torch.zeros(QUERIES, items, dtype=torch.bool).scatter(1, group, True)
    own[1, 7] = False
    negative = ~own
    negative[0, 9] = False  # a good one of another query
    teacher = torch.from_numpy(rng.normal(size=(QUERIES, SIZE)).astype(np.float32)) * 3
    similarity = torch.from_numpy(rng.uniform(-1, 1, size=(QUERIES, items)).astype(np.float32))
    return Lesson(group, mask, teacher, negative, similarity)


def vectors(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(QUERIES, WIDTH, generator=generator), torch.randn(QUERIES * SIZE, WIDTH, generator=generator)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / math.sqrt((one @ one) * (other @ other)))


def test_margins_are_those_of_scaled_cosines_of_every_prefix(lesson):
    queries, items = vectors(1)
    expected = 0.0
    for size in (4, WIDTH):
        groups, spread, count = [], 0.0, 0
        for row in range(QUERIES):
            kept = [place for place in range(SIZE) if lesson.mask[row, place]]
            ours = [7 * cosine(queries[row, :size].numpy(), items[lesson.group[row, p], :size].numpy()) for p in kept]
            theirs = [float(lesson.teacher[row, place]) for place in kept]
            squares = [
                ((ours[i] - ours[j]) - (theirs[i] - theirs[j])) ** 2
                for i in range(len(kept)) for j in range(len(kept)) if i != j
            ]  # fmt: skip
            groups.append(np.mean(squares))
            spread += sum((each - np.mean(theirs)) ** 2 for each in theirs)
            count += len(kept)
        expected += np.mean(groups) / (spread / count)
    options = replace(OFF, margin_mse=1.0)
    found = embedder_loss(queries, items, lesson, torch.tensor(7.0), options, (4, WIDTH))
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_one_prefix_of_two_items_is_sentence_transformers_margin_mse(lesson):
    from sentence_transformers.losses import MarginMSELoss

    queries, items = vectors(2)
    two = Lesson(lesson.group[:, :2], torch.ones(QUERIES, 2, dtype=torch.bool), lesson.teacher[:, :2],
                 lesson.negative, lesson.similarity)  # fmt: skip
    margins = two.teacher[:, 0] - two.teacher[:, 1]
    theirs = MarginMSELoss(model=None, similarity_fct=torch.nn.functional.cosine_similarity)
    first, second = items[two.group[:, 0]], items[two.group[:, 1]]
    expected = theirs.compute_loss_from_embeddings([queries, first, second], margins)
    found = embedder_loss(queries, items, two, torch.tensor(1.0), replace(OFF, margin_mse=1.0), (WIDTH,))
    spread = (margins / 2).square().mean()  # of two values about their mean
    assert float(found * spread) == pytest.approx(float(expected), rel=1e-4)


def test_in_batch_is_a_cross_entropy_over_own_items_and_negatives(lesson):
    scores = torch.randn(QUERIES, QUERIES * SIZE, generator=torch.Generator().manual_seed(3))
    expected = 0.0
    for row in range(QUERIES):
        own = [int(lesson.group[row, place]) for place in range(SIZE) if lesson.mask[row, place]]
        others = [item for item in range(QUERIES * SIZE) if lesson.negative[row, item]]
        whole = math.log(sum(math.exp(scores[row, item]) for item in own + others))
        shares = np.exp([float(lesson.teacher[row, p]) / 2 for p in range(SIZE) if lesson.mask[row, p]])
        shares /= shares.sum()
        expected -= sum(share * (float(scores[row, item]) - whole) for share, item in zip(shares, own, strict=True))
    assert float(in_batch(scores, lesson, 2.0)) == pytest.approx(expected / QUERIES, rel=1e-5)


def test_with_one_good_item_it_is_sentence_transformers_ranking_loss():
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    queries, items = vectors(4)
    items = items[:QUERIES]
    group = torch.arange(QUERIES)[:, None]
    negative = ~torch.eye(QUERIES, dtype=torch.bool)
    one = Lesson(group, torch.ones(QUERIES, 1, dtype=torch.bool), torch.zeros(QUERIES, 1), negative,
                 torch.zeros(QUERIES, QUERIES))  # fmt: skip
    theirs = MultipleNegativesRankingLoss(model=None, scale=20.0)
    expected = theirs.compute_loss_from_embeddings([queries, items], None)
    options = replace(OFF, in_batch=1.0, temperature=0.05)
    assert float(embedder_loss(queries, items, one, torch.tensor(1.0), options, (WIDTH,))) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_it_is_matryoshka_a_sum_over_prefixes(lesson):
    queries, items = vectors(5)
    options = DistilledEmbed()
    parts = [float(embedder_loss(queries, items, lesson, torch.tensor(3.0), options, (size,))) for size in (8, 12, 16)]
    whole = embedder_loss(queries, items, lesson, torch.tensor(3.0), options, (8, 12, 16))
    assert float(whole) == pytest.approx(sum(parts), rel=1e-5)


def test_similarity_is_zero_for_the_encoders_own_cosines(lesson):
    queries, items = vectors(6)
    normalized = [torch.nn.functional.normalize(each, dim=1) for each in (queries, items)]
    known = replace(lesson, similarity=normalized[0] @ normalized[1].T)
    options = replace(OFF, similarity=10.0)
    assert float(embedder_loss(queries, items, known, torch.tensor(1.0), options, (WIDTH,))) < 1e-10
    assert float(embedder_loss(queries, items, lesson, torch.tensor(1.0), options, (WIDTH,))) > 1


def test_gradients_are_finite_where_places_are_empty(lesson):
    queries, items = (each.requires_grad_() for each in vectors(7))
    embedder_loss(queries, items, lesson, torch.tensor(3.0), DistilledEmbed(), (8, WIDTH)).backward()
    assert torch.isfinite(queries.grad).all()
    assert torch.isfinite(items.grad).all()
    assert queries.grad.abs().sum() > 0


def test_the_scale_is_the_least_squares_fit_of_margins():
    rng = np.random.default_rng(8)
    similarity = torch.from_numpy(rng.uniform(-1, 1, size=(5, 6)))
    mask = torch.ones(5, 6, dtype=torch.bool)
    offsets = torch.from_numpy(rng.normal(size=(5, 1)))
    assert margin_scale(similarity, 12 * similarity + offsets, mask) == pytest.approx(12)
    assert margin_scale(similarity, -similarity, mask) == 1


def test_a_group_has_the_teachers_first_hard_ones_and_others():
    teacher, similarity = np.arange(100.0, dtype=np.float32), np.arange(100.0, dtype=np.float32)[::-1].copy()
    seen = [choose_group(teacher, similarity, 8, np.random.default_rng(seed)) for seed in range(50)]
    for chosen in seen:
        assert len(set(chosen.tolist())) == 8
        assert chosen[0] == 99  # the teacher's first
        assert sum(row < 16 for row in chosen[1:]) >= 4  # of those the embedding thinks nearest
    assert any(16 <= row < 99 for chosen in seen for row in chosen)
    assert choose_group(teacher[:5], similarity[:5], 8, np.random.default_rng(0)).tolist() == [0, 1, 2, 3, 4]
