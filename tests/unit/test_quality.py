"""Ranking metrics and agreement against ir-measures, SciPy, and formulas written out slowly."""

from __future__ import annotations

import itertools

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.export.measure.quality import AGREEMENT, METRICS, agreement, changed_top, ranking_metrics

GAINS = {0: 0, 1: 1, 2: 3, 3: 7}


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
