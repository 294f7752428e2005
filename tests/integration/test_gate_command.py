"""`ranker gate` on a small bundle: exit codes, files, what it is compared with."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.faults.bundles import seal

pytestmark = pytest.mark.integration


def ranker(*arguments):
    command = [sys.executable, "-m", "rankdistill.export.commands.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def gate(subject, budget, *arguments):
    return ranker("gate", subject, "--budget", budget, *arguments)


@pytest.fixture
def budget(tmp_path):
    def write(*bounds, **options) -> Path:
        path = tmp_path / "budget.yaml"
        asked = {"require": list(bounds), "time_limit": 20, "allow": ["not_recommended"], **options}
        path.write_text(json.dumps(asked))
        return path

    return write


def verdicts(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["verdict"], {line["metric"]: line["verdict"] for line in content["lines"]}


def test_a_bundle_within_its_budget_passes(bundle, budget, tmp_path):
    bounds = ("size_mb <= 5", "retention >= 0.2", "p50_ms <= 5000", "peak_rss_mb <= 2000", "pairs_per_s >= 1")
    done = gate(bundle, budget(*bounds), "--json", tmp_path / "g.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "pass"
    names = ["recommendation", *(bound.split()[0] for bound in bounds), "batch_invariance"]
    assert verdicts(tmp_path / "g.json") == ("pass", dict.fromkeys(names, "pass"))


def test_a_bundle_over_its_budget_fails_and_every_file_says_so(bundle, budget, tmp_path):
    paths = {name: tmp_path / f"gate.{name}" for name in ("json", "junit", "markdown")}
    paths["markdown"].write_text("# job\n")
    options = [text for name, path in paths.items() for text in (f"--{name}", path)]
    done = gate(bundle, budget("size_mb <= 0.001", "ndcg@10 >= 0.1"), *options)
    assert done.returncode == 1, done.stderr
    assert "size_mb of student" in done.stdout
    lines = {"recommendation": "pass", "size_mb": "fail", "ndcg@10": "pass", "batch_invariance": "pass"}
    assert verdicts(paths["json"]) == ("fail", lines)
    assert ElementTree.parse(paths["junit"]).getroot().get("failures") == "1"
    assert paths["markdown"].read_text().startswith("# job\n### ✗")


def test_a_bundle_whose_verdict_is_not_allowed_does_not_pass(bundle, budget, tmp_path):
    unsure = Path(shutil.copytree(bundle, tmp_path / "unsure"))
    manifest = json.loads((unsure / "manifest.json").read_text(encoding="utf-8"))
    manifest["verdict"] |= {"status": "not_shown", "sentence": "not shown: nobody knows"}
    (unsure / "manifest.json").write_text(json.dumps(manifest))
    seal(unsure)
    done = gate(unsure, budget("size_mb <= 5", allow=[]))
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stdout.splitlines()[0].startswith("inconclusive recommendation of student")
    assert "not shown: nobody knows" in done.stdout
    assert gate(unsure, budget("size_mb <= 5", allow=["not_shown"])).returncode == 0
    doomed = Path(shutil.copytree(bundle, tmp_path / "doomed"))
    manifest = json.loads((doomed / "manifest.json").read_text(encoding="utf-8"))
    manifest["verdict"] |= {"status": "not_recommended", "sentence": "not recommended: the teacher is below bm25"}
    (doomed / "manifest.json").write_text(json.dumps(manifest))
    seal(doomed)
    done = gate(doomed, budget("size_mb <= 5", allow=["not_shown"]))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "not recommended: the teacher is below bm25" in done.stdout
    assert gate(doomed, budget("size_mb <= 5", allow=["not_recommended"])).returncode == 0
    done = ranker("verify", doomed)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "      verdict: not recommended: the teacher is below bm25"
    (tmp_path / "items.txt").write_text("red car\nblue boat\n")
    done = ranker("rank", doomed, "--query", "red", tmp_path / "items.txt")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert "not recommended: the teacher is below bm25" in done.stderr
    path = doomed / "evaluation.json.gz"
    content = json.loads(gzip.decompress(path.read_bytes()))
    for row in content["models"]:
        if row["model"] == "student":
            row["quality"]["ndcg@10"] = [value - 0.5 for value in row["quality"]["ndcg@10"]]
    path.write_bytes(gzip.compress(json.dumps(content).encode(), mtime=0))
    for verdict in (None, {"status": "recommended", "sentence": "recommended: it says so itself"}):
        manifest.pop("verdict", None)
        manifest |= {} if verdict is None else {"verdict": verdict}
        (doomed / "manifest.json").write_text(json.dumps(manifest))
        seal(doomed)
        assert gate(doomed, budget("size_mb <= 5", allow=[])).returncode == 1  # its per-query values decide


def test_a_run_is_gated_by_its_bundle_and_its_teacher(bundle, budget):
    done = gate(bundle.parent, budget("cpu_speedup_vs_teacher_onnx >= 0.01"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_bundle_away_from_its_run_needs_the_teacher_named(bundle, budget, tmp_path):
    alone = Path(shutil.copytree(bundle, tmp_path / "alone"))
    asked = budget("cpu_speedup_vs_teacher_onnx >= 0.01")
    done = gate(alone, asked)
    assert done.returncode == 2
    assert "it needs the run, or --teacher" in done.stdout
    assert gate(alone, asked, "--teacher", bundle.parent).returncode == 0


def test_a_baseline_is_compared_with_in_pairs(bundle, budget, tmp_path):
    asked = budget("quality_difference >= -0.01", "cpu_ratio <= 20")
    assert gate(bundle, asked).returncode == 2  # no baseline
    assert gate(bundle, asked, "--baseline", bundle).returncode == 0
    worse = Path(shutil.copytree(bundle, tmp_path / "worse"))
    path = worse / "evaluation.json.gz"
    content = json.loads(gzip.decompress(path.read_bytes()))
    student = content["models"][4]
    assert student["model"] == "student"
    student["quality"]["ndcg@10"] = [value - 0.4 for value in student["quality"]["ndcg@10"]]
    path.write_bytes(gzip.compress(json.dumps(content).encode(), mtime=0))
    seal(worse)
    done = gate(worse, asked, "--baseline", bundle)
    assert done.returncode == 1, done.stdout
    assert "quality_difference" in done.stdout
    content["fingerprint"] = "data-other"
    path.write_bytes(gzip.compress(json.dumps(content).encode(), mtime=0))
    seal(worse)
    done = gate(worse, budget("quality_difference >= -0.01"), "--baseline", bundle)
    assert done.returncode == 2
    assert "measured on other data" in done.stdout


def test_what_cannot_be_decided_is_inconclusive(bundle, budget):
    from rankdistill.export.report import evaluation

    rows = evaluation.read(bundle / "evaluation.json.gz")["models"]
    values = next(row for row in rows if row["model"] == "student" and row["precision"] == "int8")["quality"]["ndcg@10"]
    done = gate(bundle, budget(f"ndcg@10 >= {sum(values) / len(values):.6f}"))
    assert done.returncode == 3, done.stdout
    assert "more test queries are needed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "BUDGET"), "neither a bundle nor a run"),
        (("BUNDLE", "missing.yaml"), "missing.yaml: No such file"),
        (("BUNDLE", "BUDGET", "--baseline", "nowhere"), "nowhere is neither a bundle nor a run"),
        (("BUNDLE", "BUDGET", "--teacher", "nowhere"), "nowhere is no run"),
        (("BUNDLE", "BUDGET", "--variant", "int4"), "has no variant int4"),
        (
            ("BUNDLE", "BUDGET", "--json", "/nonexistent/g.json"),
            "--json /nonexistent/g.json cannot be written: there is no folder",
        ),
        (("BUNDLE", "BUDGET", "--junit", "/tmp"), "--junit /tmp cannot be written: it is a folder"),
        (("BUNDLE", "BUDGET", "--markdown", "/nonexistent/g.md"), "g.md cannot be written: there is no folder"),
    ],
)
def test_input_that_cannot_be_used_ends_with_2_and_one_line(bundle, budget, arguments, message):
    given = {"BUNDLE": bundle, "BUDGET": budget("size_mb <= 5")}
    done = gate(*[given.get(each, each) for each in arguments])
    assert done.returncode == 2
    told_in_one_line(done, message)
    assert not done.stdout


def told_in_one_line(done, message):
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("as_baseline", [False, True])
@pytest.mark.parametrize("content", [None, b"no gzip", "half"])
def test_a_missing_or_damaged_evaluation_ends_with_2_and_one_line(bundle, budget, tmp_path, content, as_baseline):
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    path = damaged / "evaluation.json.gz"
    half = path.read_bytes()[:-99]
    path.unlink()
    if content is not None:
        path.write_bytes(half if content == "half" else content)
    subject, *more = (bundle, "--baseline", damaged) if as_baseline else (damaged,)
    done = gate(subject, budget("quality_difference >= -0.5"), *more)
    told_in_one_line(done, f"{path}: No such file" if content is None else f"{path} is damaged")


def test_a_missing_graph_ends_with_2_and_one_line(bundle, budget, tmp_path):
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    shutil.rmtree(damaged / "onnx")
    told_in_one_line(gate(damaged, budget("size_mb <= 5")), "No such file or directory; run: ranker verify")


@pytest.mark.parametrize(
    ("record", "message"),
    [('{"status": "failed", "error": "no memory"}', "has no tradeoff.json: it is failed"), ("{", "run.json: no JSON")],
)
def test_a_teacher_of_a_run_without_a_result_ends_with_2_and_one_line(bundle, budget, tmp_path, record, message):
    (tmp_path / "run.json").write_text(record)
    done = gate(bundle, budget("cpu_speedup_vs_teacher_onnx >= 0.01"), "--teacher", tmp_path)
    told_in_one_line(done, message)


def test_every_mistake_of_a_budget_is_told(bundle, budget):
    done = gate(bundle, budget("recall >= 1", "p95_ms >= 3"))
    assert done.returncode == 2
    assert "no metric recall" in done.stderr
    assert "bound it with <=" in done.stderr


def test_a_run_stands_for_its_bundle_as_baseline_too(bundle, budget, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    shutil.copytree(bundle, run / "bundle")
    done = gate(bundle, budget("quality_difference >= -0.5"), "--baseline", run)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("option", ["", "--baseline"])
def test_a_run_that_keeps_no_bundle_and_a_sweep_are_told_as_such(bundle, budget, tmp_path, option):
    run = tmp_path / "sweep" / "0"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    for folder, told in ((run, f"keeps no bundle; ranker bundle {run} -o DIR makes one"), (run.parent, "is a sweep")):
        done = gate(bundle, budget("size_mb <= 5"), option, folder) if option else gate(folder, budget("size_mb <= 5"))
        assert done.returncode == 2
        assert told in done.stderr
        assert "Traceback" not in done.stderr
