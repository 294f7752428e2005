"""What many seeds come to, as scripts/bench/seeds.py tells it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench_scripts import bench_script


@pytest.fixture(scope="module")
def seeds():
    with bench_script("seeds") as script:
        yield script


def row(dev: float, student: float = 0.33) -> dict:
    return {
        "dev": {
            "teacher": dev,
            "curve": [dev],
            "queries": 100,
            "popularity": 0.25,
            "above": {"popularity": [0.01, 0.1]},
        },
        "test": {
            "teacher": {"ndcg@10": 0.34, "above": {"popularity": [0.02, 0.12]}},
            "student": {"ndcg@10": student, "above": {"popularity": [student - 0.32, 0.1]}},
            "popularity": {"ndcg@10": 0.24},
        },
        "retention": student / 0.34,
        "tau": 0.9,
    }


def test_a_seed_below_nine_tenths_of_the_median_is_an_outlier(seeds):
    found = seeds.summary([row(0.30), row(0.31), row(0.32), row(0.27)])
    assert found["teacher_dev"] == {"median": 0.305, "min": 0.27, "max": 0.32, "outliers": 1}
    assert found["teacher_dev_least_above"] == {"popularity": 0.02}
    assert found["stopped"] == 0


def test_students_surely_above_a_baseline_are_counted(seeds):
    found = seeds.summary([row(0.3, 0.33), row(0.3, 0.31)])
    assert found["student_test_surely_above"] == {"popularity": 1}
    assert found["teacher_test_surely_above"] == {"popularity": 2}
    assert found["student_test"]["median"] == 0.32


def test_runs_that_were_stopped_are_told_apart_from_those_that_had_made_a_student(seeds):
    stopped = {"stopped": "teacher: nothing is learned by step 9\nmore", "student": False, "seconds": 1.0}
    found = seeds.summary([stopped, stopped | {"student": True}, row(0.3)])
    assert (found["rows"], found["stopped"], found["stopped_before_student"]) == (3, 2, 1)
    assert seeds.told("fp32 seed 0", stopped) == (
        "fp32 seed 0: stopped before its student: teacher: nothing is learned by step 9"
    )
    assert seeds.summary([stopped]) == {"rows": 1, "stopped": 1, "stopped_before_student": 1}
    assert "test student 0.330" in seeds.told("fp32 seed 1", row(0.3))


def test_differences_are_paired_by_query(seeds):
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    low, high = seeds.above(hard + rng.normal(0.05, 0.01, 200), {"bm25": hard})["bm25"]
    assert 0 < low < 0.05 < high < 0.1  # unpaired it would be .05 +- .06
