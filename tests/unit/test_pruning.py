"""A student is given up only beside students that cost no more, and only when it is clearly below them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.errors import ConfigError
from rankdistill.training.median_stopping import Curve, Pruned, Rivals

CURVES = [Curve(cost, [(0.33, value - 0.05), (0.67, value - 0.02), (1.0, value)]) for cost, value in
          ((1e6, 0.20), (2e6, 0.30), (3e6, 0.32), (9e6, 0.40))]  # fmt: skip


def test_a_hopeless_student_is_given_up():
    with pytest.raises(Pruned, match=r"67% .* 0\.2000, below 0\.2800, the median of 3 students"):
        Rivals(3, 0.01, CURVES).check(3e6, 0.67, 0.20)


def test_a_cheaper_student_may_be_worse():
    Rivals(1, 0.01, CURVES).check(0.9e6, 1.0, 0.01)
    Rivals(2, 0.01, CURVES).check(1.5e6, 1.0, 0.01)


def test_noise_is_no_reason():
    Rivals(3, 0.01, CURVES).check(3e6, 1.0, 0.2901)
    with pytest.raises(Pruned):
        Rivals(3, 0.01, CURVES).check(3e6, 1.0, 0.2899)


def test_as_many_as_asked_for_are_needed():
    Rivals(5, 0.0, CURVES).check(1e9, 1.0, 0.0)


def test_a_curve_is_compared_at_the_same_share_of_the_training():
    assert CURVES[1].at(0.1) is None
    assert CURVES[1].at(0.5) == pytest.approx(0.25)
    assert CURVES[1].at(1.0) == pytest.approx(0.30)
    Rivals(1, 0.0, CURVES).check(1e9, 0.1, 0.0)  # nothing is known so early


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0, 1))
def test_the_best_of_all_is_never_given_up(values, other):
    rivals = Rivals(1, 0.0, [Curve(1.0, [(1.0, value)]) for value in values])
    rivals.check(1.0, 1.0, max([*values, other]))


def test_what_is_written_is_read(tmp_path):
    rivals = Rivals(3, 0.01, CURVES)
    path = tmp_path / "rivals.json"
    path.write_text(json.dumps(rivals.as_json()))
    assert Rivals.read(path) == rivals


@pytest.mark.parametrize("content", ["", "[]", '{"least": 1}', '{"least": 1, "margin": 0, "curves": [{"cost": 1}]}'])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "rivals.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="rivals="):
        Rivals.read(path)


def test_the_curve_of_a_students_stage(tmp_path):
    history = [{"loss": 1.0, "step": 1}, {"eval_ndcg@10": 0.2, "step": 5}, {"eval_ndcg@10": 0.3, "step": 10}]
    (tmp_path / "training.json").write_text(json.dumps({"steps": 10, "cost": 7.0, "history": history}))
    assert Curve.read(tmp_path) == Curve(7.0, [(0.5, 0.2), (1.0, 0.3)])
