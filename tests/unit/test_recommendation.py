"""What a run came to: one rule, from the table's rows and comparisons, or from what a bundle recorded."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rankdistill.export.gate.estimates import recommendation
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.export.report.recommendation import (
    LEAST_QUERIES,
    NOT_RECOMMENDED,
    NOT_SHOWN,
    RECOMMENDED,
    Recommendation,
    headline,
    recommend,
    recommendation_of,
    worse,
)
from rankdistill.export.report.tradeoff import Bootstrap, Candidate, finite, tied_share, tradeoff_rows, warnings_of
from tests.unit.test_tradeoff import latency

FORM = {
    "teacher": ("pytorch", "fp32"), "student": ("onnxruntime", "int8"), "embedding": ("pytorch", "fp32"),
}  # fmt: skip


def row(model, score, **fields):
    engine, precision = FORM.get(model, (None, None))
    return {"model": model, "engine": engine, "precision": precision, "ndcg@10": score} | fields


def rows(**scores):
    return [row(model, score) for model, score in scores.items()]


def comparison(name, difference, low, high):
    return {"name": name, "metric": "ndcg@10", "difference": difference, "interval": [low, high]}


TABLE = rows(teacher=0.36, student=0.335, popularity=0.245, bm25=0.238)
ABOVE = [
    comparison("teacher - popularity", 0.115, 0.07, 0.16),
    comparison("teacher - bm25", 0.122, 0.08, 0.17),
    comparison("student int8 - popularity", 0.09, 0.052, 0.128),
    comparison("student int8 - bm25", 0.097, 0.06, 0.13),
]


def with_(*changed):
    """The comparisons above with some of them in place of those of their names."""
    by_name = {each["name"]: each for each in [*ABOVE, *changed]}
    return list(by_name.values())


def test_a_student_surely_above_every_baseline_is_recommended():
    found = recommend(TABLE, ABOVE, 200)
    assert found.as_dict() == {
        "status": RECOMMENDED,
        "sentence": "recommended: student onnxruntime int8 has nDCG@10 0.335, 0.090 [0.052, 0.128] above popularity, "
        "the best baseline",
        "baseline": "popularity",
        "difference": 0.09,
        "interval": [0.052, 0.128],
    }


@pytest.mark.parametrize("low", [0.0, -0.001, -0.05])
def test_an_interval_that_touches_0_shows_nothing(low):
    found = recommend(TABLE, with_(comparison("student int8 - popularity", 0.01, low, 0.03)), 200)
    assert (found.status, found.baseline, found.interval) == (NOT_SHOWN, "popularity", (low, 0.03))
    assert "not surely above popularity, the best baseline, 0.245" in found.sentence


def test_above_the_best_baseline_alone_is_not_enough():
    found = recommend(TABLE, with_(comparison("student int8 - bm25", 0.097, -0.01, 0.2)), 200)
    assert (found.status, found.baseline) == (NOT_SHOWN, "bm25")
    assert "not surely above bm25, 0.238" in found.sentence


@pytest.mark.parametrize("baseline", ["popularity", "bm25"])
def test_a_student_surely_below_any_baseline_is_not_recommended(baseline):
    found = recommend(TABLE, with_(comparison(f"student int8 - {baseline}", -0.02, -0.03, -0.01)), 200)
    assert (found.status, found.baseline, found.difference) == (NOT_RECOMMENDED, baseline, -0.02)
    assert f"is below {baseline}" in found.sentence
    assert "by 0.020 [0.010, 0.030]" in found.sentence


def test_a_teacher_surely_below_a_baseline_is_not_recommended_whatever_its_student_is():
    below = comparison("teacher - popularity", -0.064, -0.097, -0.033)
    found = recommend(rows(teacher=0.186, student=0.335, popularity=0.25, bm25=0.238), with_(below), 200)
    assert found.status == NOT_RECOMMENDED
    assert found.sentence.startswith(
        "not recommended: the teacher (0.186) is below popularity (0.250) by 0.064 [0.033, 0.097]; train a better "
    )


def test_an_unsure_teacher_does_not_take_away_what_its_student_shows():
    unsure = comparison("teacher - popularity", 0.01, -0.02, 0.04)
    assert recommend(TABLE, with_(unsure), 200).status == RECOMMENDED


@pytest.mark.parametrize("queries", [0, 1, LEAST_QUERIES - 1, None])
def test_few_queries_show_nothing_in_either_direction(queries):
    below = with_(comparison("student int8 - popularity", -0.2, -0.2, -0.2))
    for comparisons in (ABOVE, below):
        found = recommend(TABLE, comparisons, queries)
        assert found.status == NOT_SHOWN
        assert f"at least {LEAST_QUERIES} are needed" in found.sentence
    assert recommend(TABLE, ABOVE, LEAST_QUERIES).status == RECOMMENDED


def test_without_a_baseline_a_student_or_a_comparison_nothing_is_shown():
    assert recommend(rows(teacher=0.36, student=0.335), [], 200).status == NOT_SHOWN
    assert "no student was measured" in recommend(rows(teacher=0.36, bm25=0.2), ABOVE, 200).sentence
    found = recommend([*TABLE, row("embedding", 0.2)], ABOVE, 200)
    assert found.status == NOT_SHOWN
    assert "was not compared with embedding" in found.sentence


@pytest.mark.parametrize("fields", [{"tied": 1.0}, {"tied": 0.51}, {"tau": None, "pair_accuracy": 0.5}])
@pytest.mark.parametrize("model", ["student", "teacher"])
def test_a_model_of_constant_scores_is_not_recommended_however_it_seems_to_rank(fields, model):
    table = [each | (fields if each["model"] == model else {}) for each in TABLE]
    for queries in (200, 2):
        found = recommend(table, ABOVE, queries)
        assert found.status == NOT_RECOMMENDED
        assert "ranks nothing" in found.sentence


def test_ties_in_few_lists_are_no_fault():
    assert recommend([each | {"tied": 0.2} for each in TABLE], ABOVE, 200).status == RECOMMENDED


def test_the_student_that_is_served_decides():
    table = [*TABLE, row("student", 0.1) | {"engine": "openvino", "precision": "bf16"}]
    assert recommend(table, ABOVE, 200).sentence.startswith("recommended: student onnxruntime int8 has nDCG@10 0.335")


@pytest.mark.parametrize(
    "verdict", [{}, {"verdict": None}, {"verdict": {"status": "splendid", "sentence": "x"}}, {"verdict": 7}]
)
def test_a_run_from_before_there_were_verdicts_is_judged_by_its_table(verdict):
    tradeoff = {"rows": TABLE, "comparisons": ABOVE, "queries": 200} | verdict
    assert recommendation_of(tradeoff) == recommend(TABLE, ABOVE, 200)
    assert recommendation_of({"rows": TABLE, "queries": 200}).status == NOT_SHOWN


@pytest.mark.parametrize(
    "damaged", [None, 7, [3], [{"name": None}], [comparison("student int8 - popularity", None, None, None)]]
)
def test_damaged_comparisons_show_nothing(damaged):
    assert recommendation_of({"rows": TABLE, "comparisons": damaged, "queries": 200}).status == NOT_SHOWN


def test_a_verdict_is_read_as_it_was_written():
    for found in (recommend(TABLE, ABOVE, 200), recommend(TABLE, ABOVE, 2)):
        written = json.loads(json.dumps(found.as_dict(), allow_nan=False))
        assert recommendation_of({"rows": [], "verdict": written}) == found


def test_the_worse_of_two_verdicts_stands():
    one, other = Recommendation(RECOMMENDED, "a"), Recommendation(NOT_SHOWN, "b")
    assert worse(one, other) is worse(other, one) is other
    third = Recommendation(NOT_RECOMMENDED, "c")
    assert worse(third, other) is third
    assert headline("not shown: x") == "Not shown: x."


# from scores

QUERIES, CANDIDATES = 40, 12
OFFSETS = np.arange(QUERIES + 1, dtype=np.int64) * CANDIDATES
GRADES = (
    np.sort(np.random.default_rng(0).integers(0, 3, (QUERIES, CANDIDATES)), axis=1)[:, ::-1].ravel().astype(np.int32)
)
HOW = Bootstrap(confidence=0.95, resamples=500, seed=0)


def scores(noise, seed):
    return (GRADES + noise * np.random.default_rng(seed).normal(size=len(GRADES))).astype(np.float32)


def measured(teacher, student, **baselines):
    candidates = [
        Candidate("teacher", "pytorch", "fp32", teacher, latency(10, 1)),
        Candidate("student", "onnxruntime", "int8", student, latency(1, 2)),
        *(Candidate(name, *FORM.get(name, (None, None)), found) for name, found in baselines.items()),
    ]
    return tradeoff_rows(candidates, GRADES, OFFSETS, 1, HOW)


def recorded(rows_of, **models):
    """What a bundle records of these scores, teacher and student first."""
    found = []
    for name, values in models.items():
        from rankdistill.export.measure.quality import agreement

        quality = ranking_metrics(values, GRADES, OFFSETS) | agreement(values, models["teacher"], OFFSETS)
        engine, precision = FORM.get(name, (None, None))
        found.append(
            {"model": name, "engine": engine, "precision": precision,
             "quality": {metric: each.tolist() for metric, each in quality.items()}}
        )  # fmt: skip
    return finite({"queries": list(map(str, range(rows_of))), "models": found})


GOOD, FAIR, POOR, WORTHLESS = scores(0.3, 1), scores(0.6, 2), scores(5, 3), scores(50, 4)
FLAT = np.zeros(len(GRADES), dtype=np.float32)
CASES = [
    ({"teacher": GOOD, "student": FAIR, "bm25": POOR, "embedding": WORTHLESS}, RECOMMENDED),
    ({"teacher": GOOD, "student": WORTHLESS, "bm25": FAIR, "embedding": POOR}, NOT_RECOMMENDED),
    ({"teacher": WORTHLESS, "student": WORTHLESS, "bm25": WORTHLESS, "embedding": FAIR}, NOT_RECOMMENDED),
    ({"teacher": GOOD, "student": FAIR, "bm25": FAIR, "embedding": POOR}, NOT_SHOWN),
    # the candidates lie best first: a constant student "ranks" ideally
    ({"teacher": GOOD, "student": FLAT, "bm25": POOR, "embedding": POOR}, NOT_RECOMMENDED),
    ({"teacher": FLAT, "student": FAIR, "bm25": POOR, "embedding": POOR}, NOT_RECOMMENDED),
    ({"teacher": GOOD, "student": FAIR}, NOT_SHOWN),
]


@pytest.mark.parametrize(("models", "status"), CASES)
def test_the_table_and_what_a_bundle_records_come_to_the_same(models, status):
    table, comparisons = measured(**models)
    found = recommend(table, comparisons, QUERIES)
    again = recommendation(recorded(QUERIES, **models), "int8", 0.95)
    assert (found.status, again.status) == (status, status)
    assert again.baseline == found.baseline
    assert recommend(finite(table), finite(comparisons), QUERIES) == found
    json.dumps(finite(found.as_dict()), allow_nan=False)


def test_what_a_bundle_records_of_few_queries_shows_nothing():
    content = recorded(QUERIES, **CASES[0][0])
    content["queries"] = content["queries"][:5]
    for model in content["models"]:
        model["quality"] = {name: values[:5] for name, values in model["quality"].items()}
    assert recommendation(content, "int8", 0.95).status == NOT_SHOWN


def test_a_precision_without_values_is_judged_by_the_graph_that_is_served():
    content = recorded(QUERIES, **CASES[0][0])
    assert recommendation(content, "weight8", 0.95) == recommendation(content, "int8", 0.95)


def test_lists_whose_scores_are_all_the_same_are_counted_where_order_matters():
    one = np.array([1, 1, 0, 1, 2, 2], dtype=np.float32)
    assert tied_share(one, np.array([0, 1, 0, 1, 0, 1], np.int32), np.array([0, 2, 4, 6])) == pytest.approx(2 / 3)
    assert tied_share(one, np.array([0, 1, 0, 1, 1, 1], np.int32), np.array([0, 2, 4, 6])) == pytest.approx(1 / 2)
    assert math.isnan(tied_share(one, np.zeros(6, np.int32), np.array([0, 2, 4, 6])))


def test_a_warning_does_not_repeat_the_verdict():
    table, comparisons = measured(teacher=WORTHLESS, student=scores(50, 5), bm25=FAIR, embedding=FAIR + 0.1 * GOOD)
    found = recommend(table, comparisons, QUERIES)
    every, beside = warnings_of(comparisons, table), warnings_of(comparisons, table, found)
    assert len(every) == len(beside) + 1
    (told,) = set(every) - set(beside)
    assert told.startswith(f"teacher below {found.baseline}: ")
    table, comparisons = measured(teacher=GOOD, student=FAIR, bm25=FAIR, embedding=POOR)
    found = recommend(table, comparisons, QUERIES)
    assert found.status == NOT_SHOWN
    assert warnings_of(comparisons, table, found) == []
    assert len(warnings_of(comparisons, table)) == 1
