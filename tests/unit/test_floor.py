"""A teacher that is surely below a ranker that costs nothing ends the run before anything stands on it."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from rankdistill.baselines import floor
from rankdistill.baselines.floor import shortfall
from rankdistill.errors import TrainingError
from rankdistill.export.measure.intervals import LEAST_QUERIES
from tests.composing import composed

RNG = np.random.default_rng(0)
POPULARITY = RNG.uniform(0.1, 0.5, 100)


def test_only_a_teacher_that_is_surely_below_the_best_baseline_falls_short():
    worse = POPULARITY - 0.1 + RNG.normal(0, 0.05, 100)
    found = shortfall(worse, {"popularity": POPULARITY, "bm25": POPULARITY - 0.2})
    assert found is not None
    assert found.startswith("teacher: dev nDCG@10 0.2")
    assert "is surely below popularity's" in found
    assert "over 100 queries" in found
    assert shortfall(worse, {"bm25": POPULARITY - 0.2}) is None
    assert shortfall(POPULARITY + RNG.normal(0, 0.2, 100), {"popularity": POPULARITY}) is None
    assert shortfall(POPULARITY + 0.1, {"popularity": POPULARITY}) is None
    few = slice(LEAST_QUERIES - 1)
    assert shortfall(worse[few], {"popularity": POPULARITY[few]}) is None
    assert shortfall(worse, {}) is None


@pytest.fixture
def held(monkeypatch):
    """Return what holds values to POPULARITY with options."""
    split = SimpleNamespace(sample=lambda *_: None)
    monkeypatch.setattr(floor, "read", lambda *_: {"popularity": POPULARITY})
    monkeypatch.setattr(floor.RankingData, "open", lambda _: SimpleNamespace(splits={"dev": split}))
    built = SimpleNamespace(folder=None)
    return lambda values, *overrides: floor.hold(values, composed(*overrides), {100: built}, 100, built)


def test_stop_raises_with_numbers_and_what_to_try(held):
    with pytest.raises(TrainingError) as error:
        held(POPULARITY - 0.1, "warm=none", "teacher.fit.learning_rate=1e-2")
    told = str(error.value)
    assert "surely below popularity's" in told
    for option in ("warm=histories", "teacher.fit.learning_rate=3e-05", "teacher.floor=warn"):
        assert option in told
    assert "\n" not in told


def test_warn_and_none_go_on(held, caplog):
    caplog.set_level(logging.INFO)
    held(POPULARITY - 0.1, "teacher.floor=warn")
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    caplog.clear()
    held(POPULARITY - 0.1, "teacher.floor=none")
    held(POPULARITY + 0.1)
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert "popularity" in caplog.text


def test_hints_speak_of_what_the_run_has_not():
    told = floor.hints(composed("warm=similarity", "teacher.fit.learning_rate=3e-5"), "teacher")
    assert "warm=" not in told
    assert "learning_rate" not in told
    as_is = floor.hints(composed("teacher=cross_encoder"), "teacher")
    assert "another teacher.model" in as_is
