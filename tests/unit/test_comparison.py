import io
import json

import numpy as np
import pytest
from rich.console import Console

from rankdistill.export.compare.comparison_rows import between, compare, moved
from rankdistill.export.compare.comparison_table import finding, print_comparison, print_differences, verdict_of
from rankdistill.export.compare.overrides import shortest_tails, split, varied
from rankdistill.export.compare.sweep_files import summarise
from rankdistill.export.errors import UserError
from rankdistill.export.gate.estimates import RESAMPLES, SEED
from rankdistill.export.measure.quality import difference_interval
from rankdistill.export.report.run_folders import is_sweep, job, jobs_of, read
from tests.run_folders import HOST, HOSTILE, write_record, write_run, write_sweep

EASY = np.linspace(0.2, 0.8, 30)


def compared(*folders, beside=None, reference=None):
    return compare([read(folder) for folder in folders], beside or folders[0].parent, reference)


def printed(comparison, width=100, *, terminal=False):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    print_comparison(comparison, console)
    print_differences(comparison, console)
    return file.getvalue()


# runs


def test_a_finished_run_is_read_whole(tmp_path):
    run = read(write_run(tmp_path / "7", EASY, overrides=["student.layers=2"], verdict="fail"))
    assert (run.name, run.experiment, run.status, run.error) == ("7", "speed", "finished", None)
    assert (run.overrides, run.seconds, run.verdict) == (("student.layers=2",), 12.5, "fail")
    assert run.tradeoff["dataset"] == "MovieLens-100K"


@pytest.mark.parametrize(
    ("fields", "status", "error"),
    [
        ({"status": "failed", "error": "RuntimeError: x"}, "failed", "RuntimeError: x"),
        ({"status": "pruned", "error": "at step 3"}, "pruned", "at step 3"),
        ({"status": "failed"}, "failed", "failed, no reason given"),
        ({"status": "running"}, "killed", "run.json still says running: the run was killed, or is at work"),
        ({}, "damaged", "tradeoff.json: No such file or directory; run it again"),
    ],
)
def test_a_run_without_a_result_says_why(tmp_path, fields, status, error):
    run = read(write_record(tmp_path / "0", **fields))
    assert (run.status, run.error, run.tradeoff) == (status, error, None)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "no JSON"), (b"[]", "no JSON object"), (b"\xff", "no UTF-8"), (b"{}", "format None"),
        (b'{"format": 2, "rows": []}', "format 2, this version reads 1"),
        (b'{"format": 1, "rows": 3}', "no list of models"),
        (b'{"format": 1, "rows": [3]}', "no list of models"),
        (b'{"format": 1, "rows": [], "host": []}', "host is no object"),
        (b'{"format": 1, "rows": [], "queries": "x"}', "queries is no number"), (b"[" * 100_000, "no JSON"),
        (b'{"format": 1, "rows": [], "confidence": 1.5}', "confidence is 1.5, not between 0 and 1"),
        (b'{"format": 1, "rows": [], "confidence": 0}', "confidence is 0, not between 0 and 1"),
        (b'{"format": 1, "rows": [], "confidence": NaN}', "confidence is nan, not between 0 and 1"),
    ],
)  # fmt: skip
def test_a_damaged_result_is_told(tmp_path, content, told):
    folder = write_run(tmp_path / "0", EASY)
    (folder / "tradeoff.json").write_bytes(content)
    run = read(folder)
    assert run.status == "damaged"
    assert run.error.startswith("tradeoff.json: ")
    assert told in run.error
    assert compare([run], tmp_path)["rows"][0]["ndcg@10"] is None


def test_a_damaged_gate_takes_nothing_from_the_run(tmp_path):
    folder = write_run(tmp_path / "0", EASY)
    (folder / "gate.json").write_text("{")
    assert (read(folder).status, read(folder).verdict) == ("finished", "unreadable")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        read(tmp_path / "none")
    with pytest.raises(UserError, match=r"no run\.json; give runs/<experiment>/<time>"):
        read(tmp_path)
    with pytest.raises(UserError, match="status is 'odd'"):
        read(write_record(tmp_path / "odd", status="odd"))
    with pytest.raises(UserError, match="overrides is no list"):
        read(write_record(tmp_path / "list", overrides="x=1"))


def test_jobs_come_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 0):
        write_run(tmp_path / str(number), EASY)
    (tmp_path / "1").mkdir()  # never began
    (tmp_path / "optimization").mkdir()
    (tmp_path / "2" / "run.json").write_text("{")
    runs = jobs_of(tmp_path)
    assert [run.name for run in runs] == ["0", "2", "10"]
    assert (runs[1].status, runs[1].error[:17]) == ("damaged", "run.json: no JSON")
    assert job(tmp_path / "2") == runs[1]


