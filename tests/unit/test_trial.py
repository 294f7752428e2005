"""What lets a candidate in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rankdistill.export.serve.models.trial import Trial, TrialBudget, overlap

SCORES = np.linspace(1, 0, 30, dtype=np.float32)


def tried(candidate=SCORES, cost=1.0, count=5, **budget):
    trial = Trial(TrialBudget(requests=5, **budget), began=0.0)
    for _ in range(count):
        trial.saw(SCORES, candidate, 1.0, cost)
    return trial


def test_one_that_holds_the_budget_is_let_in():
    verdict = tried(cost=1.4).verdict(1.0)
    assert verdict.accepted
    assert verdict.reason == "5 requests: 1.40 times the CPU time, overlap@10 1.000"


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        (tried(cost=1.6), "slower than 1.5"),
        (tried(candidate=-SCORES), "ranks otherwise"),
        (tried(candidate=np.full(30, np.nan, dtype=np.float32)), "no numbers"),
    ],
)
def test_one_that_does_not_is_not(trial, said):
    verdict = trial.verdict(1.0)
    assert not verdict.accepted
    assert said in verdict.reason


def test_an_error_ends_the_trial_at_once():
    trial = tried(count=1)
    assert trial.verdict(1.0) is None
    trial.failed(RuntimeError("broken"))
    assert "RuntimeError: broken" in trial.verdict(1.0).reason


def test_after_its_time_few_requests_are_enough():
    trial = Trial(TrialBudget(requests=50), began=0.0)
    for seen in range(1, 12):
        trial.saw(SCORES, SCORES, 1.0, 1.0)
        assert trial.verdict(59.0) is None
        assert (trial.verdict(60.0) is not None) == (seen >= 10)
    assert tried(count=0).verdict(1e6) is None


@given(
    arrays(np.float32, 25, elements=st.integers(0, 9).map(float)),
    arrays(np.float32, 25, elements=st.floats(0, 1, width=32)),
)
def test_overlap_by_brute_force(one, other):
    first, second = (sorted(range(25), key=lambda row, s=s: (-s[row], row))[:10] for s in (one, other))
    assert overlap(one, other) == len(set(first) & set(second)) / 10


@pytest.mark.parametrize("name", ["requests", "max_slowdown", "min_overlap", "max_errors", "seconds"])
def test_senseless_budgets_are_refused(name):
    with pytest.raises(ValueError, match=name):
        TrialBudget(**{name: -1})
