"""Ranking metrics, agreement and intervals against ir-measures, SciPy, and formulas written out slowly."""

from __future__ import annotations

import itertools
import tracemalloc

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from export.measure import quality
from export.measure.quality import (
    AGREEMENT,
    METRICS,
    agreement,
    changed_top,
    difference_interval,
    mean_interval,
    ranking_metrics,
    ratio_interval,
)

GAINS = {0: 0, 1: 1, 2: 3, 3: 7}
HOW = {"confidence": 0.9, "resamples": 2000, "seed": 3}


@st.composite
def runs(draw, ties=False, longest=40):
    """Scores, the scores of a related model, grades, offsets; without ties unless asked for."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    sizes = draw(st.lists(st.integers(1, longest), min_size=1, max_size=5))
    offsets = np.r_[0, np.cumsum(sizes)]
    pairs = offsets[-1]
    if ties:
        scores, other = rng.integers(0, 5, (2, pairs)).astype(np.float32)
    else:
        scores = rng.permutation(pairs) / 7 - 3
        other = rng.permutation(pairs) * 0.3 + scores * draw(st.sampled_from([0.0, 5.0, 50.0]))
    grades = rng.choice(4, pairs, p=draw(st.sampled_from([(0.4, 0.3, 0.2, 0.1), (0.9, 0.1, 0, 0), (0, 0, 0.5, 0.5)])))
    return scores, other, grades, offsets


def lists(offsets, *arrays):
    for start, stop in itertools.pairwise(offsets):
        yield tuple(array[start:stop] for array in arrays)


def order(scores):
    """The ranking by Python's stable sort."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def one_query(*scores):
    return np.array(scores, dtype=float), np.array([0, len(scores)])


def by_ir_measures(measures, scores, grades, offsets):
    """Each measure by query as ir-measures gives it; our grades and scores as qrels and run."""
    run, qrels = {}, {}
    for query, (score, grade) in enumerate(lists(offsets, scores, grades)):
        run[f"q{query}"] = {f"d{i}": float(s) for i, s in enumerate(score)}
        qrels[f"q{query}"] = {f"d{i}": int(g) for i, g in enumerate(grade)}
    found = {measure: np.full(len(offsets) - 1, np.nan) for measure in measures}
    for value in ir_measures.iter_calc(measures, qrels, run):
        found[value.measure][int(value.query_id[1:])] = value.value
    return found


@settings(max_examples=200, deadline=None)
@given(runs(), st.sampled_from([1, 2, 3]))
def test_ranking_metrics_are_those_of_ir_measures(run, relevant):
    scores, _, grades, offsets = run
    measures = {
        "ndcg@10": ir_measures.nDCG(gains=GAINS) @ 10,
        "mrr@10": ir_measures.RR(rel=relevant) @ 10,
        "map": ir_measures.AP(rel=relevant),
    }
    expected = by_ir_measures(list(measures.values()), scores, grades, offsets)
    values = ranking_metrics(scores, grades, offsets, relevant)
    assert tuple(values) == METRICS
    for name, measure in measures.items():
        np.testing.assert_allclose(values[name], expected[measure], rtol=1e-9, err_msg=name)


