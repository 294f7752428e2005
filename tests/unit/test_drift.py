"""Drift of the served model: silent while nothing changes, an alarm soon after it does, each served model by itself."""

from __future__ import annotations

import json
import math
import sys

import ir_measures
import numpy as np
import pytest
from scipy.special import expit

from rankdistill.data.records import UNKNOWN, Split
from rankdistill.errors import DataError
from rankdistill.export.errors import UserError
from rankdistill.online.drift import Drift, event_values, shown_scores
from rankdistill.online.events.catalogue import Catalogue
from rankdistill.online.events.feedback import read_feedback
from rankdistill.options.ranges import broken_rules
from rankdistill.options.update import DriftSignal, Events

ITEMS, CHANGE, SEEDS = 10, 1000, 20


class Lists:
    """What `Drift.add` takes of a feedback: the lists and who served them."""

    def __init__(self, grades, models):
        lists = len(models)
        self.split = Split(
            query=np.arange(lists, dtype=np.int32), offsets=np.arange(lists + 1) * ITEMS,
            item=np.zeros(lists * ITEMS, dtype=np.int32), grade=np.asarray(grades, dtype=np.int32),
        )  # fmt: skip
        self.model = models


def outcomes(rng, lists, quality, model="m"):
    """One click a list, scores that are better the higher the quality: 1 gives an nDCG of about .65, 0 of .45."""
    grades = np.tile([1] + [0] * (ITEMS - 1), lists)
    return Lists(grades, [model] * lists), quality * grades + rng.normal(size=len(grades))


def calibrated(rng, lists, truth):
    """Scores of a model that is calibrated where truth is 1; where it is -1, outcomes are the other way round."""
    scores = rng.normal(0, 2, lists * ITEMS)
    return Lists(rng.random(len(scores)) < expit(truth * scores), ["m"] * lists), scores


@pytest.mark.parametrize("measure", ["ndcg@10", "brier"])
def test_no_alarm_while_nothing_changes(measure):
    alarmed = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        stream = outcomes(rng, 2000, 1.0) if measure == "ndcg@10" else calibrated(rng, 2000, 1)
        alarmed += bool(Drift(DriftSignal(measure=measure)).add(*stream))
    assert alarmed == 0  # of 20 streams; of 200 it was none too


@pytest.mark.parametrize(("after", "within"), [(0.0, 150), (0.5, 400)])
def test_an_alarm_soon_after_a_change(after, within):
    delays = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        drift = Drift(DriftSignal())
        assert drift.add(*outcomes(rng, CHANGE, 1.0)) == []
        (alarm,) = drift.add(*outcomes(rng, 1000, after))  # one change is one alarm
        delays.append(alarm.events - CHANGE)
        assert alarm.model == "m"
        assert alarm.before == pytest.approx(0.65, abs=0.05)
        assert alarm.after == pytest.approx({0.0: 0.45, 0.5: 0.55}[after], abs=0.12)
    assert max(delays) <= within


def test_an_alarm_when_calibration_is_lost():
    rng = np.random.default_rng(0)
    drift = Drift(DriftSignal(measure="brier"))
    assert drift.add(*calibrated(rng, 500, 1)) == []
    (alarm, *_) = drift.add(*calibrated(rng, 300, -1))
    assert alarm.events < 600
    assert alarm.before < alarm.after


def test_a_change_for_the_better_is_no_alarm():
    rng = np.random.default_rng(0)
    drift = Drift(DriftSignal())
    assert drift.add(*outcomes(rng, 1000, 0.0)) == []
    low = drift.means()["m"]
    assert drift.add(*outcomes(rng, 1000, 2.0)) == []
    assert drift.means()["m"] > low + 0.3  # the window holds what came after the change


def test_a_new_model_is_not_measured_by_the_one_before():
    rng = np.random.default_rng(0)
    drift = Drift(DriftSignal())
    assert drift.add(*outcomes(rng, 1000, 2.0, "old")) == []
    assert drift.add(*outcomes(rng, 1000, 0.5, "new")) == []
    (alarm, *_) = drift.add(*outcomes(rng, 1000, 0.0, "old"))
    assert alarm.model == "old"
    assert set(drift.means()) == {"old", "new"}


def test_models_are_followed_in_bounded_number():
    rng = np.random.default_rng(0)
    drift = Drift(DriftSignal())
    for number in range(50):
        drift.add(*outcomes(rng, 2, 1.0, f"m{number}"))
    assert list(drift.means()) == [f"m{number}" for number in range(42, 50)]


def test_what_was_stored_is_followed_on():
    rng = np.random.default_rng(1)
    options = DriftSignal()
    drift = Drift(options)
    drift.add(*outcomes(rng, 700, 1.0))
    stored = json.loads(json.dumps(drift.as_dict()))
    later = outcomes(rng, 500, 0.0)
    (alarm,), (same,) = drift.add(*later), Drift.from_dict(options, stored).add(*later)
    assert same == alarm
    assert alarm.events > 700
    after = json.loads(json.dumps(drift.as_dict()))  # what an alarm was raised for raises none again
    assert len(after["models"]["m"]["values"]) == pytest.approx(500, abs=50)
    assert Drift.from_dict(options, after).add(*outcomes(rng, 500, 0.0)) == []


