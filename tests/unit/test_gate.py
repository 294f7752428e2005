"""The gate's logic on synthetic measurements, and a budget's grammar."""

from __future__ import annotations

import json
import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.export.errors import UserError
from rankdistill.export.gate import verdict_files as verdict_
from rankdistill.export.gate.budget import METRICS, Budget, parse_bound
from rankdistill.export.gate.bundle_gate import recommendation_line
from rankdistill.export.gate.decision import Estimate, Missing, judge, worst
from rankdistill.export.measure.intervals import LEAST_QUERIES
from rankdistill.export.report.recommendation import Recommendation


def budget(*bounds, **options):
    return Budget.of({"require": list(bounds), **options}, "here")


def queries(value, low, high, samples=200):
    return Estimate(value, low, high, samples, "queries", "more test queries are needed")


@pytest.mark.parametrize(
    ("bound", "interval", "verdict"),
    [
        ("retention >= 0.95", (0.97, 0.95, 0.99), "pass"),
        ("retention >= 0.95", (0.97, 0.94, 0.99), "inconclusive"),
        ("retention >= 0.95", (0.93, 0.90, 0.95), "inconclusive"),
        ("retention >= 0.95", (0.93, 0.90, 0.949), "fail"),
        ("p95_ms <= 15", (12, 11, 15), "pass"),
        ("p95_ms <= 15", (14, 13, 16), "inconclusive"),
        ("p95_ms <= 15", (17, 15.1, 19), "fail"),
        ("p95_ms <= 15", (14, -math.inf, math.inf), "inconclusive"),
        ("size_mb <= 20", (20, 20, 20), "pass"),
        ("size_mb <= 20", (20.1, 20.1, 20.1), "fail"),
        ("ndcg@10 >= 0.3", (math.nan, math.nan, math.nan), "inconclusive"),
    ],
)
def test_a_bound_is_decided_by_the_whole_interval(bound, interval, verdict):
    asked = budget(bound)
    found = judge(asked, {asked.bounds[0].metric.name: queries(*interval)}, "student int8")
    assert found.verdict == found.lines[0].verdict == verdict
    assert found.exit_code == {"pass": 0, "fail": 1, "inconclusive": 3}[verdict]


@pytest.mark.parametrize("name", sorted(name for name, metric in METRICS.items() if metric.kind == "quality"))
@pytest.mark.parametrize("samples", [1, 2, LEAST_QUERIES - 1, LEAST_QUERIES])
def test_few_queries_decide_nothing(name, samples):
    asked = budget(f"{name} >= 0.5")
    for interval, verdict in (((0.9, 0.8, 0.95), "pass"), ((0.2, 0.1, 0.3), "fail")):
        found = judge(asked, {name: queries(*interval, samples)}, "m")
        enough = samples >= LEAST_QUERIES
        assert found.verdict == (verdict if enough else "inconclusive")
        assert found.exit_code == ({"pass": 0, "fail": 1}[verdict] if enough else 3)
        told = f"at least {LEAST_QUERIES} queries are needed, there were {samples}; more test queries are needed"
        assert found.lines[0].note == ("" if enough else told)
        assert found.lines[0].measured == interval[0]


def test_what_is_no_quality_needs_no_queries():
    asked = budget("p95_ms <= 15", "size_mb <= 20")
    found = judge(asked, {"p95_ms": Estimate(12, 11, 13, 3, "loads"), "size_mb": Estimate.exact(3)}, "m")
    assert found.verdict == "pass"


def test_what_has_no_value_may_still_fail_or_be_undecided():
    asked = budget("lift_kept >= 0.9")
    for verdict, code in (("fail", 1), ("inconclusive", 3), ("unusable", 2)):
        found = judge(asked, {"lift_kept": Missing("the lead", verdict)}, "m")
        assert (found.verdict, found.exit_code, found.lines[0].note) == (verdict, code, "the lead")


def test_what_was_not_measured_is_unusable_and_says_why():
    asked = budget("cpu_ratio <= 1.05", "size_mb <= 20")
    found = judge(asked, {"cpu_ratio": Missing("it needs --baseline BUNDLE"), "size_mb": Estimate.exact(3)}, "m")
    assert (found.verdict, found.exit_code) == ("unusable", 2)
    assert [line.verdict for line in found.lines] == ["unusable", "pass"]
    assert found.lines[0].note == "it needs --baseline BUNDLE"
    assert judge(asked, {}, "m").verdict == "unusable"