@pytest.mark.parametrize("content", ["{}", '{"runs": null}', '{"runs": "0"}', '{"runs": [0]}'])
def test_a_sweep_that_names_no_runs_is_refused(tmp_path, content):
    write_run(tmp_path / "0", EASY)
    (tmp_path / "runs.json").write_text(content)
    with pytest.raises(UserError, match=r"runs\.json: runs is no list of folders"):
        jobs_of(tmp_path)


def test_a_sweep_is_about_the_runs_that_it_names_wherever_they_lie(tmp_path):
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    found = [write_run(earlier / "0", EASY), write_run(later / "1", EASY), tmp_path / "never began"]
    summarise(later, found)
    assert is_sweep(later)
    assert [run.folder.resolve() for run in jobs_of(later)] == [folder.resolve() for folder in found[:2]]
    tmp_path.rename(tmp_path.with_name("moved"))
    assert len(jobs_of(tmp_path.with_name("moved") / "later")) == 2


def test_what_is_no_sweep_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="is no sweep"):
            jobs_of(folder)


# overrides


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("student.layers=2", ("student.layers", 2)), ("+a.b=1e-4", ("a.b", 1e-4)), ("++a=.5", ("a", 0.5)),
        ("a=true", ("a", True)), ("a=False", ("a", False)), ("student=l2", ("student", "l2")),
        ("~a.b", ("a.b", "removed")),
        ("~a=b", ("a", "removed")), ("a='1'", ("a", "1")), ('a="x=y"', ("a", "x=y")), ("a=[1,2]", ("a", "[1,2]")),
        ("a=", ("a", "")), ("a", ("a", "")), ("a=nan", ("a", "nan")), ("a=" + "9" * 5000, ("a", "9" * 5000)),
        ("a=1_000", ("a", "1_000")), ("a='", ("a", "'")), ("a=-3", ("a", -3)), ("a=中文", ("a", "中文")),
    ],
)  # fmt: skip
def test_an_override_is_a_name_and_a_value(override, expected):
    name, value = split(override)
    assert (name, value, type(value)) == (*expected, type(expected[1]))


def test_what_varies_is_told_with_the_defaults_that_others_override(tmp_path):
    config = {"student": {"layers": 3, "max_length": 80}}
    a = write_run(tmp_path / "a", EASY, overrides=["student.layers=2", "seed=1", "name=x"], config=config)
    b = write_run(tmp_path / "b", EASY, overrides=["seed=1", "name=y"], config=config)
    c = write_record(tmp_path / "c", overrides=["seed=1"], status="failed", error="x")
    comparison = compared(a, b, c)
    assert comparison["varied"] == ["student.layers"]
    assert [row["settings"] for row in comparison["rows"]] == [{"student.layers": v} for v in (2, 3, None)]
    assert comparison["rows"][0]["overrides"] == {"student.layers": 2, "seed": 1, "name": "x"}


def test_true_and_one_vary(tmp_path):
    runs = [read(write_record(tmp_path / v, overrides=[f"a={v}"], status="running")) for v in ("true", "1", "1.0")]
    assert varied(runs) == ["a"]
    assert varied(runs[1:]) == []


def test_names_are_as_short_as_they_can_be():
    assert shortest_tails([["a", "x"], ["b", "y"], ["c", "x"]], "/") == ["a/x", "y", "c/x"]
    assert shortest_tails([["x"], ["a", "x"]], "/") == ["x", "a/x"]


def test_jobs_of_two_sweeps_have_names_of_their_own(tmp_path):
    folders = [write_run(tmp_path / sweep / "0", EASY) for sweep in ("monday", "tuesday")]
    assert [row["job"] for row in compared(*folders)["rows"]] == ["monday/0", "tuesday/0"]


# rows, fronts, caveats


def test_a_row_has_the_headline_of_the_student(tmp_path):
    folder = write_run(tmp_path / "0", EASY, 8.0, 15.5, verdict="pass", overrides=["a=1"])
    row = compared(folder, beside=tmp_path / "elsewhere")["rows"][0]
    assert row["ndcg@10"] == pytest.approx(EASY.mean())  # of int8, the last one, not of fp32
    assert row["ndcg@10_ci"] == pytest.approx([EASY.mean() - 0.02, EASY.mean() + 0.03])
    assert (row["form"], row["cpu_ms_per_query"], row["size_mb"], row["p95_ms"]) == ("onnxruntime int8", 8.0, 15.5, 8.0)
    assert (row["verdict"], row["seconds"], row["teacher_ndcg@10"]) == ("pass", 12.5, 0.5)
    assert row["report"] == "../0/report.html"
    assert (row["mrr@10"], row["mrr@10_ci"]) == (None, None)


