"""Losses against SciPy and written-out formulas, with filled-up groups and extreme logits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from distill import losses

FILL = 1e6  # what stands where a group is filled up: it must not matter


@st.composite
def groups(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    count, size = draw(st.integers(1, 4)), draw(st.integers(2, 7))
    scale = draw(st.sampled_from([0.1, 1.0, 10.0, 40.0]))
    lengths = rng.integers(1, size + 1, count)
    mask = np.arange(size) < lengths[:, None]
    student, teacher = (np.where(mask, rng.normal(0, scale, (count, size)), FILL) for _ in range(2))
    grades = np.where(mask, rng.integers(0, 4, (count, size)), 0)
    return (*(torch.tensor(v, dtype=torch.float64) for v in (student, teacher, grades)), torch.tensor(mask))


def rows(*tensors):
    *values, mask = (tensor.numpy() for tensor in tensors)
    for row in range(len(mask)):
        yield tuple(value[row][mask[row]] for value in values)


def mean(values):
    values = list(values)
    return np.mean(values) if values else 0.0


@settings(max_examples=150, deadline=None)
@given(groups(), st.sampled_from([0.5, 1.0, 4.0]))
def test_kl_is_scipys_relative_entropy(group, temperature):
    student, teacher, _, mask = group
    expected = mean(
        rel_entr(softmax(t / temperature), softmax(s / temperature)).sum() * temperature**2
        for s, t in rows(student, teacher, mask)
        if len(s) > 1
    )
    value = losses.kl(student, teacher, mask, temperature)
    assert value.item() == pytest.approx(expected, rel=1e-3, abs=1e-4)


@settings(max_examples=150, deadline=None)
@given(groups())
def test_margin_mse_is_the_mean_over_every_two_candidates(group):
    student, teacher, _, mask = group
    expected = mean(
        np.mean([((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i, j in itertools.combinations(range(len(s)), 2)])
        for s, t in rows(student, teacher, mask)
        if len(s) > 1
    )
    assert losses.margin_mse(student, teacher, mask).item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(groups())
def test_listwise_labels_is_cross_entropy_less_entropy(group):
    student, _, grades, mask = group
    expected = []
    for s, g in rows(student, grades, mask):
        gains = 2.0**g - 1
        if gains.sum() == 0:
            continue
        target = gains / gains.sum()
        entropy = -sum(p * np.log(p) for p in target if p > 0)
        expected.append(-(target * log_softmax(s)).sum() - entropy)
    value = losses.listwise_labels(student, grades, mask)
    assert value.item() == pytest.approx(mean(expected), rel=1e-3, abs=1e-4)


@settings(max_examples=80, deadline=None)
@given(groups(), st.floats(-5, 5))
def test_distillation_losses_are_zero_when_student_equals_teacher(group, shift):
    _, teacher, _, mask = group
    assert losses.kl(teacher, teacher, mask, 2.0).item() == pytest.approx(0, abs=1e-5)
    assert losses.margin_mse(teacher, teacher, mask).item() == 0
    assert losses.margin_mse(teacher + shift, teacher, mask).item() == pytest.approx(0, abs=1e-7)  # margins alone count


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_gradients_are_finite_and_zero_where_filled(scale):
    torch.manual_seed(0)
    student = (torch.randn(3, 5) * scale).requires_grad_()
    teacher, grades = torch.randn(3, 5) * scale, torch.randint(0, 4, (3, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    total = (
        losses.kl(student, teacher, mask, 1.0)
        + losses.margin_mse(student, teacher, mask)
        + losses.listwise_labels(student, grades, mask)
    )
    total.backward()
    assert torch.isfinite(student.grad).all()
    assert (student.grad[~mask] == 0).all()
