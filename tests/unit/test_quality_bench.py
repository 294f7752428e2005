"""scripts/bench/quality.py: folds that test every query once, runs that are kept, and what several say together."""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pytest

from tests.bench_scripts import SCRIPTS, bench_script

QUERIES = 23
HOST = {"cores": 2}


@pytest.fixture(scope="module")
def quality():
    with bench_script("quality") as script:
        yield script


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / name).write_text(f"{name}\n")
    rows = [f"q{query}\ti{item}\t{item}" for query in range(QUERIES) for item in range(3)]
    for name, part in (("train", rows[:30]), ("dev", rows[30:45]), ("test", rows[45:])):
        (folder / "qrels" / f"{name}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *part]) + "\n")
    return folder


def read(folder, part):
    return [line.split("\t") for line in (folder / f"qrels/{part}.tsv").read_text().splitlines()[1:]]


def record(seed=0, *, teacher=0, fingerprint="one"):
    """A run of some queries: a student between BM25 and its teacher."""
    draws, theirs = np.random.default_rng(seed), np.random.default_rng(teacher)
    judged = {
        "bm25": theirs.uniform(0.2, 0.5, QUERIES), "teacher": theirs.uniform(0.5, 1, QUERIES),
        "student": draws.uniform(0.4, 0.9, QUERIES),
    }  # fmt: skip
    cpu = {("teacher", "pytorch", "fp32"): 80.0, ("student", "onnxruntime", "fp32"): 8.0}
    cpu["student", "onnxruntime", "int8"] = 4.0
    models = [
        {"model": model, "engine": engine, "precision": precision, "cpu_ms": [ms * each for each in (1, 2, 3)]}
        for (model, engine, precision), ms in cpu.items()
    ]
    models.append({"model": "bm25", "engine": None, "precision": None})
    for row in models:
        row["quality"] = {"ndcg@10": judged[row["model"]].tolist(), "tau": judged[row["model"]].tolist()}
    sizes = {precision: {"size_mb": 1.0, "params": 10} for precision in ("fp32", "int8")}
    return {
        "arguments": ["a"], "fingerprint": fingerprint, "models": models, "students": sizes, "host": HOST,
        "versions": {"torch": "2"},
    }  # fmt: skip


def test_every_query_is_tested_by_one_fold_that_did_not_learn_of_it(quality, source, tmp_path):
    whole = sorted(row for part in ("train", "dev", "test") for row in read(source, part))
    quality.write_folds(source, tmp_path / "folds", 5)
    tested = []
    for fold in range(5):
        folder = tmp_path / f"folds/fold-{fold}"
        parts = {part: read(folder, part) for part in ("train", "dev", "test")}
        assert sorted(row for rows in parts.values() for row in rows) == whole
        queries = [{row[0] for row in rows} for rows in parts.values()]
        assert sum(map(len, queries)) == len(set.union(*queries)) == QUERIES
        assert (folder / "corpus.jsonl").read_text() == "corpus.jsonl\n"
        tested += [*queries[2]]
    assert sorted(tested) == sorted({row[0] for row in whole})


def test_the_student_on_labels_alone_has_as_many_pairs_and_no_option_of_augment(quality):
    options = argparse.Namespace(pairs=0.5, extra=["augment.bm25=5", "teacher.max_length=48"])
    taught, alone = (
        quality.command(quality.Job("wikiqa", None, "l2_h384", labels), None, options) for labels in (False, True)
    )
    assert set(alone) - set(taught) == {"name=wikiqa-l2_h384-labels", *quality.LABELS}
    assert set(taught) - set(alone) == {"name=wikiqa-l2_h384", "augment.bm25=5"}
    assert "student.fit.max_pairs=120000" in alone


def test_labels_alone_are_that_whatever_is_asked_of_the_others(quality):
    asked = ["loss=margin_mse+kl+labels", "augment=neighbours", "student.fit.keep=last", "student.max_length=48"]
    options = argparse.Namespace(pairs=1.0, extra=asked)
    alone = quality.command(quality.Job("wikiqa", None, "l2_h384", True), None, options)
    told = dict(each.split("=", 1) for each in alone)  # as Hydra takes them, the last one counts
    assert (told["loss"], told["augment"], told["student.fit.keep"]) == ("labels", "none", "best")
    assert told["student.max_length"] == "48"
    assert not set(asked[:3]) & set(alone)


def test_folds_are_timed_on_one_machine(quality, monkeypatch):
    monkeypatch.setattr(quality, "describe_host", lambda: {"processor": "here", "flags": []})
    jobs = [quality.Job("crowdflower", fold, "l2_h384", False) for fold in range(3)]
    there = {job: record() | {"host": {"processor": "there", "flags": ["avx2"]}} for job in jobs[:2]}
    quality.check_hosts(there, [])
    quality.check_hosts(there, [quality.Job("wikiqa", None, "l2_h384", False)])
    with pytest.raises(SystemExit, match=r"crowdflower: its folds would be timed on there \['avx2'\] and on here"):
        quality.check_hosts(there, jobs[2:])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "other"], "--set other: allowed is one of movielens"),
        (["--set", "wikiqa"], "wikiqa-l2_h384 is not kept, and --set wikiqa names no folder"),
        (["--set", "crowdflower={}"], "is no set in BEIR layout: it has no qrels/"),
        (["--set", "movielens", "--students", "l2_h384", "l9_h9"], "l9_h9 is none of l1_h128, l1_h192"),
        (
            ["--set", "movielens", "--students", "l1_h384", "--labels-alone", "l2_h384"],
            "allowed are those of --students",
        ),
    ],
)
def test_what_cannot_be_made_is_told_before_anything_is(quality, tmp_path, monkeypatch, capsys, arguments, told):
    (tmp_path / "empty").mkdir()
    folders = ["--work", "work", "--keep", "keep", "--out", "out.json"]
    arguments = [each.format(tmp_path / "empty") for each in arguments]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["quality.py", *folders, *arguments])
    with pytest.raises(SystemExit) as caught:
        quality.main()
    assert told in str(caught.value.code) + capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_every_student_it_makes_has_a_config(quality):
    assert all((SCRIPTS.parents[1] / f"conf/student/{name}.yaml").is_file() for name in quality.STUDENTS)


