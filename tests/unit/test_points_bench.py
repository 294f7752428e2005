"""scripts/bench/points.py: who is on the front, and whether a point that was asked for is reached."""

from __future__ import annotations

import pytest

from tests.bench_scripts import bench_script


@pytest.fixture(scope="module")
def points():
    with bench_script("points") as script:
        yield script


def student(retention, speedup, *, wide=0.0, lift=0.5):
    """One whose intervals reach `wide` to both sides."""
    return {
        "ndcg@10": retention / 2, "retention": retention, "retention_ci": [retention - wide, retention + wide],
        "lift_kept": lift, "lift_kept_ci": [lift - wide, lift + wide], "tau": 0.7, "size_mb": 1.0,
        "speedup": speedup, "speedup_ci": [speedup * (1 - wide), speedup * (1 + wide)],
    }  # fmt: skip


def test_the_front_is_those_that_no_other_beats_and_begins_with_the_slowest(points):
    students = {"small": student(0.9, 60.0), "beaten": student(0.9, 30.0), "large": student(0.99, 5.0)}
    assert points.on_front(students) == ["large", "small"]


@pytest.mark.parametrize(
    ("wide", "retention", "speedup", "met"),
    [(0.0, 0.995, 5.0, "bounds"), (0.001, 0.997, 5.1, "bounds"), (0.001, 0.9955, 5.1, "means"),
     (0.1, 0.999, 5.1, "means"), (0.0, 0.9949, 5.0, None)],
)  # fmt: skip
def test_a_point_is_reached_by_means_or_by_the_lower_bounds_too(points, wide, retention, speedup, met):
    found = points.reached({"one": student(retention, speedup, wide=wide)})
    assert found[0] == {"retention": 0.995, "speedup": 5, "student": "one", "met": met}


def test_a_point_that_nobody_is_fast_enough_for_names_nobody(points):
    students = {"slow": student(1.0, 14.9, lift=0.98)}
    last = points.reached(students)[3]
    assert last == {"retention": 0.94, "speedup": 60, "student": None, "met": None}
    assert points.told(last) == "retention 0.94 at 60x: not reached (none is as fast)"
    lifts = points.reached(students)[4:]
    assert [(each["student"], each["met"]) for each in lifts] == [("slow", "bounds"), (None, None)]


def test_of_the_fast_enough_the_one_that_keeps_most_is_named(points):
    students = {"slow": student(1.0, 4.9), "better": student(0.992, 16.0), "faster": student(0.991, 70.0)}
    assert [each["student"] for each in points.reached(students)[:4]] == ["better", "better", "faster", "faster"]


def test_the_table_has_the_front_in_bold(points):
    students = {name: {"int8": each} for name, each in (("a", student(0.9, 6.0)), ("b", student(0.95, 60.0)))}
    _, _, first, second = points.table({"games": {"students": students}}).splitlines()
    assert first == "| games | a | .450 | 90.0% [90.0, 90.0] | .500 | .700 | 6.0 [6.0, 6.0] | 1.0 |"
    assert second.startswith("| games | **b** | .475 | 95.0%")


def test_the_plot_names_every_set_and_student(points, tmp_path):
    students = {name: {"int8": each} for name, each in (("a", student(0.9, 6.0)), ("b", student(0.95, 60.0)))}
    results = {name: {"students": students, "teacher": 0.5, "queries": 7} for name in ("games", "films", "shops")}
    path = tmp_path / "plot.svg"
    points.draw(results, path)
    text = path.read_text()
    assert all(f">{name}: teacher .500 nDCG@10, 7 queries<" in text for name in results)
    assert text.count(">a<") == text.count(">b<") == 3