def test_fronts_are_what_no_run_dominates(tmp_path):
    kinds = {"good": (0.8, 20, 30), "fast": (0.5, 5, 40), "small": (0.6, 30, 10), "beaten": (0.5, 25, 35)}
    for name, (quality, cpu, size) in kinds.items():
        write_run(tmp_path / name, np.full(9, quality), cpu, size)
    write_record(tmp_path / "failed", status="failed", error="x")
    comparison = compared(*(tmp_path / name for name in (*kinds, "failed")))
    on = {
        front: {row["job"] for row in comparison["rows"] if row["fronts"][front]}
        for front in ("latency", "size", "all")
    }
    assert on == {"latency": {"good", "fast"}, "size": {"good", "small"}, "all": {"good", "fast", "small"}}


@pytest.mark.parametrize(
    "fields", [{"host": HOST | {"processor": "Other"}}, {"latency": {"threads": 4, "queries": 30, "pairs": 1500}}]
)
def test_times_that_do_not_compare_make_no_front(tmp_path, fields):
    write_run(tmp_path / "good", np.full(9, 0.8), 20, 30)
    write_run(tmp_path / "fast", np.full(9, 0.5), 5, 20, **fields)
    for name in ("a", "b"):  # on other data, timed alike
        write_run(tmp_path / name, np.full(9, 0.8), 20, 30, fingerprint="data-2")
    comparison = compared(*(tmp_path / name for name in ("good", "fast", "a", "b")))
    assert not comparison["times_compare"]
    fronts = {row["job"]: {name for name, on in row["fronts"].items() if on} for row in comparison["rows"]}
    assert fronts["good"] == fronts["fast"] == {"size"}
    assert fronts["a"] == fronts["b"] == {"latency", "size", "all"}
    assert any("no front with CPU time" in caveat for caveat in comparison["caveats"])


def test_runs_on_other_data_are_not_held_against_each_other(tmp_path):
    write_run(tmp_path / "a", EASY)
    write_run(tmp_path / "b", EASY - 0.1, fingerprint="data-2")
    comparison = compared(tmp_path / "a", tmp_path / "b")
    assert all(row["fronts"]["all"] for row in comparison["rows"])
    assert comparison["differences"] == [
        {"a": "a", "b": "b", "reason": "measured on different data: data-1 and data-2"}
    ]
    assert any("different sets of queries" in caveat for caveat in comparison["caveats"])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"host": HOST | {"processor": "Other"}},
            "2 different hosts (Some Xeon, 2 cores; Other, 2 cores): times do not",
        ),
        ({"host": HOST | {"flags": ["amx"]}}, "2 different hosts"),
        ({"stages": {"teacher": "teacher-2"}}, "different teachers"),
        ({"latency": {"threads": 4, "queries": 30, "pairs": 1500}}, "different threads"),
        ({"confidence": 0.9}, "the same share"),
        ({"config": {"student": {"layers": 9}}}, "what no override names: student.layers."),
    ],
)
def test_what_limits_a_comparison_is_told(tmp_path, fields, told):
    config = {"config": {"student": {"layers": 2}}} if "config" in fields else {}
    write_run(tmp_path / "a", EASY, **config)
    write_run(tmp_path / "b", EASY, **fields)
    assert any(told in caveat for caveat in compared(tmp_path / "a", tmp_path / "b")["caveats"])


def test_the_best_of_many_on_test_is_told_to_be_optimistic_and_on_dev_it_is_not(tmp_path):
    for name in "ab":
        write_run(tmp_path / name, EASY)
        write_run(tmp_path / "dev" / name, EASY, split="dev")
    on_test = compared(tmp_path / "a", tmp_path / "b")["caveats"]
    assert any("measure.split=dev" in caveat for caveat in on_test)
    assert compared(tmp_path / "dev/a", tmp_path / "dev/b")["caveats"] == []
    assert compared(tmp_path / "a")["caveats"] == []


