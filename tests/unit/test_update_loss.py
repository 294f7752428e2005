"""The loss of an update against NumPy: its three parts, each of which is nothing at its optimum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from rankdistill.data.records import UNKNOWN
from rankdistill.losses import score_losses
from rankdistill.online.update_loss import update_loss, weighted_labels


def batch(groups=5, size=6, seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.random((groups, size)) < 0.8
    mask[:, 0] = True
    grades = rng.integers(UNKNOWN, 3, (groups, size))
    weight = rng.uniform(1, 10, (groups, size))
    return rng.normal(scale=3, size=(groups, size)), grades, weight, mask


def reference(scores, grades, weight, mask):
    """Ai et al. 2018, eq. 8, a group at a time, less its entropy."""
    found = []
    for score, grade, inverse, real in zip(scores, grades, weight, mask, strict=True):
        keep = real & (grade >= 0)
        gain = 2.0 ** grade[keep] - 1
        if not gain.sum():
            continue
        weighted = gain * inverse[keep]
        target = weighted / weighted.sum()
        cross = -(target * log_softmax(score[keep])).sum()
        entropy = -sum(t * np.log(t) for t in target if t > 0)
        found.append((cross - entropy) * weighted.sum() / gain.sum())
    return np.mean(found)


@pytest.mark.parametrize("seed", range(5))
def test_weighted_labels_are_the_formula(seed):
    scores, grades, weight, mask = batch(seed=seed)
    found = weighted_labels(*map(torch.tensor, (scores, grades, weight, mask)))
    assert found.item() == pytest.approx(reference(scores, grades, weight, mask), rel=1e-5)


def test_weights_of_one_are_the_plain_loss():
    scores, grades, weight, mask = map(torch.tensor, batch())
    found = weighted_labels(scores, grades, torch.ones_like(weight), mask)
    known = mask & (grades >= 0)
    assert found.item() == pytest.approx(
        score_losses.listwise_labels(scores.float(), grades.clamp_min(0), known).item()
    )


def test_an_only_click_far_down_counts_by_its_weight():
    """Without the emphasis a list's normalised target would lose the correction altogether."""
    scores, grades = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0, 0, 1]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    plain = weighted_labels(scores, grades, torch.ones(1, 3), mask)
    corrected = weighted_labels(scores, grades, torch.tensor([[1.0, 2.0, 7.0]]), mask)
    assert corrected.item() == pytest.approx(7 * plain.item())


def test_what_nobody_told_takes_no_part():
    scores, grades, weight, mask = map(torch.tensor, batch())
    scores = scores.requires_grad_()
    weighted_labels(scores, grades, weight, mask).backward()
    assert (scores.grad[(grades < 0) | ~mask] == 0).all()
    assert (scores.grad[mask & (grades > 0)] != 0).any()


def test_a_list_without_an_outcome_costs_nothing():
    scores = torch.randn(2, 4)
    nothing = torch.full((2, 4), UNKNOWN)
    assert weighted_labels(scores, nothing, torch.ones(2, 4), torch.ones(2, 4, dtype=torch.bool)).item() == 0


def test_extreme_logits_stay_finite():
    scores = torch.tensor([[1e4, -1e4, 0.0], [3e4, 3e4, -3e4]], requires_grad=True)
    loss = weighted_labels(scores, torch.tensor([[0, 2, 1], [1, 1, 1]]), torch.ones(2, 3), torch.ones(2, 3) > 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()


def test_it_is_the_weighted_sum_of_the_three():
    scores, grades, weight, mask = map(torch.tensor, batch())
    rng = np.random.default_rng(9)
    teacher, served = (torch.tensor(rng.normal(size=scores.shape)).float() for _ in range(2))
    taught = torch.zeros(scores.shape)
    taught[2:] = 1
    given = {
        "mask": mask,
        "grades": grades,
        "propensity": weight,
        "teacher": teacher,
        "served": served,
        "taught": taught,
    }
    scores = scores.float()

    def total(**parts):
        return update_loss(**({"labels": 0.0, "replay": 0.0, "anchor": 0.0} | parts))(scores, given).item()

    squares = [np.mean((s[m] - v[m]).numpy() ** 2) for s, v, m in zip(scores, served, mask, strict=True)]
    assert total(anchor=1.0) == pytest.approx(np.mean(squares), rel=1e-5)
    assert total(labels=1.0) == pytest.approx(weighted_labels(scores, grades, weight, mask).item())
    old = [slice(2, None), mask[2:]]
    divergence = []
    for row in range(2, len(scores)):
        s, t = scores[row][mask[row]].numpy(), teacher[row][mask[row]].numpy()
        divergence.append((softmax(t) * (log_softmax(t) - log_softmax(s))).sum())
    margins = score_losses.margin_mse(scores[old[0]], teacher[old[0]], old[1]).item()
    assert total(replay=1.0) == pytest.approx(margins + np.mean(divergence), rel=1e-4)
    whole = 2 * total(labels=1.0) + 3 * total(replay=1.0) + 0.5 * total(anchor=1.0)
    assert total(labels=2.0, replay=3.0, anchor=0.5) == pytest.approx(whole, rel=1e-5)


def test_a_student_that_scores_as_it_did_and_as_its_teacher_does_has_nothing_to_learn():
    scores = torch.randn(3, 5)
    mask = torch.ones(3, 5, dtype=torch.bool)
    given = {
        "mask": mask, "grades": torch.full((3, 5), UNKNOWN), "propensity": torch.ones(3, 5), "teacher": scores + 4,
        "served": scores, "taught": torch.ones(3, 5),
    }  # fmt: skip
    assert update_loss(labels=1.0, replay=1.0, anchor=1.0)(scores, given).item() == pytest.approx(0, abs=1e-6)