def test_what_is_stored_is_bounded(monkeypatch):
    monkeypatch.setattr("rankdistill.online.drift.KEPT", 100)
    drift = Drift(DriftSignal())
    drift.add(*outcomes(np.random.default_rng(0), 1000, 1.0))
    assert len(drift.as_dict()["models"]["m"]["values"]) == 100


@pytest.mark.parametrize("values", [{}, [], {"measure": "ndcg@10"}, {"measure": "ndcg@10", "models": {"m": {}}},
                                    {"measure": "brier", "models": {}}])  # fmt: skip
def test_a_broken_state_is_refused(values):
    with pytest.raises(UserError, match="drift"):
        Drift.from_dict(DriftSignal(), values)


def ragged(rng):
    sizes = rng.integers(0, 15, 60)
    grades = rng.choice([UNKNOWN, 0, 0, 1, 2], sizes.sum())
    offsets = np.r_[0, np.cumsum(sizes)]
    split = Split(np.arange(60, dtype=np.int32), offsets, np.zeros(len(grades), np.int32), grades.astype(np.int32))
    return split, rng.permutation(len(grades)) / 10 - 20.0


def test_quality_is_of_the_told_outcomes_alone():
    split, scores = ragged(np.random.default_rng(0))
    found = event_values("ndcg@10", scores, split)
    measure = ir_measures.nDCG(gains={0: 0, 1: 1, 2: 3}) @ 10
    nothing = 0
    for row, value in enumerate(found):
        pairs = [at for at in range(split.offsets[row], split.offsets[row + 1]) if split.grade[at] != UNKNOWN]
        grades = [split.grade[at] for at in pairs]
        if len(set(grades)) < 2:
            nothing += 1
            assert math.isnan(value)
            continue
        qrels = [ir_measures.Qrel("q", str(at), int(split.grade[at])) for at in pairs]
        run = [ir_measures.ScoredDoc("q", str(at), float(scores[at])) for at in pairs]
        assert value == pytest.approx(ir_measures.calc_aggregate([measure], qrels, run)[measure])
    assert 0 < nothing < 40


def test_calibration_is_of_the_told_outcomes_alone():
    split, scores = ragged(np.random.default_rng(0))
    scores = scores * 100  # logits at which exp overflows
    found = event_values("brier", scores, split)
    for row, value in enumerate(found):
        pairs = [at for at in range(split.offsets[row], split.offsets[row + 1]) if split.grade[at] != UNKNOWN]
        errors = [(expit(scores[at]) - (split.grade[at] > 0)) ** 2 for at in pairs]
        assert value == pytest.approx(np.mean(errors)) if errors else math.isnan(value)


def test_scores_that_do_not_fit_are_refused():
    split, scores = ragged(np.random.default_rng(0))
    with pytest.raises(ValueError, match="one for each pair"):
        event_values("ndcg@10", scores[:-1], split)
    with pytest.raises(ValueError, match="NaN"):
        event_values("brier", np.full_like(scores, np.nan), split)


def read(tmp_path, positions):
    items = [
        {"id": f"i{at}", "text": "t", "outcome": "click" if at == 0 else "skip", **({"position": p} if p else {})}
        for at, p in enumerate(positions)
    ]
    row = {"id": "e", "time": 0, "query": {"text": "q"}, "model": "m", "items": items}
    (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n")
    return read_feedback(tmp_path / "log.jsonl", None, Events(), Catalogue())


def test_the_order_shown_may_stand_for_the_scores(tmp_path):
    found = read(tmp_path, [3, 1, 2])
    drift = Drift(DriftSignal())
    assert drift.add(found, shown_scores(found)) == []
    assert drift.means() == {"m": pytest.approx(1 / math.log2(4))}
    with pytest.raises(DataError, match="1 of 3 items shown have no position"):
        shown_scores(read(tmp_path, [3, 0, 2]))


def test_a_missing_river_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "river", None)
    monkeypatch.setattr("rankdistill.export.extras.importlib.util.find_spec", lambda module: None)
    with pytest.raises(UserError, match=r"pip install 'rankdistill\[online\]'"):
        Drift(DriftSignal())


@pytest.mark.parametrize(("option", "value"), [("measure", "map"), ("delta", 0.0), ("delta", 1.0), ("grace", 0)])
def test_an_option_out_of_its_range_is_told(option, value):
    (line,) = broken_rules(DriftSignal(**{option: value}), "drift.")
    assert line.startswith(f"drift.{option}={value}: allowed is ")
    assert list(broken_rules(DriftSignal(), "drift.")) == []