def test_numbers_that_are_none_are_none(tmp_path):
    write_run(tmp_path / "a", EASY, student={"tau": "x", "p50_ms": float("nan"), "ndcg@10_ci": [0.1], "size_mb": True})
    row = compared(tmp_path / "a")["rows"][0]
    assert [row[field] for field in ("tau", "p50_ms", "ndcg@10_ci", "size_mb")] == [None] * 4
    json.dumps(row, allow_nan=False)


def test_a_run_without_a_student_has_no_result(tmp_path):
    write_run(tmp_path / "a", EASY, rows=[{"model": "teacher", "ndcg@10": 0.5}])
    row = compared(tmp_path / "a")["rows"][0]
    assert (row["ndcg@10"], row["error"]) == (None, "no student was measured")


# differences


def test_differences_are_the_paired_bootstrap_of_the_students_that_the_rows_are_of(tmp_path):
    other = np.clip(EASY + np.random.default_rng(0).normal(0.02, 0.05, len(EASY)), 0, 1)
    write_run(tmp_path / "a", EASY)
    write_run(tmp_path / "b", other)
    found = between(compared(tmp_path / "a", tmp_path / "b"), "b", "a")
    expected = difference_interval(EASY, other, confidence=0.95, resamples=RESAMPLES, seed=SEED)
    assert found["difference"] == pytest.approx((other - EASY).mean())
    assert found["interval"] == pytest.approx([-expected[1], -expected[0]])
    assert found["queries"] == 30


def test_runs_that_rank_alike_differ_by_nothing_in_either_direction(tmp_path):
    comparison = compared(write_run(tmp_path / "a", EASY), write_run(tmp_path / "b", EASY))
    for found in (between(comparison, "a", "b"), between(comparison, "b", "a")):
        assert str([found["difference"], *found["interval"]]) == "[0.0, 0.0, 0.0]"
        assert verdict_of(found) == "the same"


