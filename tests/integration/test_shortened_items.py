"""A student that reads two words of an item: trained, measured, handed over and served on them, its teacher on all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rankdistill import Ranker
from rankdistill.data.records import RankingData
from rankdistill.export.bundle import golden
from rankdistill.export.bundle.verification import verify
from rankdistill.export.measure import latency, predictions
from rankdistill.export.measure.bench import golden_requests
from rankdistill.export.runtime.manifest import GOLDEN, SHORTENER
from rankdistill.export.runtime.text.shortener import Shortener
from tests.faults.bundles import edit, seal
from tests.integration.commands import TIMED, begin_with, distill, newest_run, small, table

pytestmark = pytest.mark.integration

INPUT = [*TIMED, "student.input.words=2", "student.input.keep=gradient", "student.input.pairs=40"]


def stages(run):
    return {role: run / folder for role, folder in json.loads((run / "run.json").read_text())["stages"].items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory, beir, encoder, begun):
    folder = begin_with(begun, tmp_path_factory.mktemp("shortened"))
    done = distill(*small(beir, encoder), *INPUT, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, newest_run(folder)


@pytest.fixture(scope="module")
def whole(made, beir, encoder):
    """The same without an input of its own, made beside it."""
    done = distill(*small(beir, encoder), *TIMED, cwd=made[0])
    assert done.returncode == 0, done.stderr
    return newest_run(made[0])


@pytest.fixture(scope="module")
def lists(made):
    data = RankingData.open(stages(made[1])["data"])
    return list(data.lists(data.splits["test"]))


@pytest.fixture(scope="module")
def shortener(made):
    return Shortener.load(made[1] / "bundle" / SHORTENER)


def scores(checkpoint, pairs, max_length=24):
    """The scores of transformers alone, one pair at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    found, tokens = [], []
    for query, item in pairs:
        inputs = tokenizer(query, item, truncation="longest_first", max_length=max_length, return_tensors="pt")
        with torch.no_grad():
            found.append(model(**inputs).logits.item())
        tokens.append(inputs["input_ids"].shape[1])
    return np.array(found), np.array(tokens)


def test_each_model_is_measured_on_what_it_reads(made, lists, shortener):
    run = made[1]
    found, inputs = stages(run), table(run)["inputs"]
    whole = [(query, item) for query, items in lists for item in items]
    short = [(query, shortener.shorten(item)) for query, item in whole]
    assert all(len(item.split()) == 2 and set(item.split()) < set(text.split()) for (_, text), (_, item) in zip(
        whole, short, strict=True))  # fmt: skip
    for model, pairs in (("teacher", whole), ("student", short)):
        expected, tokens = scores(found[model], pairs)
        measured = predictions.read(found[f"predictions {model} onnxruntime fp32"])
        np.testing.assert_allclose(measured, expected, atol=1e-4)
        assert inputs[model]["tokens"] == pytest.approx(tokens.mean())
    assert inputs["teacher"]["items"] == "whole items"
    assert inputs["student"]["items"] == "the 2 words of items that weigh most in the teacher's gradient"
    other, _ = scores(found["student"], whole)
    assert np.abs(predictions.read(found["predictions student onnxruntime fp32"]) - other).max() > 0.01


def test_the_ranker_shortens_whole_items_itself(made, lists, shortener):
    expected = predictions.read(stages(made[1])["predictions student onnxruntime fp32"])
    with Ranker.load(made[1] / "bundle", variant="fp32") as ranker:
        raw = np.concatenate([ranker.score_items(query, items) for query, items in lists])
        pairs = [(query, item) for query, items in lists for item in items]
        short = ranker.score([(query, shortener.shorten(item)) for query, item in pairs])
        np.testing.assert_allclose(raw, expected, atol=1e-4)
        np.testing.assert_array_equal(raw, short)
        np.testing.assert_array_equal(raw, ranker.score(pairs))
        text = lists[0][1][0]  # as a query it is read whole
        once = ranker.score([(text, text)])
        np.testing.assert_allclose(once, scores(made[1] / "bundle", [(text, shortener.shorten(text))])[0], atol=1e-4)


