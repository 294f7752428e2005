"""The bundle of an updated student: what it has of its parent."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from export.successor import Measured, _measure


def test_a_parent_without_an_evaluation_leaves_quality_out(tmp_path):
    row = {"model": "student", "engine": "onnxruntime", "precision": "fp32", "ndcg@10": 0.5}
    content = {"files": {}, "quality": [row]}
    parent = SimpleNamespace(content=content, checked=content["files"].__getitem__)
    scores = np.array([1, 0], dtype=np.float32)
    measured = Measured({"fp32": scores}, scores, np.array([1, 0], dtype=np.int32), np.array([0, 2]), 1)
    assert _measure(parent, measured, tmp_path) == []
    assert not list(tmp_path.iterdir())
