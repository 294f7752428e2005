"""Latency and memory are measured in processes of their own; one that fails says why."""

import json

import pytest

from rankdistill.export.errors import UserError
from rankdistill.export.measure import latency
from rankdistill.export.measure.systems import System


def test_a_process_that_cannot_load_its_model_says_why(tmp_path):
    gone = System("teacher", "onnxruntime", "fp32", tmp_path, tmp_path / "gone.onnx", 8, 1)
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"systems": [gone.as_json()], "lists": [[]], "threads": 1}))
    with pytest.raises(UserError, match=r"ended with code 1: .*tokenizer"):
        latency._peak(spec, tmp_path, 0)
