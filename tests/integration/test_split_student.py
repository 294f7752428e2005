"""A split student the whole way: trained, measured with its states, bundled, ranked and served from them, updated."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rankdistill import Ranker
from rankdistill.commands.update import run as update
from rankdistill.export.bundle.golden_replay import check_graph
from rankdistill.export.bundle.verification import verify
from rankdistill.export.errors import UserError
from rankdistill.export.runtime.manifest import Manifest, with_states
from rankdistill.online.versions import Published
from tests.conftest import THINGS, WORDS
from tests.event_rows import append, make_events
from tests.integration.commands import TIMED, begin_with, distill, newest_run, small, table
from tests.serving import serving

pytestmark = pytest.mark.integration

SPLIT = ["student.layers=2", "student.split_layers=1"]
QUERY = "red good car"
LONG = " ".join(WORDS)  # with a query longer than max_length=24


def ranker(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rankdistill.export.commands.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def run(tmp_path_factory, beir, encoder, begun) -> Path:
    folder = begin_with(begun, tmp_path_factory.mktemp("split"))
    done = distill(*small(beir, encoder), *TIMED, *SPLIT, cwd=folder)
    assert done.returncode == 0, done.stderr
    return newest_run(folder)


@pytest.fixture(scope="module")
def halved(run) -> Path:
    """The split student's bundle; `bundle` is that of one that is not split."""
    return run / "bundle"


@pytest.fixture(scope="module")
def items() -> list[str]:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS + THINGS, rng.integers(1, 9))) for _ in range(40)]
    return [*texts, texts[0], LONG, "红色 台灯"]


