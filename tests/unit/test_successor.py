"""The bundle of an updated student: what it has of its parent."""

from __future__ import annotations

import gzip
import json
from types import SimpleNamespace

import numpy as np

from rankdistill.export.bundle.card import first_line, with_verdict
from rankdistill.export.bundle.successor import Measured, _measure, _verdict
from rankdistill.export.report.recommendation import Recommendation
from rankdistill.export.runtime.manifest import EVALUATION
from tests.unit.test_recommendation import CASES, QUERIES, recorded


def test_a_parent_without_an_evaluation_leaves_quality_out(tmp_path):
    row = {"model": "student", "engine": "onnxruntime", "precision": "fp32", "ndcg@10": 0.5}
    content = {"files": {}, "quality": [row]}
    parent = SimpleNamespace(content=content, checked=content["files"].__getitem__)
    scores = np.array([1, 0], dtype=np.float32)
    measured = Measured({"fp32": scores}, scores, np.array([1, 0], dtype=np.int32), np.array([0, 2]), 1)
    assert _measure(parent, measured, tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_an_update_has_the_verdict_of_its_own_weights_and_never_its_parents(tmp_path):
    student = {"model": "student", "engine": "onnxruntime", "precision": "int8", "ndcg@10": 0.9}
    parents = {"status": "recommended", "sentence": "recommended: the weights before"}
    content = {"quality": [student], "confidence": 0.95, "verdict": parents}
    assert _verdict(content, tmp_path).status == "not_shown"  # nothing was measured of the new weights
    for models, status in CASES[:2]:
        text = json.dumps(recorded(QUERIES, **models))
        (tmp_path / EVALUATION).write_bytes(gzip.compress(text.encode()))
        assert _verdict(content, tmp_path).status == status
    assert _verdict(content | {"quality": []}, tmp_path).status == "not_shown"


def test_a_card_has_one_verdict_the_newest():
    old, new = Recommendation("recommended", "recommended: a"), Recommendation("not_shown", "not shown: b")
    written = f"---\nx: y\n---\n\n# name\n\n{first_line(old)}\n\nA cross-encoder.\n\n## More\n"
    plain = "---\nx: y\n---\n\n# name\n\nA cross-encoder.\n\n## More\n"
    for text, was in ((written, old), (plain, None), (plain, old)):
        made = with_verdict(text, was, new)
        assert made == "---\nx: y\n---\n\n# name\n\n**Not shown: b.**\n\nA cross-encoder.\n\n## More\n"
    assert with_verdict("no title", None, new) == "**Not shown: b.**\n\nno title"
