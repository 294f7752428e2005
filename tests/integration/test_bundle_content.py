"""A run's bundle: the same bytes from the same stages, and in it what the run measured."""

from __future__ import annotations

import filecmp
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rankdistill.export.bundle.card import write_card
from rankdistill.export.bundle.manifest_fields import LEFT_OUT
from rankdistill.export.report import evaluation
from rankdistill.export.runtime.manifest import Manifest
from tests.integration.commands import table

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run(bundle) -> Path:
    return bundle.parent


@pytest.fixture(scope="module")
def manifest(bundle) -> dict:
    return json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))


def ranker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rankdistill.export.commands.main", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_same_stages_give_the_same_bytes(run, bundle, tmp_path):
    done = ranker("bundle", str(run), "-o", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    names = sorted(str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file())
    assert names == sorted(
        str(p.relative_to(tmp_path / "again")) for p in (tmp_path / "again").rglob("*") if p.is_file()
    )
    same, different, errors = filecmp.cmpfiles(bundle, tmp_path / "again", names, shallow=False)
    assert (different, errors) == ([], [])
    assert len(same) > 15


def test_the_evaluation_has_every_querys_values_and_their_means_are_the_tables(run, bundle):
    content = evaluation.read(bundle / "evaluation.json.gz")
    rows = table(run)["rows"]
    assert len(content["queries"]) == len(set(content["queries"])) == table(run)["queries"]
    assert set(content["timed_queries"]) <= set(content["queries"])
    for model, row in zip(content["models"], rows, strict=True):
        assert [model[name] for name in ("model", "engine", "precision")] == [
            row[name] for name in ("model", "engine", "precision")
        ]
        for name in ("ndcg@10", "mrr@10", "map", "pair_accuracy", "tau", "rbo", "overlap@10"):
            values = np.array(model["quality"][name], dtype=float)
            assert len(values) == len(content["queries"])
            assert np.nanmean(values) == pytest.approx(row[name], abs=1e-5)
        if row["p50_ms"] is not None:
            assert np.percentile(model["wall_ms"], 50) == pytest.approx(row["p50_ms"])
            assert np.shape(model["cpu_ms"])[1] == len(content["timed_queries"])


def test_the_manifest_tells_what_the_run_measured(run, manifest):
    tradeoff = table(run)
    assert manifest["quality"] == [row for row in tradeoff["rows"] if row["model"] in ("teacher", "student")]
    assert manifest["stages"] == tradeoff["stages"]
    assert manifest["data"]["fingerprint"] == tradeoff["stages"]["data"]
    assert manifest["config"] == {name: value for name, value in tradeoff["config"].items() if name not in LEFT_OUT}
    assert set(LEFT_OUT) <= set(tradeoff["config"])
    assert manifest["max_length"] == 24
    assert manifest["templates"] == {"query": "text", "item": "title text", "pair": "[CLS] query [SEP] item [SEP]"}


def test_what_was_not_measured_is_not_claimed(manifest):
    measured = {variant["name"]: variant["measured"] for variant in manifest["variants"]}
    timed = {name for name, what in measured.items() if "latency" in what}
    assert "fp32" in timed
    assert len(timed) == 2  # fp32, and the int8 graph of this processor
    assert measured["qint8_arm64"] == [] or "qint8_arm64" in timed


def test_fp32_scores_do_not_depend_on_their_batch_and_int8_scores_are_not_said_to(manifest):
    by_name = {variant["name"]: variant for variant in manifest["variants"]}
    assert by_name["fp32"]["batch_invariant"]
    for variant in manifest["variants"]:
        measured = manifest["batching"][variant["name"]]
        if not measured:
            continue
        equal = [value for name, value in measured["difference"].items() if name.startswith("equal")]
        assert variant["batch_invariant"] == (max(equal) == 0)
        assert variant["batch"] == 1 or variant["batch_invariant"]


def test_the_card_names_every_graph_the_measured_row_and_only_files_that_are_there(bundle, manifest):
    card = (bundle / "README.md").read_text(encoding="utf-8")
    for variant in manifest["variants"]:
        assert f"`{variant['file']}`" in card
    student = manifest["quality"][-1]
    assert f"{student['ndcg@10']:.3f}" in card
    for name in re.findall(r"\]\(([^)]+)\)", card):
        assert (bundle / name).is_file()
    assert "<svg" in (bundle / "tradeoff.svg").read_text(encoding="utf-8")
    assert "var(--" not in (bundle / "tradeoff.svg").read_text(encoding="utf-8")


def test_nothing_of_the_makers_machine_is_in_the_bundle(bundle, run):
    for path in bundle.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".md", ".pbtxt", ".svg", ".jsonl"):
            text = path.read_text(encoding="utf-8").replace(str(manifest_paths(bundle)), "")
            assert str(run.parent) not in text, path.name