@pytest.fixture(scope="module")
def states(halved, items, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("states")
    (folder / "items.txt").write_text("\n".join(items) + "\n", encoding="utf-8")
    done = ranker("states", halved, folder / "items.txt", folder / "states")
    assert done.returncode == 0, done.stderr
    assert f"states of {len(set(items))} different items" in done.stdout
    return folder / "states"


def test_the_table_has_rows_with_items_states(run):
    rows = {(row["engine"], row["precision"]): row for row in table(run)["rows"] if row["model"] == "student"}
    assert [*rows] == [("states", "fp32"), ("states", "int8"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")]
    for precision in ("fp32", "int8"):
        stored, whole = rows["states", precision], rows["onnxruntime", precision]
        assert stored["ndcg@10"] == pytest.approx(whole["ndcg@10"], abs=0.05)
        assert stored["cpu_ms_per_query"] > 0


def test_verify_knows_the_halves(halved):
    findings = {each.what: each for each in verify(halved)}
    assert all(each.ok for each in findings.values())
    assert "scores of" in findings["split/upper_fp32.onnx"].detail
    assert check_graph(halved, "split/lower_fp32.onnx").detail.endswith("-> states")


def test_scores_are_the_golden_ones_whatever_is_stored(halved, states, tmp_path):
    rows = [json.loads(line) for line in (halved / "golden.jsonl").read_text(encoding="utf-8").split("\n") if line]
    name = Manifest.read(halved).variant().name
    pairs = [(row["query"], row["item"]) for row in rows]
    (tmp_path / "one.txt").write_text("other\n", encoding="utf-8")
    assert ranker("states", halved, tmp_path / "one.txt", tmp_path / "none").returncode == 0
    (tmp_path / "golden.txt").write_text("\n".join(item.replace("\n", " ") for _, item in pairs), encoding="utf-8")
    assert ranker("states", halved, tmp_path / "golden.txt", tmp_path / "all").returncode == 0
    for folder in (states, tmp_path / "none", tmp_path / "all"):
        with Ranker.load(halved, states=folder) as loaded:
            wanted = np.array([row["scores"][with_states(name)] for row in rows], dtype=np.float32)
            np.testing.assert_array_equal(loaded.score(pairs), wanted)


def test_scores_are_near_those_of_the_whole_graph_and_the_same_in_any_company(halved, states, items):
    with Ranker.load(halved) as whole, Ranker.load(halved, states=states, threads=2) as stored:
        scores = stored.score_items(QUERY, items)
        assert np.abs(scores - whole.score_items(QUERY, items)).max() < 0.2
        assert whole.key != stored.key
        np.testing.assert_array_equal(scores, [stored.score([(QUERY, item)])[0] for item in items])
        np.testing.assert_array_equal(scores[::-1], stored.score_items(QUERY, items[::-1]))
        assert stored.score([]).shape == (0,)


def test_an_item_that_a_query_cuts_is_scored_as_it_is_cut(halved, states):
    query = " ".join(WORDS[::-1])
    with Ranker.load(halved, variant="fp32") as whole:
        wanted = whole.score([(query, LONG)])
    folder = states.with_name("fp32")
    assert ranker("states", halved, states.with_name("items.txt"), folder, "--variant", "fp32").returncode == 0
    with Ranker.load(halved, variant="fp32", states=folder) as stored:
        np.testing.assert_allclose(stored.score([(query, LONG)]), wanted, atol=0.05)


def test_the_commands_rank_and_serve_from_states(halved, states, items):
    done = ranker("rank", halved, "--query", QUERY, states.with_name("items.txt"), "--states", states, "--json")
    assert done.returncode == 0, done.stderr
    with Ranker.load(halved, states=states) as loaded:
        wanted = [item.score for item in loaded.rank(QUERY, items)]
    assert [json.loads(line)["score"] for line in done.stdout.splitlines()] == wanted
    with serving(halved, "--states", str(states)) as service:
        answer = service.post("/rerank", query=QUERY, texts=items, raw_scores=True).json()
    assert [row["score"] for row in answer] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("damage", ["gone", "shorter", "other model", "no folder of states"])
def test_states_that_do_not_fit_are_refused_in_one_line(halved, states, tmp_path, damage):
    folder = tmp_path / "states"
    shutil.copytree(states, folder)
    if damage == "gone":
        (folder / "scales.npy").unlink()
    elif damage == "shorter":
        np.save(folder / "values.npy", np.load(folder / "values.npy")[:-1])
    elif damage == "other model":
        about = json.loads((folder / "states.json").read_text()) | {"lower": "0" * 64}
        (folder / "states.json").write_text(json.dumps(about))
    else:
        (folder / "states.json").unlink()
    done = ranker("rank", halved, "--query", QUERY, states.with_name("items.txt"), "--states", folder)
    assert done.returncode == 2
    assert "ranker states" in done.stderr
    assert "Traceback" not in done.stderr


def test_states_are_written_over_states_alone(halved, states, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    done = ranker("states", halved, states.with_name("items.txt"), tmp_path / "mine")
    assert done.returncode == 2
    assert "holds no items' states" in done.stderr
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"
    before = {path.name: path.read_bytes() for path in states.iterdir()}
    assert ranker("states", halved, states.with_name("items.txt"), states).returncode == 0
    assert {path.name: path.read_bytes() for path in states.iterdir()} == before


def test_a_student_that_is_not_split_has_no_states(bundle, tmp_path):
    (tmp_path / "items.txt").write_text("red car\n")
    done = ranker("states", bundle, tmp_path / "items.txt", tmp_path / "states")
    assert done.returncode == 2
    assert "states are of split students" in done.stderr
    with pytest.raises(UserError, match="states are of split students"):
        Ranker.load(bundle, states=tmp_path)


def test_the_card_says_what_loads_it(halved):
    text = (halved / "README.md").read_text(encoding="utf-8")
    assert "ranker states BUNDLE" in text
    assert "CrossEncoder(" not in text
    assert "library_name: onnx" in text


def test_an_updated_student_is_split_as_it_was(run, tmp_path):
    append(tmp_path / "log", make_events(60))
    asked = [str(run), f"events='{tmp_path / 'log'}'", f"published='{tmp_path / 'published'}'", "update=all"]
    loose = ["update.max_forgetting=0.5", "update.max_int8_drop=0.5", "update.min_agreement=0", "update.resamples=200"]
    assert update([*asked, *loose]) == 0
    updated = Published(tmp_path / "published").current().bundle
    assert all(each.ok for each in verify(updated))
    before, after = (Manifest.read(each) for each in (run / "bundle", updated))
    assert before.content["split"] == after.content["split"]
    for name in ("split/lower_fp32.onnx", "split/upper_fp32.onnx"):
        assert before.file(name) != after.file(name)