def test_the_worst_line_decides():
    assert worst(["pass", "inconclusive", "fail"]) == "fail"
    assert worst(["pass", "unusable", "fail"]) == "unusable"
    assert worst(["pass", "inconclusive"]) == "inconclusive"
    assert worst(["pass"]) == "pass"


def test_an_inconclusive_line_tells_what_it_would_take():
    asked = budget("retention >= 0.95")
    line = judge(asked, {"retention": queries(0.96, 0.94, 0.98, 200)}, "m").lines[0]
    assert line.note == "it would take about 800 queries, there were 200; more test queries are needed"
    close = judge(asked, {"retention": queries(0.9501, 0.93, 0.97)}, "m").lines[0]
    assert "too close to the bound" in close.note
    few = judge(asked, {"retention": queries(0.99, 0.0, math.inf, 40)}, "m").lines[0]
    assert few.note == "40 queries are too few for an interval; more test queries are needed"
    nothing = judge(asked, {"retention": queries(math.nan, math.nan, math.nan)}, "m").lines[0]
    assert nothing.note == "no query has a value"
    assert (nothing.measured, nothing.low, nothing.high) == (None, None, None)


@given(
    st.sampled_from(sorted(METRICS)), st.floats(0.01, 0.99),
    st.lists(st.floats(-2, 2), min_size=3, max_size=3).map(sorted),
)  # fmt: skip
def test_no_interval_both_passes_and_fails_and_verdicts_can_be_written(name, allowed, numbers):
    low, value, high = numbers
    operator = ">=" if METRICS[name].higher else "<="
    asked = budget(f"{name} {operator} {allowed}")
    found = judge(asked, {name: queries(value, low, high)}, "m")
    keeps = [n >= allowed if METRICS[name].higher else n <= allowed for n in numbers]
    if found.verdict == "pass":
        assert all(keeps)
    elif found.verdict == "fail":
        assert not any(keeps)
    else:
        assert min(low, high) <= allowed <= max(low, high)
    json.loads(verdict_.as_json(found, {}))
    ElementTree.fromstring(verdict_.as_junit(found, "t"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("retention", "no bound; write a metric, <= or >=, and a number"),
        ("retention = 0.9", "no bound"),
        ("retention > 0.9", "no bound"),
        ("recall >= 0.9", "no metric recall; there are ndcg@10, mrr@10"),
        ("retention <= 0.9", "of retention higher is better; bound it with >="),
        ("p95_ms >= 15", "of p95_ms lower is better; bound it with <="),
        ("ndcg@10 >= 1.01", "can never hold; ndcg@10 is from 0 to 1"),
        ("p95_ms <= 0", "can never hold"),
        ("p95_ms <= -3", "can never hold"),
        ("ndcg@10 >= 0", "always holds"),
        ("tau >= -1", "always holds"),
        ("retention >= 1.2.3", "is no number"),
    ],
)
def test_a_bound_that_cannot_be_is_refused(text, message):
    with pytest.raises(UserError) as caught:
        parse_bound(text)
    assert message in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "text", ["tau >= 1", "ndcg@10 >= 1", "retention >= 1.02", "quality_difference >= -0.005", "p95_ms<=15"]
)
def test_a_bound_that_can_hold_is_read(text):
    bound = parse_bound(text)
    assert str(bound).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "require: a list of bounds"),
        ({"require": []}, "require: a list of bounds"),
        ({"require": "retention >= 0.9"}, "require: a list of bounds"),
        ({"require": ["retention >= 0.9"], "confidence": 1.5}, "confidence: 1.5; a number between 0.5 and 1"),
        ({"require": ["retention >= 0.9"], "confidence": True}, "confidence: True"),
        ({"require": ["retention >= 0.9"], "time_limit": 0}, "time_limit: 0"),
        ({"require": ["retention >= 0.9"], "tolerance": 1}, "tolerance: no such option"),
        ({"require": [{"retention": 0.9}]}, "no bound"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(content, message):
    with pytest.raises(UserError, match=message):
        Budget.of(content, "here")


def test_every_mistake_of_a_budget_is_told_at_once(tmp_path):
    (tmp_path / "b.yaml").write_text("require: [recall >= 1, p95_ms >= 1]\nconfidence: 7\nfoo: 1\n")
    with pytest.raises(UserError) as caught:
        Budget.read(tmp_path / "b.yaml")
    assert len(str(caught.value).splitlines()) == 4
    (tmp_path / "b.yaml").write_text("require: [")
    with pytest.raises(UserError, match="no YAML"):
        Budget.read(tmp_path / "b.yaml")
    with pytest.raises(UserError, match="No such file"):
        Budget.read(tmp_path / "missing.yaml")


def test_a_verdict_is_written_for_people_and_machines():
    asked = budget("retention >= 0.95", "p95_ms <= 15", "size_mb <= 20", "cpu_ratio <= 1.02")
    estimates = {
        "retention": queries(0.976, 0.955, 0.99), "p95_ms": Estimate(17.25, 16, 18.5, 40, "requests", ""),
        "size_mb": Estimate.exact(15.7), "cpu_ratio": Estimate(1.01, 1.0, 1.03, 64, "blocks", "raise the time_limit"),
    }  # fmt: skip
    found = judge(asked, estimates, "student int8")
    text = verdict_.as_markdown(found, "movies")
    assert text.startswith("### ✗ movies fails the budget\n")
    assert "| ✗ | `p95_ms` | student int8 | 17.2 | [16.0, 18.5] | <= 15 |  |" in text
    assert "| ✓ | `size_mb` | student int8 | 15.7 |  | <= 20 |  |" in text
    root = ElementTree.fromstring(verdict_.as_junit(found, "movies"))
    suite = root.find("testsuite")
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")] == ["4", "1", "1", "0", "0"]
    assert all(case.get("classname") and case.get("time") == "0" for case in suite)
    assert all(each.text == each.get("message") and each.get("type") for each in suite.findall("testcase/*"))
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    assert cases == {
        "retention >= 0.95": [], "p95_ms <= 15": ["failure"], "size_mb <= 20": [], "cpu_ratio <= 1.02": ["error"],
    }  # fmt: skip
    content = json.loads(verdict_.as_json(found, {"budget": "ci.yaml"}))
    assert content["verdict"] == "fail"
    assert content["budget"] == "ci.yaml"
    assert [line["verdict"] for line in content["lines"]] == ["pass", "fail", "pass", "inconclusive"]


@pytest.mark.parametrize(
    ("allow", "verdicts"),
    [
        ((), ("pass", "inconclusive", "fail")),
        (("not_shown",), ("pass", "pass", "fail")),
        (("not_recommended",), ("pass", "pass", "pass")),
    ],
)
def test_a_verdict_passes_if_it_is_recommended_or_the_budget_allows_it(allow, verdicts):
    asked = budget("size_mb <= 20", allow=list(allow))
    for status, expected in zip(("recommended", "not_shown", "not_recommended"), verdicts, strict=True):
        found = Recommendation(status, f"{status}: why", "bm25", 0.09, (0.052, 0.128))
        line = recommendation_line(found, asked, "student int8")
        whole = judge(asked, {"size_mb": Estimate.exact(3)}, "student int8", first=[line])
        assert whole.verdict == whole.lines[0].verdict == expected
        assert f"{status}: why" in whole.lines[0].note
        assert f"{status}: why" in verdict_.as_markdown(whole, "b")
        json.loads(verdict_.as_json(whole, {}))
        ElementTree.fromstring(verdict_.as_junit(whole, "t"))
    told = verdict_.finding(line)
    assert told.startswith("recommendation of student int8: 0.0900 [0.0520, 0.128], allowed recommended")
    nothing = recommendation_line(Recommendation("not_shown", "not shown: none"), asked, "m")
    assert verdict_.finding(nothing).startswith("recommendation of m: –, allowed recommended")


@pytest.mark.parametrize(
    ("allow", "told"),
    [
        (["recommended"], "[recommended]"), (["not shown"], "[not shown]"), ("not_shown", "'not_shown'"),
        (None, "None"), ([3], "[3]"), ({"not_shown": 1}, "{'not_shown': 1}"),
    ],
)  # fmt: skip
def test_a_budget_allows_nothing_else(allow, told):
    with pytest.raises(UserError) as caught:
        budget("retention >= 0.9", allow=allow)
    assert str(caught.value) == f"here: allow: {told}; a list of not_shown and not_recommended, or an empty one"