@pytest.mark.parametrize(
    ("evaluation", "reason"),
    [
        ({"split": "dev"}, "measured on different splits: test and dev"),
        ({"queries": [str(i + 1) for i in range(30)]}, "measured on different queries"),
        ({"fingerprint": None}, "b: evaluation.json.gz does not say what data it is of"),
        ({"models": []}, "b: evaluation.json.gz is damaged"),
        ({"models": 3}, "b: evaluation.json.gz is damaged"),
        ({"queries": ["1"]}, "b: evaluation.json.gz is damaged"),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path, evaluation, reason):
    write_run(tmp_path / "a", EASY)
    write_run(tmp_path / "b", EASY, evaluation=evaluation)
    assert compared(tmp_path / "a", tmp_path / "b")["differences"] == [{"a": "a", "b": "b", "reason": reason}]


@pytest.mark.parametrize("content", [None, b"", b"not gzip", b"\x1f\x8b\x08\x00"])
def test_a_lost_evaluation_costs_only_the_differences(tmp_path, content):
    write_run(tmp_path / "a", EASY)
    path = write_run(tmp_path / "b", EASY) / "evaluation.json.gz"
    path.unlink() if content is None else path.write_bytes(content)
    comparison = compared(tmp_path / "a", tmp_path / "b")
    assert comparison["rows"][1]["ndcg@10"] is not None
    assert comparison["differences"][0]["reason"].startswith("b")


def test_a_query_without_a_value_is_left_out(tmp_path):
    quality = [
        {"model": "student", "engine": "onnxruntime", "precision": "int8", "quality": {"ndcg@10": [None, *EASY[1:]]}}
    ]
    write_run(tmp_path / "a", EASY)
    write_run(tmp_path / "b", EASY, evaluation={"models": quality})
    assert compared(tmp_path / "a", tmp_path / "b")["differences"][0]["queries"] == 29


def test_many_runs_are_compared_with_the_best_and_the_reference(tmp_path):
    comparison = compare(jobs_of(write_sweep(tmp_path / "s", 25)), tmp_path)
    assert not comparison["every_two"]
    best, reference = comparison["best"], comparison["reference"]
    assert reference == "0"
    assert best == max(comparison["rows"], key=lambda row: row["ndcg@10"])["job"]
    others = [str(i) for i in range(25)]
    for base in (best, reference):
        assert all(between(comparison, other, base) for other in others if other != base)
    assert len(comparison["differences"]) == 24 + 23


def test_few_runs_are_compared_two_by_two(tmp_path):
    comparison = compare(jobs_of(write_sweep(tmp_path / "s", 5, failed=[1])), tmp_path)
    assert comparison["every_two"]
    assert len(comparison["differences"]) == 6
    assert between(comparison, "0", "1") is None


def test_a_reference_needs_a_result(tmp_path):
    runs = jobs_of(write_sweep(tmp_path / "s", 3, failed=[0]))
    assert compare(runs, tmp_path)["reference"] == "1"
    assert compare(runs, tmp_path, 2)["reference"] == "2"
    with pytest.raises(UserError, match=r"0 has no result \(failed\); take another"):
        compare(runs, tmp_path, 0)


def test_reports_move_with_the_page(tmp_path):
    comparison = compared(write_run(tmp_path / "runs/0", EASY), beside=tmp_path)
    assert comparison["rows"][0]["report"] == "runs/0/report.html"
    assert moved(comparison, tmp_path, tmp_path / "pages")["rows"][0]["report"] == "../runs/0/report.html"


def test_a_comparison_is_json_and_the_same_each_time(tmp_path):
    runs = jobs_of(write_sweep(tmp_path / "s", 6, failed=[2]))
    text = json.dumps(compare(runs, tmp_path), allow_nan=False)
    assert text == json.dumps(compare(runs, tmp_path), allow_nan=False)


# the terminal


def test_a_pipe_gets_one_line_a_run(tmp_path):
    text = printed(compare(jobs_of(write_sweep(tmp_path / "s", 12, failed=[3])), tmp_path), width=80)
    lines = text.splitlines()
    assert [line[3:].split()[0] for line in lines[2:14]] == [str(i) for i in range(12)]
    assert "failed: RuntimeError: job 3 more" in lines[5]
    assert "layers=" in lines[2]
    assert "±0.025" in lines[2]
    assert any(line.startswith("* ") for line in lines[2:14])
    assert "\x1b" not in text


def test_a_terminal_shows_the_front_bold_and_failures_dim(tmp_path):
    comparison = compare(jobs_of(write_sweep(tmp_path / "s", 4, failed=[3])), tmp_path)
    text = printed(comparison, width=200, terminal=True)
    assert any("\x1b[1m*" in line for line in text.splitlines())
    assert any("\x1b[2m" in line and "job 3" in line for line in text.splitlines())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_hides_no_number(tmp_path, width):
    comparison = compare(jobs_of(write_sweep(tmp_path / "s", 4)), tmp_path)
    file = io.StringIO()
    print_comparison(comparison, Console(file=file, width=width, force_terminal=True, color_system=None))
    for row in comparison["rows"]:
        assert f"{row['ndcg@10']:.3f} ±0.025" in file.getvalue()


def test_hostile_names_are_one_plain_line(tmp_path):
    error = f"boom\x1b[31m\n{HOSTILE}\r[bold]"
    write_record(tmp_path / "a", status="failed", error=error, overrides=[f"name_of={HOSTILE}\x07"])
    lines = printed(compared(tmp_path / "a"), width=80).splitlines()
    assert len(lines) == 4
    assert "boom\\x1b[31m" in lines[2]
    assert not any(ord(c) < 32 for line in lines for c in line)


def test_the_finding_names_the_cheapest_that_does_as_well(tmp_path):
    noise = np.random.default_rng(1).normal(0, 0.02, len(EASY))
    write_run(tmp_path / "best", EASY + 0.001, 30.0)
    write_run(tmp_path / "equal", EASY + noise - noise.mean(), 10.0)
    write_run(tmp_path / "worse", EASY - 0.2, 2.0)
    comparison = compared(*(tmp_path / name for name in ("best", "equal", "worse")))
    assert "Best nDCG@10: run best, 0.501 [0.481, 0.531]." in finding(comparison)
    assert "Cheapest not told apart from it: run equal, 0.500 for 10.0 instead of 30.0 CPU-ms." in finding(comparison)
    assert "No run that costs less" in finding(compared(tmp_path / "best", tmp_path / "worse"))


@pytest.mark.parametrize("fields", [{"host": HOST | {"processor": "Other"}}, {"latency": {"threads": 1}}])
def test_the_finding_is_silent_where_times_do_not_compare(tmp_path, fields):
    write_run(tmp_path / "a", EASY, 30.0)
    write_run(tmp_path / "b", EASY, 10.0, **fields)
    assert "Cheapest" not in finding(compared(tmp_path / "a", tmp_path / "b"))


def test_nothing_has_a_result(tmp_path):
    comparison = compare(jobs_of(write_sweep(tmp_path / "s", 2, failed=[0, 1])), tmp_path)
    assert finding(comparison) == "0 of 2 runs have a result (2 failed)."
    assert (comparison["best"], comparison["reference"], comparison["differences"]) == (None, None, [])
    assert compare([], tmp_path)["rows"] == []
