"""`ranker compare` as a process: exit codes, what is printed, what is written."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.run_folders import HOSTILE, write_record, write_run, write_sweep

pytestmark = pytest.mark.integration

EASY = np.linspace(0.2, 0.8, 30)


def compare(*arguments, cwd=None, **environment):
    command = [sys.executable, "-m", "rankdistill.export.commands.main", "compare", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8", **environment}
    return subprocess.run(
        command, capture_output=True, encoding=environment["PYTHONIOENCODING"], timeout=120, cwd=cwd, env=environment
    )


def refused(done, *told):
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ranker: ")
    assert done.stdout == ""
    for text in told:
        assert text in done.stderr


@pytest.mark.parametrize("arguments", [("none",), ("empty", "a"), ("a",), ("a", "a"), ("a", "./a/")])
def test_what_cannot_be_compared_is_told_in_one_line(tmp_path, arguments):
    write_run(tmp_path / "a", EASY)
    (tmp_path / "empty").mkdir()
    refused(compare(*arguments, cwd=tmp_path), arguments[0])


def test_a_broken_record_is_told_in_one_line(tmp_path):
    write_run(tmp_path / "a", EASY)
    write_run(tmp_path / "b", EASY)
    (tmp_path / "b" / "run.json").write_text("{")
    refused(compare("a", "b", cwd=tmp_path), "b/run.json: no JSON")


def test_a_reference_must_be_a_run_with_a_result(tmp_path):
    folder = write_sweep(tmp_path / "s", 3, failed=[1])
    refused(compare(folder, "--reference", folder / "1"), "1 has no result (failed)")
    refused(compare(folder, "--reference", tmp_path), "has no run.json")


def test_a_file_that_cannot_be_written_is_told_in_one_line(tmp_path):
    folder = write_sweep(tmp_path / "s", 2)
    refused(compare(folder, "--csv", tmp_path / "none" / "t.csv"), "t.csv cannot be written")


def test_runs_are_compared_in_the_order_given(tmp_path):
    write_run(tmp_path / "a", EASY, 20.0, overrides=["student.layers=4"], verdict="pass")
    write_run(tmp_path / "b", EASY * 0.8, 5.0, overrides=["student.layers=1"])
    write_record(tmp_path / "c", status="failed", error="RuntimeError: no memory", overrides=["student.layers=9"])
    done = compare("b", "a", "c", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line[2:].split()[:2] for line in lines[2:5]] == [["b", "layers=1"], ["a", "layers=4"], ["c", "layers=9"]]
    assert "failed: RuntimeError: no memory" in lines[4]
    assert any(line.startswith("warning: 2 runs are compared on the test split") for line in lines)
    assert any(line.split()[:2] == ["a", "+0.100"] and "better" in line for line in lines)


def test_the_reference_may_be_another_run(tmp_path):
    folder = write_sweep(tmp_path / "s", 3)
    write_run(tmp_path / "other", EASY)
    inside = compare(folder, "--reference", folder / "2").stdout
    assert "nDCG@10 minus that of 2," in inside
    assert [line[3:].split()[0] for line in inside.splitlines()[2:5]] == ["0", "1", "2"]
    outside = compare(folder, "--reference", tmp_path / "other").stdout
    assert "nDCG@10 minus that of other," in outside
    assert "not comparable: measured on different queries" in outside


def test_every_run_of_many_is_compared_with_the_reference(tmp_path):
    folder = write_sweep(tmp_path / "s", 24)
    done = compare(folder, "--reference", folder / "7")
    told = done.stdout.split("nDCG@10 minus that of 7,")[1].splitlines()[3:]
    assert [line.split()[0] for line in told] == [str(i) for i in range(24) if i != 7]
    assert "not compared" not in done.stdout


def test_a_sweep_of_one_job_is_enough(tmp_path):
    done = compare(write_sweep(tmp_path / "s", 1))
    assert done.returncode == 0
    assert "1 of 1 run has a result" in done.stdout


def test_files_lead_to_the_reports_from_where_they_lie(tmp_path):
    folder = write_sweep(tmp_path / "runs/s", 3, failed=[1])
    (tmp_path / "out").mkdir()
    done = compare("runs/s", "--csv", "out/t.csv", "--html", "page.html", "--json", "runs/s/c.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out/t.csv").open(encoding="utf-8", newline="") as file:
        assert [row["report"] for row in csv.DictReader(file)] == [
            "../runs/s/0/report.html", "", "../runs/s/2/report.html"
        ]  # fmt: skip
    content = json.loads((folder / "c.json").read_text(encoding="utf-8"))
    assert [row["report"] for row in content["rows"]] == ["0/report.html", None, "2/report.html"]
    assert 'href="runs/s/2/report.html"' in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_any_text_can_be_printed(tmp_path, encoding):
    write_run(tmp_path / "中文 🚀", EASY, overrides=[f"a={HOSTILE}"])
    write_record(tmp_path / "b", status="failed", error=f"{HOSTILE}\n\x1b[2J", overrides=["a=1"])
    done = compare("中文 🚀", "b", cwd=tmp_path, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert ("中文 🚀" if encoding == "utf-8" else "\\u4e2d\\u6587") in done.stdout