def manifest_paths(bundle: Path) -> str:
    """The configuration names the data's folder and the teacher's as they were given."""
    return Manifest.read(bundle).content["config"]["data"]["path"]


def test_rank_prints_the_best_first(bundle, tmp_path):
    (tmp_path / "items.txt").write_text("red car\n\nold boat\r\nsmall lamp\n", encoding="utf-8")
    done = ranker("rank", str(bundle), "--query", "red", str(tmp_path / "items.txt"), "--top", "2", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2
    assert rows[0]["score"] >= rows[1]["score"]
    assert all({1: "red car", 3: "old boat", 4: "small lamp"}[row["line"]] == row["item"] for row in rows)
    assert {row["item"] for row in rows} < {"red car", "old boat", "small lamp"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rank", "BUNDLE", "--query", "red", "missing.txt"], "missing.txt: No such file"),
        (["rank", "nowhere", "--query", "red", "ITEMS"], "no bundle"),
        (["rank", "BUNDLE", "--query", "red", "--variant", "int4", "ITEMS"], "has no variant int4"),
        (["bench", "BUNDLE", "--requests", "ITEMS"], "ITEMS:1"),
        (["bundle", "nowhere", "-o", "out"], "nowhere is no run"),
        (["verify", "nowhere"], "no bundle"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_code_2(bundle, tmp_path, arguments, message):
    items = tmp_path / "items.txt"
    items.write_text("red car\n", encoding="utf-8")
    done = ranker(*[{"BUNDLE": str(bundle), "ITEMS": str(items)}.get(each, each) for each in arguments])
    assert done.returncode == 2
    assert message.replace("ITEMS", str(items)) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_bench_times_the_graphs(bundle):
    done = ranker("bench", str(bundle), "--seconds", "0.2", "--least", "5", "--items", "10", "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert [row["variant"] for row in content["variants"]][-1] == "fp32"
    for row in content["variants"]:
        assert row["requests"] >= 5
        assert row["pairs"] == 10 * row["requests"]
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["cpu_ms"] > 0
    assert content["host"]["cores"] >= 1


def test_bench_takes_requests_of_ones_own(bundle, tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text('{"query": "red", "items": ["car", "boat"]}\n\n{"query": "old", "items": ["lamp"]}\n')
    done = ranker(
        "bench", str(bundle), "--requests", str(path), "--seconds", "0.1", "--least", "4", "--variant", "fp32"
    )
    assert done.returncode == 0, done.stderr
    assert "fp32" in done.stdout
    path.write_text('{"query": "red", "items": []}\n')
    assert ranker("bench", str(bundle), "--requests", str(path)).returncode == 2


def test_the_card_shows_whatever_characters_a_name_has(bundle, run, manifest, tmp_path):
    manifest = manifest | {"name": "a\x1bb|<script>", "warnings": ["one\x07\ntwo"]}
    manifest |= {"teacher": manifest["teacher"] | {"model": "x`y", "licence": "l\x00"}}
    manifest |= {"data": manifest["data"] | {"name": "d\udcff<b>"}}
    write_card(manifest, table(run), tmp_path / "README.md", tmp_path / "tradeoff.svg")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", card)
    assert "# a\\\\x1bb\\|\\<script>\n" in card
    assert "``x`y`` on d\\\\udcff\\<b>." in card
    assert "**Warning:** one\\\\x07\\\\ntwo." in card