@settings(max_examples=150, deadline=None)
@given(runs(ties=True))
def test_pair_accuracy_counts_every_pair_of_different_grade(run):
    scores, _, grades, offsets = run
    expected = []
    for score, grade in lists(offsets, scores, grades):
        won = [
            1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
            for i, j in itertools.permutations(range(len(score)), 2)
            if grade[i] > grade[j]
        ]
        expected.append(np.mean(won) if won else np.nan)
    np.testing.assert_allclose(ranking_metrics(scores, grades, offsets)["pair_accuracy"], expected, rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(runs(ties=True))
def test_ties_rank_as_if_scores_fell_in_the_candidates_order(run):
    scores, other, grades, offsets = run
    split = scores - np.arange(len(scores)) * 1e-5  # far less than 1 apart in all: breaks ties alone
    tied, broken = (ranking_metrics(s, grades, offsets) for s in (scores, split))
    for name in ("ndcg@10", "mrr@10", "map"):
        np.testing.assert_array_equal(tied[name], broken[name], err_msg=name)
    tied, broken = (agreement(s, other, offsets) for s in (scores, split))
    for name in ("rbo", "overlap@10"):
        np.testing.assert_array_equal(tied[name], broken[name], err_msg=name)


def test_metrics_at_their_edges():
    scores = np.arange(12.0, 0.0, -1.0)
    offsets = np.array([0, 12])
    late = np.r_[np.zeros(10, dtype=int), 1, 0]  # the one relevant candidate is at rank 11
    values = ranking_metrics(scores, late, offsets)
    assert [values[m][0] for m in METRICS] == pytest.approx([0, 0, 1 / 11, 1 / 11])
    nothing = ranking_metrics(scores, np.zeros(12, dtype=int), offsets)
    assert [nothing[m][0] for m in METRICS[:3]] == [0, 0, 0]
    assert np.isnan(nothing["pair_accuracy"][0])
    infinite = ranking_metrics(np.array([np.inf, np.inf, -np.inf]), np.array([1, 0, 0]), np.array([0, 3]))
    assert infinite["pair_accuracy"][0] == pytest.approx(0.75)


def test_queries_do_not_see_each_other():
    rng = np.random.default_rng(5)
    sizes = np.array([3, 0, 17, 1, 12])
    offsets = np.r_[0, np.cumsum(sizes)]
    scores, other = rng.normal(size=(2, offsets[-1]))
    grades = rng.integers(0, 4, offsets[-1])
    together = ranking_metrics(scores, grades, offsets) | agreement(scores, other, offsets)
    top = changed_top(scores, other, offsets)
    for query, (score, second, grade) in enumerate(lists(offsets, scores, other, grades)):
        bounds = np.array([0, len(score)])
        alone = ranking_metrics(score, grade, bounds) | agreement(score, second, bounds)
        assert {n: v[query] for n, v in together.items()} == pytest.approx(
            {n: v[0] for n, v in alone.items()}, nan_ok=True
        )
        assert top[query] == changed_top(score, second, bounds)[0]
    assert np.isnan([together[name][1] for name in AGREEMENT]).all(), "no candidates: nothing agrees or differs"
    assert not top[1]


@settings(max_examples=100, deadline=None)
@given(runs(), runs(ties=True))
def test_tau_is_kendalls_tau_b(plain, tied):
    for scores, other, _, offsets in (plain, tied):
        expected = []
        for one, two in lists(offsets, scores, other):
            signs = [
                (np.sign(one[i] - one[j]), np.sign(two[i] - two[j]))
                for i, j in itertools.combinations(range(len(one)), 2)
            ]
            a, b = np.array(signs).reshape(-1, 2).T
            spread = np.sqrt((a != 0).sum() * (b != 0).sum())
            expected.append((a * b).sum() / spread if spread else np.nan)
        found = agreement(scores, other, offsets)
        assert tuple(found) == AGREEMENT
        np.testing.assert_allclose(found["tau"], expected, atol=1e-12)


def slow_rbo_ext(one, two, p):
    """Eq. 32 of Webber, Moffat, Zobel 2010 with S and L as the paper has them, the shorter and the longer list."""
    short, long = sorted((one, two), key=len)
    s, l = len(short), len(long)  # noqa: E741

    def overlap(depth):
        return len(set(short[:depth]) & set(long[:depth]))

    seen = sum(overlap(d) / d * p**d for d in range(1, l + 1))
    unseen = sum(overlap(s) * (d - s) / (s * d) * p**d for d in range(s + 1, l + 1))
    return (1 - p) / p * (seen + unseen) + ((overlap(l) - overlap(s)) / l + overlap(s) / s) * p**l


def slow_rbo(one, two, p, depth=2000):
    """Eq. 4, the definition, where the lists hold the same candidates and so agree wholly from their end on."""
    agreed = [len(set(one[:d]) & set(two[:d])) / min(d, len(one)) for d in range(1, len(one) + 1)]
    return (1 - p) * sum((agreed[d] if d < len(one) else 1.0) * p**d for d in range(depth))


@settings(max_examples=100, deadline=None)
@given(runs())
def test_rbo_is_the_papers(run):
    scores, other, _, offsets = run
    rankings = [(order(one), order(two)) for one, two in lists(offsets, scores, other)]
    found = agreement(scores, other, offsets)["rbo"]
    np.testing.assert_allclose(found, [slow_rbo_ext(*both, 0.9) for both in rankings], rtol=1e-10)
    np.testing.assert_allclose(found, [slow_rbo(*both, 0.9) for both in rankings], rtol=1e-10)


@settings(max_examples=50, deadline=None)
@given(runs(ties=True))
def test_a_model_agrees_with_itself(run):
    scores, _, _, offsets = run
    found = agreement(scores, scores, offsets)
    np.testing.assert_allclose(found["rbo"], 1.0, rtol=1e-12)
    np.testing.assert_array_equal(found["overlap@10"], 1.0)
    constant = np.array([len(np.unique(s)) == 1 for (s,) in lists(offsets, scores)])
    np.testing.assert_allclose(found["tau"], np.where(constant, np.nan, 1.0), rtol=1e-12)
    assert not changed_top(scores, scores, offsets).any()


def test_agreement_known_by_hand():
    up, offsets = one_query(1, 2)
    swapped = agreement(up, -up, offsets)
    # depth 1 shares nothing, depth 2 all: (1 - p) / p * p^2 + p^2 = p
    assert [swapped[name][0] for name in AGREEMENT] == pytest.approx([-1, 0.9, 1])
    up, offsets = one_query(*range(15))
    reverse = agreement(up, -up, offsets)
    assert reverse["overlap@10"][0] == pytest.approx(0.5)
    swap_at_top = agreement(up, np.r_[up[:-2], up[-1], up[-2]], offsets)["rbo"][0]
    swap_at_end = agreement(up, np.r_[up[1], up[0], up[2:]], offsets)["rbo"][0]
    assert (swap_at_top, 1 - swap_at_end) == pytest.approx((0.9, 0.1 * 0.9**13 / 14))


@settings(max_examples=100, deadline=None)
@given(runs(ties=True), st.integers(1, 12))
def test_top_sets(run, k):
    scores, other, _, offsets = run
    tops = [(set(order(one)[:k]), set(order(two)[:k])) for one, two in lists(offsets, scores, other)]
    assert changed_top(scores, other, offsets, k).tolist() == [one != two for one, two in tops]
    ten = [(set(order(one)[:10]), set(order(two)[:10])) for one, two in lists(offsets, scores, other)]
    shares = [len(one & two) / len(one) for one, two in ten]
    np.testing.assert_allclose(agreement(scores, other, offsets)["overlap@10"], shares)


@pytest.mark.parametrize("function", [ranking_metrics, agreement, changed_top])
def test_what_does_not_fit_is_refused(function):
    scores, fine = np.arange(6.0), np.array([0, 4, 6])
    function(scores, scores.astype(int), fine)
    with pytest.raises(ValueError, match="2 of 6 scores are NaN"):
        function(np.where(scores > 3, np.nan, scores), scores.astype(int), fine)
    with pytest.raises(ValueError, match=r"\(6,\) and \(5,\)"):
        function(scores, scores[:5].astype(int), fine)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        function(scores.reshape(2, 3), scores.astype(int).reshape(2, 3), fine)
    for offsets in ([], [0, 4], [0, 4, 7], [1, 4, 6], [0, 5, 4, 6]):
        with pytest.raises(ValueError, match="to the 6 pairs"):
            function(scores, scores.astype(int), np.array(offsets, dtype=np.int64))


def test_a_reference_with_nan_is_refused():
    scores, offsets = one_query(3, 2, 1)
    for function in (agreement, changed_top):
        with pytest.raises(ValueError, match="1 of 3 scores are NaN"):
            function(scores, np.array([1.0, np.nan, 2.0]), offsets)


def paired(queries, seed=0):
    rng = np.random.default_rng(seed)
    teacher = rng.beta(4, 2, queries)
    return np.clip(teacher - rng.exponential(0.05, queries), 0, 1), teacher


@pytest.mark.parametrize(
    ("interval", "statistic"),
    [
        (lambda a, b, **how: mean_interval(a, **how), lambda a, b, axis: a.mean(axis)),
        (ratio_interval, lambda a, b, axis: a.mean(axis) / b.mean(axis)),
        (difference_interval, lambda a, b, axis: a.mean(axis) - b.mean(axis)),
    ],
)
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_intervals_are_scipys(interval, statistic, confidence):
    student, teacher = paired(60)
    rng = np.random.default_rng(1)
    scipys = stats.bootstrap(
        (student, teacher), statistic, paired=True, vectorized=True, n_resamples=20_000, batch=2000,
        confidence_level=confidence, method="percentile", rng=rng,
    ).confidence_interval  # fmt: skip
    found = interval(student, teacher, confidence=confidence, resamples=20_000, seed=2)
    width = scipys.high - scipys.low
    assert found == pytest.approx(tuple(scipys), abs=0.03 * width)


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(400):
        low, high = mean_interval(rng.exponential(1.0, 80), confidence=0.8, resamples=400, seed=seed)
        covered += low <= 1.0 <= high
    assert 0.73 < covered / 400 < 0.84  # a percentile interval of 80 skewed values covers a little less than 0.8


def test_pairing_narrows_the_interval():
    student, teacher = paired(200)
    shuffled = np.random.default_rng(0).permutation(teacher)
    for interval in (ratio_interval, difference_interval):
        narrow, wide = (np.ptp(interval(student, other, **HOW)) for other in (teacher, shuffled))
        assert narrow < 0.5 * wide


def test_equal_values_have_ratio_one_and_difference_zero():
    values = np.random.default_rng(0).random(37)
    values[::3] = 0
    assert ratio_interval(values, values, **HOW) == (1.0, 1.0)
    assert difference_interval(values, values, **HOW) == (0.0, 0.0)
    sparse = np.r_[0.7, np.zeros(5)]  # a third of the resamples are all zeros and have no ratio
    assert ratio_interval(sparse, sparse, **HOW) == (1.0, 1.0)
    assert ratio_interval(np.ones(6), sparse, **HOW)[1] == pytest.approx(6 / 0.7), (
        "drawn once: the largest ratio there is"
    )


def test_nan_queries_are_left_out_in_pairs():
    student, teacher = paired(50)
    holed, other = student.copy(), teacher.copy()
    holed[[3, 11]], other[[11, 40]] = np.nan, np.nan
    keep = np.setdiff1d(np.arange(50), [3, 11, 40])
    for interval in (ratio_interval, difference_interval):
        assert interval(holed, other, **HOW) == interval(student[keep], teacher[keep], **HOW)
    assert mean_interval(holed, **HOW) == mean_interval(np.delete(student, [3, 11]), **HOW)


def test_intervals_without_queries_are_nan():
    for values in (np.zeros(0), np.full(4, np.nan)):
        assert np.isnan(mean_interval(values, **HOW)).all()
        assert np.isnan(ratio_interval(values, values, **HOW)).all()
        assert np.isnan(difference_interval(values, values, **HOW)).all()
    assert np.isnan(ratio_interval(np.ones(4), np.zeros(4), **HOW)).all(), "a ratio to zero"


def test_pairs_of_other_lengths_are_refused():
    for interval in (ratio_interval, difference_interval):
        with pytest.raises(ValueError, match="same queries"):
            interval(np.ones(4), np.ones(1), **HOW)


def test_the_seed_alone_decides(monkeypatch):
    student, teacher = paired(100)
    whole = ratio_interval(student, teacher, **HOW)
    assert ratio_interval(student, teacher, **{**HOW, "seed": 4}) != whole
    monkeypatch.setattr(quality, "BLOCK", 700)  # 7 resamples at once, 2000 is no multiple of it
    assert ratio_interval(student, teacher, **HOW) == whole


def test_memory_is_bounded():
    student, teacher = paired(100_000)
    tracemalloc.start()
    try:
        low, high = ratio_interval(student, teacher, confidence=0.95, resamples=100, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6
    assert low < student.mean() / teacher.mean() < high
