"""A bundle that was made with transformers 4.57: it is verified, loaded and served as on the day it was made.

`tests/data/bundle_transformers_4.57.tar.xz` is the bundle of tests/conftest.py, made by the last version that had
transformers 4.57 and optimum-onnx.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from rankdistill import Ranker
from rankdistill.export.bundle.verification import verify
from tests.serving import serving

pytestmark = pytest.mark.integration

ARCHIVE = Path(__file__).parents[1] / "data/bundle_transformers_4.57.tar.xz"


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    assert json.loads((folder / "manifest.json").read_text())["versions"]["transformers"].startswith("4.57")
    return folder


@pytest.fixture(scope="module")
def rows(older):
    return [json.loads(line) for line in (older / "golden.jsonl").read_text(encoding="utf-8").split("\n") if line]


def test_it_is_verified(older):
    assert [line for line in verify(older) if not line.ok and not line.aside] == []


def test_its_graph_gives_its_golden_scores(older, rows):
    with Ranker.load(older, variant="fp32") as ranker:
        scores = ranker.score([(row["query"], row["item"]) for row in rows])
    golden = [row["scores"]["fp32"] for row in rows]
    np.testing.assert_allclose(scores, golden, atol=rows[0]["tolerance"]["fp32"])


def test_its_checkpoint_gives_them_in_todays_transformers(older, rows):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(older)
    model = AutoModelForSequenceClassification.from_pretrained(older)
    inputs = tokenizer(
        [row["query"] for row in rows], [row["item"] for row in rows],
        padding=True, truncation=True, return_tensors="pt",
    )  # fmt: skip
    assert inputs["token_type_ids"].any()
    with torch.no_grad():
        scores = model(**inputs).logits[:, 0].numpy()
    golden = [row["scores"]["fp32"] for row in rows]
    np.testing.assert_allclose(scores, golden, atol=rows[0]["tolerance"]["fp32"])


def test_it_is_served(older, rows):
    best = [row for row in rows if row["query"] == rows[0]["query"]]
    texts = [row["item"] for row in best]
    with serving(older, "--variant", "fp32") as service:
        answer = service.post("/rerank", query=best[0]["query"], texts=texts, raw_scores=True, truncate=True)
    assert answer.status_code == 200, answer.text
    scores = {each["index"]: each["score"] for each in answer.json()}
    golden = [row["scores"]["fp32"] for row in best]
    np.testing.assert_allclose([scores[n] for n in range(len(best))], golden, atol=1e-4)
