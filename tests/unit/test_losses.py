"""Losses against SciPy and written-out formulas, with filled-up groups and extreme logits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, rel_entr, softmax
from scipy.stats import kendalltau, rankdata

from rankdistill.losses import score_losses

FILL = 1e6  # what stands where a group is filled up: it must not matter
DISTILLATION = {
    "mse": score_losses.mse,
    "margin_mse": score_losses.margin_mse,
    "kl": lambda s, t, m: score_losses.kl(s, t, m, 2.0),
    "ranknet": lambda s, t, m: score_losses.ranknet(s, t, m, 0.5),
    "lambda_loss": lambda s, t, m: score_losses.lambda_loss(s, t, m, 0.5, 10.0),
    "adr_mse": lambda s, t, m: score_losses.adr_mse(s, t, m, 2.0),
}
every_distillation = pytest.mark.parametrize("loss", DISTILLATION.values(), ids=DISTILLATION)


@st.composite
def groups(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    count, size = draw(st.integers(1, 4)), draw(st.integers(2, 7))
    scale = draw(st.sampled_from([0.1, 1.0, 10.0, 40.0]))
    lengths = rng.integers(1, size + 1, count)
    mask = np.arange(size) < lengths[:, None]
    student, teacher = (np.where(mask, rng.normal(0, scale, (count, size)), FILL) for _ in range(2))
    grades = np.where(mask, rng.integers(-1, 4, (count, size)), FILL)  # -1: not known
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
    value = score_losses.kl(student, teacher, mask, temperature)
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
    assert score_losses.margin_mse(student, teacher, mask).item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(groups())
def test_listwise_labels_is_cross_entropy_less_entropy(group):
    student, _, grades, mask = group
    expected = []
    for s, g in rows(student, grades, mask & (grades >= 0)):
        gains = 2.0**g - 1
        if gains.sum() == 0:
            continue
        target = gains / gains.sum()
        entropy = -sum(p * np.log(p) for p in target if p > 0)
        expected.append(-(target * log_softmax(s)).sum() - entropy)
    value = score_losses.listwise_labels(student, grades, mask)
    assert value.item() == pytest.approx(mean(expected), rel=1e-3, abs=1e-4)


def test_a_candidate_of_unknown_grade_takes_no_part_in_labels():
    scores = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
    mask = torch.ones(1, 3, dtype=torch.bool)
    without = score_losses.listwise_labels(scores[:, :2], torch.tensor([[0.0, 2.0]]), mask[:, :2])
    value = score_losses.listwise_labels(scores, torch.tensor([[0.0, 2.0, -1.0]]), mask)
    value.backward()
    assert value.item() == pytest.approx(without.item())
    assert scores.grad[0, 2] == 0
    assert score_losses.listwise_labels(scores, torch.full((1, 3), -1.0), mask).item() == 0


@settings(max_examples=100, deadline=None)
@given(groups())
def test_mse_is_the_mean_over_candidates(group):
    student, teacher, _, mask = group
    expected = mean(np.mean((s - t) ** 2) for s, t in rows(student, teacher, mask))
    assert score_losses.mse(student, teacher, mask).item() == pytest.approx(expected, rel=1e-6)


def preference_kl(s, t, i, j, sigma):
    """Relative entropy of two coins: whether i stands before j, by the teacher and by the student."""
    theirs, ours = sigma * (t[i] - t[j]), sigma * (s[i] - s[j])
    return rel_entr(expit(theirs), expit(ours)) + rel_entr(expit(-theirs), expit(-ours))


@settings(max_examples=150, deadline=None)
@given(groups(), st.sampled_from([0.5, 1.0, 2.0]))
def test_ranknet_is_the_relative_entropy_of_every_preference(group, sigma):
    student, teacher, _, mask = group
    expected = mean(
        np.mean([preference_kl(s, t, i, j, sigma) for i, j in itertools.combinations(range(len(s)), 2)])
        for s, t in rows(student, teacher, mask)
        if len(s) > 1
    )
    assert score_losses.ranknet(student, teacher, mask, sigma).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def ndcg_weight(s, t, i, j, mu):
    """NDCG-Loss2++ with the gain 1 / rank, as in the paper: D(r) = log2(1 + r), r the student's rank."""
    gains = 1 / rankdata(-t, method="average")
    gains /= sum(gain / np.log2(2 + place) for place, gain in enumerate(sorted(gains, reverse=True)))
    ranks = rankdata(-s, method="ordinal")
    apart = abs(ranks[i] - ranks[j])
    rho = abs(1 / np.log2(1 + ranks[i]) - 1 / np.log2(1 + ranks[j]))
    delta = abs(1 / np.log2(1 + apart) - 1 / np.log2(2 + apart))
    return (rho + mu * delta) * abs(gains[i] - gains[j])


