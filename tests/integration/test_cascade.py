"""A run with a cascade: its bundle carries the stages, verifies them, and ranks at every level."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from rankdistill.export.bundle.verification import verify
from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.bm25 import Bm25
from rankdistill.export.runtime.cascade import Cascade, Level
from rankdistill.export.runtime.embedder import Embedder
from rankdistill.export.runtime.plan import score
from rankdistill.export.runtime.ranker import Ranker
from rankdistill.export.runtime.shortlist import Cut
from tests.faults.bundles import seal
from tests.integration.commands import TIMED, begin_with, distill, newest_run, small, table
from tests.serving import serving

pytestmark = pytest.mark.integration

LOOSE = [
    *TIMED,
    "cascade.depth=3",
    "cascade.tolerance=0.9",
    "cascade.ladder=[0.8]",
    "cascade.confidence=0.5",
]  # 6 dev queries
ITEMS = [f"{colour} {thing}" for colour in ("red", "blue", "warm", "soft") for thing in ("car", "lamp", "kite")]
QUERY = "red warm small flat lamp"


@pytest.fixture(scope="module")
def place(tmp_path_factory, beir, encoder, begun) -> Path:
    folder = begin_with(begun, tmp_path_factory.mktemp("cascade"))
    done = distill(*small(beir, encoder), "cascade=bm25_student_teacher", *LOOSE, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "bm25+student+teacher" in done.stdout
    return folder


@pytest.fixture(scope="module")
def bundle(place) -> Path:
    return newest_run(place) / "bundle"


def ranker(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rankdistill.export.commands.main", *arguments]
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=120)


def test_the_table_and_the_bundle_tell_of_the_same_levels(place, bundle):
    told = table(newest_run(place))["cascade"]
    assert told == json.loads((bundle / "cascade.json").read_text(encoding="utf-8"))
    assert [level.name for level in Cascade.levels(bundle)] == [level["name"] for level in told["levels"]]
    assert [stage["name"] for stage in told["stages"]] == ["bm25", "student", "teacher"]
    rows = {(row["model"], row["engine"], row["precision"]): row for row in table(newest_run(place))["rows"]}
    by_name = {level["name"]: level for level in told["levels"]}
    for name, row in (("teacher", ("teacher", "onnxruntime", "fp32")), ("student", ("student", "onnxruntime", "int8"))):
        if name not in by_name:  # on so small models the clock may find the student no cheaper
            assert name == "student"
            continue
        assert by_name[name]["ndcg@10"] == pytest.approx(rows[row]["ndcg@10"])
        # of dev lists at what a pair of the timed ones took
        assert by_name[name]["cpu_ms"] == pytest.approx(rows[row]["cpu_ms_per_query"], rel=0.5)


def own_levels(cascade: Cascade) -> Cascade:
    """Return a cascade of the same models whose levels hang on no clock."""
    layered = Level("layered", ("bm25", "student", "teacher"), (Cut(6), Cut(3)), 3.0, 1.0, 1.0)
    alone = [Level(name, (name,), (), cost, 1.0, 1.0) for name, cost in (("student", 2.0), ("bm25", 1.0))]
    return Cascade(cascade.scorers, [Level("teacher", ("teacher",), (), 4.0, 1.0, 1.0), layered, *alone], "teacher")


def test_every_stage_is_verified(bundle):
    findings = list(verify(bundle))
    assert [finding for finding in findings if not finding.ok] == []
    checked = {finding.what for finding in findings}
    assert {"cascade.json", "stages/teacher/onnx/model.onnx", "stages/teacher/tokenizer.json"} <= checked


def test_levels_of_one_stage_give_that_stages_scores(bundle):
    with Cascade.load(bundle, "teacher") as loaded, Ranker.load(bundle) as student:
        cascade = own_levels(loaded)
        alone = dict(cascade.rank(QUERY, ITEMS))
        with Ranker.load(bundle / "stages" / "teacher") as teacher:
            assert alone == dict(teacher.rank(QUERY, ITEMS))
        assert cascade.at("student").rank(QUERY, ITEMS) == student.rank(QUERY, ITEMS)
        counts = Bm25.load(bundle / "stages" / "bm25.json")
        found = [index for index, _ in cascade.at("bm25").rank(QUERY, ITEMS)]
        assert found == np.argsort(-counts.scores(QUERY, ITEMS), kind="stable").tolist()


def test_what_the_last_stage_saw_has_its_logits_and_stands_first(bundle):
    with Cascade.load(bundle, "teacher") as loaded:
        cascade = own_levels(loaded)
        ranked = cascade.at("layered").rank(QUERY, ITEMS)
        teacher = dict(cascade.rank(QUERY, ITEMS))
    scores = [score for _, score in ranked]
    assert sorted(scores, reverse=True) == scores
    seen = [index for index, score in ranked if score == teacher[index]]
    assert seen == [index for index, _ in ranked[: len(seen)]]
    assert 3 <= len(seen) < len(ITEMS)


def test_a_run_again_makes_nothing_anew_and_another_rule_only_the_cut_offs(place, beir, encoder):
    before = {path.name for path in (place / "runs/stages").iterdir()}
    arguments = [*small(beir, encoder), "cascade=bm25_student_teacher", *LOOSE]
    assert distill(*arguments, cwd=place).returncode == 0
    assert {path.name for path in (place / "runs/stages").iterdir()} == before
    assert distill(*arguments, "cascade.rule=margin", cwd=place).returncode == 0
    new = {path.name for path in (place / "runs/stages").iterdir()} - before
    assert [name.split("-")[0] for name in new] == ["cascade"]


def test_another_bundles_student_is_the_first_stage(place, bundle, beir, encoder):
    arguments = [*small(beir, encoder), "cascade=student_teacher", *LOOSE, f"cascade.first={bundle}"]
    done = distill(*arguments, "cascade.last=int8", "name=first", cwd=place)
    assert done.returncode == 0, done.stderr
    made = newest_run(place, "first") / "bundle"
    assert not [finding for finding in verify(made) if not finding.ok]
    with Cascade.load(made) as cascade:
        assert list(cascade.scorers) == ["first", "student", "teacher"]
        own = json.loads((bundle / "manifest.json").read_text())["key"]
        assert cascade.scorers["first"].manifest.content["key"] == own
        assert cascade.scorers["teacher"].variant.precision == "int8"


@pytest.fixture(scope="module")
def embedding_run(place, beir, encoder) -> Path:
    asked = ["cascade=embedding_student_teacher", "embed=pca", "embed.max_length=32", "embed.dimensions=[8]"]
    done = distill(*small(beir, encoder), *asked, *LOOSE, "name=embedding", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "embedding+student+teacher" in done.stdout
    return newest_run(place, "embedding")


def test_the_bundles_embedder_is_the_first_stage(embedding_run):
    bundle = embedding_run / "bundle"
    findings = list(verify(bundle))
    assert [finding for finding in findings if not finding.ok] == []
    assert "stages embedding, student, teacher" in {each.detail for each in findings if each.what == "cascade.json"}
    with Cascade.load(bundle) as loaded, Embedder.load(bundle) as embedder:
        near = loaded.scorers["embedding"]
        vectors = embedder.embed([QUERY, *ITEMS])
        assert near.score_items(QUERY, ITEMS) == pytest.approx(vectors[1:] @ vectors[0], abs=0.02)
        layered = Level("layered", ("embedding", "teacher"), (Cut(4),), 3.0, 1.0, 1.0)
        ranked = Cascade(loaded.scorers, [layered], "layered").rank(QUERY, ITEMS)
        nearest = np.argsort(-near.score_items(QUERY, ITEMS), kind="stable")[:4]
        assert {index for index, _ in ranked[:4]} == {*nearest.tolist()}
        assert len(near.kept) == len(ITEMS)


def test_cut_offs_were_chosen_on_the_scores_that_the_bundle_gives(embedding_run, beir):
    texts = {}
    for name in ("corpus", "queries"):
        rows = map(json.loads, (beir / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
        texts |= {row["_id"]: row["text"] for row in rows}
    pairs = [line.split("\t")[:2] for line in (beir / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    first = json.loads((embedding_run / "run.json").read_text())["stages"]["first stage"]
    with Cascade.load(embedding_run / "bundle") as cascade:
        near = cascade.scorers["embedding"]
        found = [near.score_items(texts[query], [texts[item]])[0] for query, item in pairs]
    assert np.sort(found) == pytest.approx(np.sort(np.load(embedding_run / first / "test.npy")), abs=1e-6)


def test_the_service_ranks_with_an_embedding_stage_and_embeds(embedding_run, tmp_path):
    bundle = embedding_run / "bundle"
    with serving(bundle, folder=tmp_path) as service, Cascade.load(bundle, threads=1) as cascade:
        for _ in range(2):  # the second time out of what is kept
            answer = service.post("/rerank", query=QUERY, texts=ITEMS, raw_scores=True)
            found = {row["index"]: np.float32(row["score"]) for row in answer.json()}
            assert [found[row] for row in range(len(ITEMS))] == score(cascade, QUERY, ITEMS).tolist()
        assert service.post("/embed", inputs=QUERY).status_code == 200


def test_an_embedding_stage_without_the_embedder_is_found(bundle, tmp_path):
    copied = Path(shutil.copytree(bundle, tmp_path / "copy"))
    content = json.loads((copied / "cascade.json").read_text())
    content["stages"][0]["kind"] = "embedder"
    (copied / "cascade.json").write_text(json.dumps(content))
    seal(copied)
    assert ["has no embedder" in finding.detail for finding in verify(copied) if not finding.ok] == [True]
    with pytest.raises(BundleError, match="has no embedder"):
        Cascade.load(copied)


def test_the_command_ranks_at_a_level(bundle):
    done = ranker("rank", str(bundle), "-q", QUERY, "--level", "teacher", "--json", typed="\n".join(ITEMS))
    assert done.returncode == 0, done.stderr
    with Cascade.load(bundle, "teacher") as cascade:
        wanted = [[index + 1, score] for index, score in cascade.rank(QUERY, ITEMS)]
    assert [[row["line"], row["score"]] for row in map(json.loads, done.stdout.splitlines())] == wanted
    for arguments, said in (
        (["--level", "x"], "has no level x; it has teacher"),
        (["--level", "teacher", "--variant", "fp32"], "--variant fp32: allowed is none with --level"),
    ):
        done = ranker("rank", str(bundle), "-q", QUERY, *arguments, typed="a lamp")
        assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (2, True, False)


@pytest.mark.parametrize("name", ["stages/teacher/onnx/model.onnx", "stages/teacher/manifest.json", "cascade.json"])
def test_a_changed_stage_is_never_loaded(bundle, tmp_path, name):
    copied = Path(shutil.copytree(bundle, tmp_path / "copy"))
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content.replace(b"e", b"f", 1))
    with pytest.raises(BundleError, match="is not the file of its manifest"):
        Cascade.load(copied)
    assert any(finding.what == name and not finding.ok for finding in verify(copied))


def test_a_stage_that_two_manifests_tell_differently_of_is_found(bundle, tmp_path):
    copied = Path(shutil.copytree(bundle, tmp_path / "copy"))
    shutil.copyfile(copied / "onnx" / "model.onnx", copied / "stages" / "teacher" / "onnx" / "model.onnx")
    seal(copied)
    wrong = [finding for finding in verify(copied) if not finding.ok]
    assert [finding.what for finding in wrong] == ["stages/teacher/onnx/model.onnx"]
    with pytest.raises(BundleError, match="is not the file of its manifest"):
        Cascade.load(copied)


def test_the_service_names_the_level_that_answered_with_that_levels_scores(bundle, tmp_path):
    for level in (each.name for each in Cascade.levels(bundle)):
        with (
            serving(bundle, folder=tmp_path, level=level) as service,
            Cascade.load(bundle, level, threads=1) as cascade,
        ):
            answer = service.post("/rerank", query=QUERY, texts=ITEMS, raw_scores=True)
            assert answer.headers["x-rank-level"] == level
            found = {row["index"]: np.float32(row["score"]) for row in answer.json()}
            assert [found[row] for row in range(len(ITEMS))] == score(cascade, QUERY, ITEMS).tolist()


def test_a_governed_service_moves_down_under_load_and_never_below_its_floor(bundle, tmp_path):
    """A target that nothing can hold: it goes as far down as its floor lets it."""
    levels = Cascade.levels(bundle)
    floor = sorted(level.retention for level in levels)[len(levels) > 1]
    allowed, best = [], -1.0
    for level in reversed(levels):
        if level.retention > max(best, floor - 1e-12):  # what a cheaper one equals is no choice
            allowed.insert(0, level.name)
            best = level.retention
    governor = {"p99_ms": 0.1, "floor": floor}
    with serving(bundle, folder=tmp_path, governor=governor, cache={"mb": 0}) as service:
        seen = []
        with httpx.Client(base_url=service.url) as client:
            end = time.monotonic() + 20
            while time.monotonic() < end and seen[-1:] != allowed[-1:]:
                answer = client.post("/rerank", json={"query": QUERY, "texts": ITEMS * 5})
                seen.append(answer.headers["x-rank-level"])
            page = client.get("/metrics").text
        assert seen[0] == allowed[0]
        assert seen[-1] == allowed[-1]
        assert set(seen) <= set(allowed)
        assert len(allowed) == 1 or f'ranker_level_seconds_total{{level="{allowed[0]}"}}' in page
