"""What a gate reads of bundles and runs: whatever cannot be used is told in one line."""

from __future__ import annotations

import gzip
import json
from types import SimpleNamespace

import pytest

from rankdistill.export.errors import UserError
from rankdistill.export.gate import measurements
from rankdistill.export.gate.budget import Budget
from rankdistill.export.gate.measurements import teacher_of
from rankdistill.export.report import evaluation
from tests.run_folders import write_record, write_run


def packed(content):
    return gzip.compress(json.dumps(content).encode(), mtime=0)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file or directory"),
        (b"", "damaged"),
        (b"{}", "damaged"),
        (packed({"models": [1] * 999})[:-9], "damaged"),
        (packed({"models": [1] * 999})[:30] + b"x" * 99, "damaged"),
        (gzip.compress(b"{", mtime=0), "damaged"),
        (gzip.compress(b"\xff", mtime=0), "damaged"),
        (packed([1]), "it is no object"),
        (packed({"queries": [], "models": [3]}), "models[0] is no object"),
        (packed({"models": []}), "queries is missing"),
    ],
)
def test_an_evaluation_that_cannot_be_used_is_told(tmp_path, content, told):
    path = tmp_path / "evaluation.json.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"evaluation\.json\.gz") as error:
        evaluation.read(path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_without_a_result_has_no_teacher_to_name(tmp_path):
    run = write_record(tmp_path / "run", status="failed", error="RuntimeError: no\nmemory")
    with pytest.raises(UserError, match=r"run has no tradeoff\.json: it is failed; name a finished run"):
        teacher_of(run)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ("{", r"run\.json: no JSON"),
        ("[]", r"run\.json: no JSON object"),
        ('{"stages": 3}', r"run\.json or tradeoff\.json tells no teacher"),
        ('{"stages": {"teacher": 1}}', "tells no teacher"),
        ("{}", "tells no teacher"),
        ('{"stages": {}}', "the teacher's graph is not there any more"),
    ],
)
def test_a_damaged_run_has_no_teacher_to_name(tmp_path, record, told):
    run = write_run(tmp_path / "run", [0.5], config={"teacher": {"max_length": 24}})
    (run / "run.json").write_text(record)
    with pytest.raises(UserError, match=told):
        teacher_of(run)


def test_a_result_that_names_no_teacher_is_told(tmp_path):
    run = write_run(tmp_path / "run", [0.5])
    with pytest.raises(UserError, match="tells no teacher"):
        teacher_of(run)


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import os; os.kill(os.getpid(), 9)", "the process that measures memory was ended by SIGKILL"),
        ("raise SystemExit(7)", "the process that measures memory ended with code 7"),
        ("import sys; sys.exit('before\\nno such bundle')", "ended with code 1: no such bundle"),
    ],
)
def test_a_process_that_measures_no_memory_is_told_by_how_it_ended(monkeypatch, tmp_path, program, told):
    monkeypatch.setattr(measurements, "MEMORY", program)
    budget = Budget.of({"require": ["peak_rss_mb <= 1"]}, "here")
    found = measurements.measure(measurements.Subject(tmp_path, "fp32"), budget, [], lambda what, share: None)[
        "peak_rss_mb"
    ]
    assert found.reason.endswith(told)


class Bundle:
    """A manifest whose first graph is the one that is served here."""

    def __init__(self, *variants):
        self.variants = [SimpleNamespace(name=name, precision=name, measured=measured) for name, measured in variants]

    def variant(self, name=None):
        return next(each for each in self.variants if name in (None, each.name))


def against(monkeypatch, tmp_path, *baseline):
    """Quality difference of an int8 graph to a baseline with these graphs, whose fp32 is better by .1 than its int8."""
    measured = ["quality"]
    bundles = {"own": Bundle(("int8", measured), ("fp32", measured)), "baseline": Bundle(*baseline)}
    for name in bundles:
        (tmp_path / name).mkdir()
        models = [
            {"model": "student", "engine": "onnxruntime", "precision": precision, "quality": {"ndcg@10": [value] * 9}}
            for precision, value in (("fp32", 0.6), ("int8", 0.5))
        ]
        evaluation.rewrite(tmp_path / name / "evaluation.json.gz", {"queries": list(range(9)), "models": models})
    monkeypatch.setattr(measurements, "Manifest", SimpleNamespace(read=lambda folder: bundles[folder.name]))
    budget = Budget.of({"require": ["quality_difference >= -0.01"]}, "here")
    held = measurements.Subject(tmp_path / "own", "int8", tmp_path / "baseline")
    return measurements.measure(held, budget, [], lambda what, share: None)["quality_difference"]


def test_quality_is_compared_with_the_graph_that_the_baseline_serves(monkeypatch, tmp_path):
    found = against(monkeypatch, tmp_path, ("fp32", ["quality"]), ("int8", ["quality"]))
    assert found.value == pytest.approx(-0.1)


def test_a_baseline_whose_served_graph_was_not_measured_is_told(monkeypatch, tmp_path):
    found = against(monkeypatch, tmp_path, ("int8", []), ("fp32", ["quality"]))
    assert found.reason == "quality was not measured of int8, which the baseline serves here, but of fp32"