@settings(max_examples=150, deadline=None)
@given(groups(), st.sampled_from([0.5, 1.0]), st.sampled_from([0.0, 1.0, 10.0]), st.booleans())
def test_lambda_loss_weighs_preferences_by_ndcg(group, sigma, mu, ties):
    student, teacher, _, mask = group
    teacher = torch.where(mask, teacher.sign(), teacher) if ties else teacher
    expected = mean(
        sum(
            ndcg_weight(s, t, i, j, mu) * preference_kl(s, t, i, j, sigma)
            for i, j in itertools.combinations(range(len(s)), 2)
        )
        for s, t in rows(student, teacher, mask)
        if len(set(t)) > 1
    )
    assert score_losses.lambda_loss(student, teacher, mask, sigma, mu).item() == pytest.approx(
        expected, rel=1e-5, abs=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(groups())
def test_lambda_loss_has_no_gradient_through_its_weights(group):
    student, teacher, _, mask = group
    student.requires_grad_()
    score_losses.lambda_loss(student, teacher, mask, 0.5, 10.0).backward()
    expected, counted = np.zeros(student.shape), 0
    for row, (s, t) in enumerate(rows(student.detach(), teacher, mask)):
        for i, j in itertools.permutations(range(len(s)), 2):
            slope = 0.5 * (expit(0.5 * (s[i] - s[j])) - expit(0.5 * (t[i] - t[j])))  # of the relative entropy in s_i
            expected[row, i] += ndcg_weight(s, t, i, j, 10.0) * slope
        counted += len(s) > 1
    assert student.grad.numpy() == pytest.approx(expected / max(1, counted), rel=1e-5, abs=1e-8)


@settings(max_examples=150, deadline=None)
@given(groups(), st.sampled_from([0.5, 1.0, 4.0]))
def test_adr_mse_is_the_discounted_error_of_smooth_ranks(group, temperature):
    def rank(values, i):
        return 1 + sum(expit((other - values[i]) / temperature) for j, other in enumerate(values) if j != i)

    student, teacher, _, mask = group
    expected = mean(
        np.mean([(rank(s, i) - rank(t, i)) ** 2 / np.log2(1 + rank(t, i)) for i in range(len(s))])
        for s, t in rows(student, teacher, mask)
        if len(s) > 1
    )
    assert score_losses.adr_mse(student, teacher, mask, temperature).item() == pytest.approx(
        expected, rel=1e-6, abs=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(groups())
def test_adr_mse_is_the_papers_where_the_teacher_is_sure(group):
    student, teacher, _, mask = group
    expected = []
    for s, t in rows(student, teacher, mask):
        if len(s) > 1:
            smooth, hard = 0.5 + expit(s[None, :] - s[:, None]).sum(axis=1), rankdata(-t)
            expected.append(np.mean((smooth - hard) ** 2 / np.log2(1 + hard)))
    teacher = torch.where(mask, torch.tensor(rankdata(teacher, axis=1)) * 1e4, FILL)
    assert score_losses.adr_mse(student, teacher, mask, 1.0).item() == pytest.approx(mean(expected), rel=1e-6)


@every_distillation
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_distillation_loss_and_its_gradient_are_zero_at_the_teacher(loss, scale):
    torch.manual_seed(0)
    teacher = torch.randn(3, 6) * scale
    mask = torch.tensor([[1] * 6, [1] * 3 + [0] * 3, [1] + [0] * 5], dtype=torch.bool)
    student = teacher.clone().requires_grad_()
    value = loss(student, teacher, mask)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert student.grad.abs().max().item() < 1e-6
    assert loss(teacher.flip(1), teacher, mask).item() > 0


@every_distillation
@settings(max_examples=40, deadline=None)
@given(groups(), st.floats(-5, 5))
def test_margins_alone_count_but_in_mse(loss, group, shift):
    student, teacher, _, mask = group
    shifts = shift * torch.arange(1, len(student) + 1, dtype=student.dtype)[:, None]  # each query has its own level
    value, shifted = loss(student, teacher, mask).item(), loss(student + shifts, teacher, mask).item()
    if loss is score_losses.mse:
        assert score_losses.mse(teacher + shift, teacher, mask).item() == pytest.approx(shift**2, abs=1e-9)
    else:
        assert shifted == pytest.approx(value, rel=1e-4, abs=1e-5)


@every_distillation
@settings(max_examples=40, deadline=None)
@given(groups(), st.randoms(use_true_random=False))
def test_the_order_of_candidates_in_a_group_does_not_matter(loss, group, random):
    student, teacher, _, mask = group
    shuffled = random.sample(range(mask.shape[1]), mask.shape[1])
    value = loss(student[:, shuffled], teacher[:, shuffled], mask[:, shuffled])
    assert value.item() == pytest.approx(loss(student, teacher, mask).item(), rel=1e-4, abs=1e-5)


@every_distillation
def test_what_a_group_is_filled_up_with_does_not_matter(loss):
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    values, gradients = [], []
    for fill in (0.0, FILL, -torch.inf, torch.nan):
        torch.manual_seed(0)
        student, teacher = (torch.randn(3, 5).masked_fill(~mask, fill) for _ in range(2))
        student.requires_grad_()
        value = loss(student, teacher, mask)
        value.backward()
        values.append(value.item())
        gradients.append(student.grad)
    assert values == [values[0]] * 4
    assert values[0] > 0
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    assert (gradients[0][~mask] == 0).all()


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-12])
def test_low_temperatures_leave_nothing_to_what_a_group_is_filled_up_with(temperature):
    student, teacher = torch.tensor([[-7.0, -8.0, -9.0]]), torch.tensor([[-9.0, -8.0, -7.0]])
    whole = score_losses.kl(student, teacher, torch.ones(1, 3, dtype=torch.bool), temperature)
    student, teacher = (torch.cat([each, torch.zeros(1, 2)], dim=1) for each in (student, teacher))
    mask = torch.tensor([[True, True, True, False, False]])
    assert whole > 0
    assert score_losses.kl(student, teacher, mask, temperature) == whole