@pytest.mark.parametrize(
    ("name", "told", "pairs"),
    [
        ("l2_h384", ["student=l2_h384"], 240_000),
        ("l2_h384-learned-480k", ["student=l2_h384", "student.freeze_embeddings=false"], 480_000),
        ("l2_h384-idf20", ["student=l2_h384", "student.input.words=20", "student.input.keep=idf"], 240_000),
        ("l2_h384-split1", ["student=l2_h384", "student.split_layers=1"], 240_000),
    ],
)
def test_a_students_name_tells_its_options(quality, name, told, pairs):
    options = argparse.Namespace(pairs=1, extra=[])
    arguments = quality.command(quality.Job("wikiqa", None, name, False), None, options)
    assert [each for each in arguments if each.startswith("student")] == [*told, f"student.fit.max_pairs={pairs}"]


def test_a_students_name_with_an_option_that_is_not_is_refused(quality):
    with pytest.raises(SystemExit, match="learned, not wide"):
        quality.student_options("l2_h384-wide", 1.0)


def test_a_record_of_other_arguments_is_not_taken_for_this_runs(quality, tmp_path):
    path = tmp_path / "keep/one.json.gz"
    quality.kept_runs.write(path, record())
    assert quality.kept_runs.read(path, ["a"]) == record()
    assert quality.kept_runs.read(path, ["b"]) is None


@pytest.mark.parametrize(
    ("other", "told"),
    [(record(1, fingerprint="two"), "fingerprint"), (record(1, teacher=1), "the teacher"), (record(1), None)],
)
def test_runs_of_other_data_or_teachers_are_not_judged_together(quality, other, told):
    problem = quality.differing({"l2": record(), "l1": other})
    assert problem is None if told is None else told in problem


def test_a_set_is_summarised_when_all_its_runs_are_there(quality):
    jobs = {
        (labels, name): quality.Job("wikiqa", None, name, labels)
        for labels in (False, True)
        for name in ("l2_h384", "l1_h384")
    }
    found = {jobs[False, "l2_h384"]: record(1), jobs[False, "l1_h384"]: record(2)}
    asked = ("wikiqa", ["l2_h384", "l1_h384"], ["l2_h384"])
    assert quality.summarise(found, *asked) is None
    found[jobs[True, "l2_h384"]] = record(3)
    result = quality.summarise(found, *asked)
    one = {row["model"]: np.array(row["quality"]["ndcg@10"]) for row in record(2)["models"]}
    judged = result["students"]["l1_h384"]["int8"]
    assert judged["retention"] == pytest.approx(one["student"].mean() / one["teacher"].mean())
    lift = (one["student"] - one["bm25"]).mean() / (one["teacher"] - one["bm25"]).mean()
    assert judged["lift_kept"] == pytest.approx(lift)
    assert judged["speedup"] == pytest.approx(20)
    assert judged["above"]["bm25"]["difference"] == pytest.approx((one["student"] - one["bm25"]).mean())
    found[jobs[True, "l2_h384"]] = record(3, fingerprint="two")
    with pytest.raises(SystemExit, match="cannot be judged together"):
        quality.summarise(found, *asked)


def test_students_are_compared_with_their_twins_on_labels_alone(quality):
    students, twins = ["l1_h384", "l3_h384-split2", "l1_h128"], ["l1_h384", "l1_h128"]
    jobs = quality.jobs({"wikiqa": None}, students, twins)
    names = ["wikiqa-l1_h384", "wikiqa-l3_h384-split2", "wikiqa-l1_h128"]
    assert [job.name for job in jobs] == [*names, "wikiqa-l1_h384-labels", "wikiqa-l1_h128-labels"]
    found = {job: record(seed) for seed, job in enumerate(jobs, 1)}
    result = quality.summarise(found, "wikiqa", students, twins)["students"]
    own, alone = (
        {row["model"]: np.array(row["quality"]["ndcg@10"]) for row in record(seed)["models"]} for seed in (3, 5)
    )
    told = result["l1_h128"]["labels_alone"]
    assert told["ndcg@10"] == pytest.approx(alone["student"].mean())
    assert told["distilled_above"]["difference"] == pytest.approx((own["student"] - alone["student"]).mean())
    assert "labels_alone" not in result["l3_h384-split2"]
    lines = quality.points.above_labels(result)
    assert [line.split(":")[0].strip() for line in lines] == twins
    assert f"on labels alone {told['ndcg@10']:.3f}" in lines[1]


def test_a_split_student_is_judged_by_what_it_costs_with_items_states(quality):
    split = record(1)
    split["models"] = [row | {"engine": "states"} if row["model"] == "student" else row for row in split["models"]]
    for row in split["models"]:
        if row["model"] == "student":
            row["cpu_ms"] = [each / 4 for each in row["cpu_ms"]]
    judged = quality.judge([split], "int8")
    assert judged["speedup"] == pytest.approx(80)
    assert judged["retention"] == quality.judge([record(1)], "int8")["retention"]