def test_training_pairs_are_the_shortened_ones(made):
    found = stages(made[1])
    read = RankingData.open(found["student input"])
    record = json.loads((found["student"] / "stage.json").read_text())
    assert record["inputs"]["tokens"] == found["student tokens"].name != found["tokens"].name
    assert record["inputs"]["scores"] == found["scores"].name
    scored = json.loads((found["scores"] / "stage.json").read_text())
    assert scored["inputs"]["tokens"] == found["tokens"].name
    assert read.splits["train"].pairs == RankingData.open(found["data"]).splits["train"].pairs
    assert "student data" in json.loads((found["latency"] / "stage.json").read_text())["inputs"]
    assert len(latency.read(found["latency"])) == 5


def test_golden_pairs_are_what_the_model_reads(made, shortener):
    lines = list(golden.read(made[1] / "bundle" / GOLDEN))
    wholes = [line for line in lines if "whole" in line]
    assert all(shortener.shorten(line["whole"]) == line["item"] for line in wholes)
    assert all(shortener.shorten(line["item"]) == line["item"] for line in lines)
    assert len(wholes) > len(lines) / 2
    asked = {item for _, items in golden_requests(made[1] / "bundle", 20) for item in items}
    assert asked & {line["whole"] for line in wholes}


def test_the_same_again_makes_nothing(made, beir, encoder):
    folder, run = made
    done = distill(*small(beir, encoder), *INPUT, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads((newest_run(folder) / "run.json").read_text())["reused"]) == sorted(stages(run))


def test_a_whole_input_has_no_stages_of_its_own_and_the_same_teacher(made, whole):
    run = whole
    whole, short = stages(whole), stages(made[1])
    assert short.keys() - whole.keys() == {"student input", "student tokens"}
    same = {role for role in whole if whole[role].name == short[role].name}
    assert same == {
        "data", "tokens", "dev baselines", "teacher", "scores", "teacher graphs", "teacher parity", "baselines",
        *(role for role in whole if role.startswith("predictions teacher")),
    }  # fmt: skip
    assert "input" not in json.loads((whole["student"] / "stage.json").read_text())["config"]
    assert not (run / "bundle" / SHORTENER).exists()


def test_verify_finds_the_shortener_and_a_changed_one(made, tmp_path):
    bundle = shutil.copytree(made[1] / "bundle", tmp_path / "bundle")
    good = [finding for finding in verify(bundle) if finding.what == SHORTENER]
    assert [finding.ok for finding in good] == [True]
    edit(bundle / SHORTENER, lambda content: content.update(weights=[-w for w in content["weights"]]))
    assert {finding.what for finding in verify(bundle) if not finding.ok} == {SHORTENER}
    seal(bundle)  # as an attacker can
    (found,) = [finding for finding in verify(bundle) if not finding.ok]
    assert (found.what, "gives other texts than" in found.detail) == (SHORTENER, True)


def shorten(bundle, text):
    command = [sys.executable, "-m", "rankdistill.export.commands.main", "shorten", str(bundle)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def test_the_command_prints_a_line_for_each_line(made, whole, shortener):
    lines = ["large red old car", "", "red", "东京 (red) 台灯 boat"]
    done = shorten(made[1] / "bundle", "\n".join(lines) + "\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:-1] == [shortener.shorten(line) for line in lines]
    done = shorten(whole / "bundle", "red car\n")
    assert done.returncode == 2
    assert done.stderr.startswith(f"ranker: {whole / 'bundle'} has no {SHORTENER}")


def test_the_card_and_the_page_tell_what_is_read(made):
    card, page = ((made[1] / name).read_text() for name in ("bundle/README.md", "report.html"))
    assert "ranker shorten BUNDLE" in card
    manifest = json.loads((made[1] / "bundle" / "manifest.json").read_text())
    assert manifest["input"]["shortener"] == SHORTENER in manifest["files"]
    for text in (card, page.replace("&#39;", "'")):
        assert "the 2 words of items that weigh most in the teacher's gradient" in text