@every_distillation
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_gradients_are_finite_and_zero_where_filled(loss, scale):
    torch.manual_seed(0)
    student = (torch.randn(3, 5) * scale).requires_grad_()
    teacher, grades = torch.randn(3, 5) * scale, torch.randint(0, 4, (3, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    total = loss(student, teacher, mask) + score_losses.listwise_labels(student, grades, mask)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(student.grad).all()
    assert (student.grad[~mask] == 0).all()


@every_distillation
def test_following_the_gradient_ends_at_the_teachers_order(loss):
    torch.manual_seed(0)
    teacher, mask = 2 * torch.randn(4, 6), torch.ones(4, 6, dtype=torch.bool)
    student = torch.zeros(4, 6, requires_grad=True)  # all tied
    optimizer = torch.optim.Adam([student], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss(student, teacher, mask).backward()
        optimizer.step()
    assert all(kendalltau(s, t)[0] == pytest.approx(1) for s, t in zip(student.detach(), teacher, strict=True))


def test_lambda_loss_is_the_librarys_where_the_teacher_is_sure():
    from sentence_transformers.cross_encoder.losses import LambdaLoss

    class Scores:  # a model that gives these scores, whatever is asked
        num_labels, device = 1, torch.device("cpu")

        def preprocess(self, pairs, **_):
            return {"pairs": pairs}

        def __call__(self, inputs):
            return {"scores": torch.tensor([float(text) for _, text in inputs["pairs"]])}

    torch.manual_seed(0)
    student, order = torch.randn(1, 6), torch.randperm(6)
    labels = torch.log2(1 + 1 / (1.0 + order))  # whose gain, 2^label - 1, is 1 / rank
    library = LambdaLoss(Scores(), reduction_log="natural", mini_batch_size=0)
    mean_over_pairs = library([["q"], [[str(score.item()) for score in student[0]]]], [labels]).item()
    value = score_losses.lambda_loss(student, -1e4 * order[None].float(), torch.ones(1, 6, dtype=torch.bool), 1.0, 10.0)
    assert value.item() == pytest.approx(mean_over_pairs * 15, rel=1e-4)
