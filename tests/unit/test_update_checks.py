"""Each check of an update, failing and passing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rankdistill.data.records import Split
from rankdistill.online import checks
from rankdistill.online.events.feedback import Counts
from rankdistill.options import HeadUpdate
from tests.update_parts import shown

UPDATE = HeadUpdate(resamples=200)


def split_of(lists=40, size=6, seed=0):
    grades = np.random.default_rng(seed).integers(0, 3, (lists, size))
    grades[:, 0], grades[:, 1] = 2, 0
    offsets = np.arange(0, lists * size + 1, size, dtype=np.int64)
    rows = np.arange(lists * size, dtype=np.int32)
    return Split(np.arange(lists, dtype=np.int32), offsets, rows, grades.reshape(-1).astype(np.int32))


def scored(split, noise, sign=1.0, seed=1):
    """Scores that order by grade as well as the noise lets them."""
    rng = np.random.default_rng(seed)
    return (sign * split.grade + rng.normal(scale=noise, size=len(split.grade))).astype(np.float32)


def only(found, name):
    return next(check for check in found if check.name == name)


@pytest.mark.parametrize(("of_one", "ok"), [(20, True), (21, False), (50, False)])
def test_no_user_has_more_than_a_share_of_the_events(of_one, ok):
    lists = [shown(str(n), 1, 0, user="loud" if n < of_one else f"u{n}") for n in range(100)]
    check = only(checks.event_checks(lists, Counts(read=100), UPDATE), checks.USER)
    assert (check.ok, check.measured, check.bound) == (ok, of_one / 100, 0.2)
    assert f"{of_one}% of 100 events are of user 'loud', at most 20%" in check.detail


def test_events_without_users_are_nobodys():
    lists = [shown(str(n), 1, 0) for n in range(30)]
    check = only(checks.event_checks(lists, Counts(read=30), UPDATE), checks.USER)
    assert check.ok
    assert "no event names a user" in check.detail
    assert only(checks.event_checks([], Counts(), UPDATE), checks.USER).ok


@pytest.mark.parametrize(("broken", "ok"), [(0, True), (5, True), (6, False)])
def test_no_more_than_a_share_is_broken(broken, ok):
    check = only(checks.event_checks([], Counts(read=100, broken=broken), UPDATE), checks.BROKEN)
    assert (check.ok, check.measured) == (ok, broken / 100)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(bad):
    fine, wrong = np.zeros(3, np.float32), np.array([0, bad, 0], np.float32)
    assert checks.finite_check(True, events=fine).ok
    assert checks.finite_check(True, events=fine, test=wrong).detail == "not finite: test"
    assert checks.finite_check(False, events=wrong).detail == "not finite: events, the weights"


def test_newer_events_must_not_be_ranked_worse():
    split = split_of()
    good, bad = scored(split, 0.3), scored(split, 3.0)
    assert checks.newest_check(split, bad, good, UPDATE, 0).ok
    assert checks.newest_check(split, good, good, UPDATE, 0).ok
    worse = checks.newest_check(split, good, bad, UPDATE, 0)
    assert not worse.ok
    before, after = (checks.ndcg(scores, split).mean() for scores in (good, bad))
    assert f"{before:.4f} to {after:.4f} on 40 held-out lists, {after - before:+.4f}" in worse.detail


def test_a_loss_that_so_few_lists_cannot_show_is_none():
    split = split_of(3)
    assert checks.newest_check(split, scored(split, 0.9, seed=5), scored(split, 0.9, seed=2), UPDATE, 0).ok


@pytest.mark.parametrize(("lists", "inconclusive"), [(1, True), (2, True), (19, True), (20, False), (40, False)])
def test_what_few_lists_let_pass_is_inconclusive(lists, inconclusive):
    split = split_of(lists)
    good = scored(split, 0.3)
    first = float(checks.ndcg(good, split).mean())
    for check in (
        checks.newest_check(split, good, good, UPDATE, 0),
        checks.forgetting_check(split, first, good, good, UPDATE),
        checks.int8_check("qint8", split, good, good, UPDATE),
    ):
        assert (check.ok, check.inconclusive) == (True, inconclusive)
        told = f"at least 20 lists are needed, there were {lists}"
        assert (told in check.detail) == inconclusive
        assert str(check).startswith("inconclusive: " if inconclusive else "ok: ")
        assert check.as_dict().get("inconclusive", False) == inconclusive


def test_two_lists_alike_refuse_nothing():
    split = split_of(2)
    perfect, worst = split.grade.astype(np.float32), -split.grade.astype(np.float32)
    assert checks.newest_check(split, perfect, worst, UPDATE, 0).ok


def test_newest_lists_that_tell_nothing_are_left_out():
    split = dataclasses.replace(split_of(), grade=np.ones(240, dtype=np.int32))
    check = checks.newest_check(split, scored(split, 1), scored(split, 1), UPDATE, 0)
    assert (check.ok, check.measured) == (True, None)


def test_forgetting_is_held_to_the_first_version():
    split = split_of()
    served = scored(split, 0.5)
    first = float(checks.ndcg(served, split).mean())
    assert checks.forgetting_check(split, first, served, served, UPDATE).ok
    check = checks.forgetting_check(split, first + 0.0051, served, served, UPDATE)  # small losses of earlier updates
    assert not check.ok
    assert check.measured == pytest.approx(0.0051)
    assert not checks.forgetting_check(split, first, served, scored(split, 3.0), UPDATE).ok


def test_eight_bits_must_keep_the_order():
    split = split_of()
    exact = scored(split, 0.1)
    close = exact + np.random.default_rng(0).normal(scale=0.01, size=len(exact)).astype(np.float32)
    assert checks.int8_check("qint8", split, exact, close, UPDATE).ok
    check = checks.int8_check("qint8", split, exact, scored(split, 4.0), UPDATE)
    assert not check.ok
    assert check.detail.startswith("ndcg@10 of qint8 +")


def test_refusals_and_how_they_are_told():
    good, bad = checks.Check("a", True, 1.0, 2.0, "fine"), checks.Check("b", False, 3.0, 2.0, "too much")
    assert checks.refusals([good, bad]) == [bad]
    assert (str(good), str(bad)) == ("ok: a: fine", "refused: b: too much")
    assert checks.as_table([good, bad])["b"] == {"ok": False, "measured": 3.0, "bound": 2.0, "detail": "too much"}
