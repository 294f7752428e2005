"""Labels that contradict the served model, in a slice of time or of users, are found; sound ones are let pass."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from rankdistill.data.records import Split
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.online.label_check import label_check
from rankdistill.options import HeadUpdate

UPDATE = HeadUpdate()
SIZE = 6


def sound(lists=200, noise=2.0, seed=0):
    """Lists, and scores that order about seven of ten pairs as their grades do."""
    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 3, (lists, SIZE))
    grades[:, 0], grades[:, 1] = 2, 0
    offsets = np.arange(0, lists * SIZE + 1, SIZE, dtype=np.int64)
    rows = np.arange(lists * SIZE, dtype=np.int32)
    split = Split(np.arange(lists, dtype=np.int32), offsets, rows, grades.reshape(-1).astype(np.int32))
    return split, (split.grade + rng.normal(scale=noise, size=len(split.grade))).astype(np.float32)


def flip(split, lists):
    grades = split.grade.reshape(-1, SIZE).copy()
    grades[lists] = 2 - grades[lists]
    return dataclasses.replace(split, grade=grades.reshape(-1))


def check(split, scores, users=None, old=None):
    return label_check(split, scores, users or [""] * len(split.query), old, UPDATE)


def test_sound_labels_pass():
    for seed in range(20):
        split, scores = sound(seed=seed)
        found = check(split, scores, [f"u{number % 23}" for number in range(200)], 0.9)
        assert found.ok
        accuracy = ranking_metrics(scores, split.grade, split.offsets)["pair_accuracy"]
        assert (
            f"orders {accuracy.mean():.3f} of the pairs as their outcomes do (on the old test set 0.900)"
            in found.detail
        )


@pytest.mark.parametrize("start", range(0, 161, 20))
def test_labels_flipped_for_a_while_are_found(start):
    """The others are sound, so the mean of all is far above the bound; the slice lies across the parts too."""
    split, scores = sound()
    found = check(flip(split, slice(start, start + 40)), scores)
    assert not found.ok
    assert found.measured < 0.5
    first, last = map(int, found.detail.split("events ")[1].split(" of ")[0].split(" to "))
    assert first - 1 < start + 40
    assert last > start


@pytest.mark.parametrize("start", [0, 330, 487, 950])
def test_a_short_while_among_many_events_is_found(start):
    split, scores = sound(1000)
    assert not check(flip(split, slice(start, start + 50)), scores).ok


def test_users_whose_labels_are_flipped_are_found_wherever_they_stand():
    rng = np.random.default_rng(0)
    users = [f"u{number}" for number in rng.integers(0, 60, 400)]
    split, scores = sound(400)
    bad = np.array([int(user[1:]) < 18 for user in users])
    poisoned = flip(split, bad)
    assert check(split, scores, users).ok
    found = check(poisoned, scores, users)
    assert not found.ok
    assert "users that contradict it" in found.detail
    assert check(poisoned, scores).ok  # by time alone nothing is to be seen


def test_users_that_are_served_badly_are_not_taken_for_liars():
    """A model without skill for a fifth of the users: half of them seem to disagree, and the other half does not."""
    users = [f"u{number % 50}" for number in range(1000)]
    for seed in range(10):
        split, scores = sound(1000, seed=seed)
        noise = np.random.default_rng(seed).normal(size=(1000, SIZE)).astype(np.float32)
        lost = np.array([int(user[1:]) < 10 for user in users])
        scores = np.where(lost[:, None], noise, scores.reshape(-1, SIZE)).reshape(-1)
        assert check(split, scores, users).ok


def test_a_served_model_no_better_than_chance_does_not_condemn_labels():
    refused = 0
    for seed in range(60):
        split, _ = sound(seed=seed)
        noise = np.random.default_rng(seed).normal(size=len(split.grade)).astype(np.float32)
        refused += not check(split, noise, [f"u{number % 23}" for number in range(200)]).ok
    assert refused <= 7  # of 60, each with odds of 2.5% at most
    assert stats.binom.sf(7, 60, 0.025) < 1e-3


def test_few_events_are_looked_at_together():
    split, scores = sound(30)
    assert "slices, all 30 events" in check(split, scores).detail
    assert not check(flip(split, slice(0, 30)), scores).ok
    assert check(flip(split, slice(0, 2)), scores).ok


def test_the_bound_is_students_interval_shared_among_the_slices():
    split, scores = sound(30)
    accuracy = ranking_metrics(scores, split.grade, split.offsets)["pair_accuracy"]
    low, high = stats.t.interval(0.95, 29, loc=accuracy.mean(), scale=stats.sem(accuracy))
    assert check(split, scores).measured == pytest.approx(high)
    assert low < high


def test_labels_without_two_grades_tell_nothing():
    split, scores = sound(30)
    assert check(dataclasses.replace(split, grade=np.ones(180, dtype=np.int32)), scores).ok
    nothing = Split(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))
    found = label_check(nothing, np.zeros(0, np.float32), [], None, UPDATE)
    assert (found.ok, found.measured) == (True, None)


@pytest.mark.parametrize("lists", [1, 2, 3, 19])
def test_few_lists_condemn_nothing(lists):
    """Two lists whose pairs are all in the wrong order would make a t interval without width."""
    split, _ = sound(lists)
    found = check(split, -split.grade.astype(np.float32))
    assert (found.ok, found.inconclusive) == (True, True)
    assert f"there were {lists}" in found.detail
