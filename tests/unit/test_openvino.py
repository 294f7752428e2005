"""OpenVINO against onnxruntime on the same graph, and what is asked before it is used."""

from __future__ import annotations

import importlib.util
import logging
import re
import subprocess
import sys

import numpy as np
import openvino
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankdistill.errors import ConfigError
from rankdistill.export.errors import ModelError
from rankdistill.export.graphs.bert_graph import write_bert_graph
from rankdistill.export.graphs.graph_files import FP32
from rankdistill.export.measure.host import has_bf16
from rankdistill.export.measure.openvino_scorer import BATCH, BUCKET, OpenvinoScorer, compile_graph
from rankdistill.export.measure.systems import System
from rankdistill.export.runtime.scorer import BatchScorer
from rankdistill.export.runtime.text.tokens import SPECIAL, PairEncoder
from rankdistill.export.torch_models.checkpoint import save_ranker
from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from rankdistill.pipeline import measure_stages
from rankdistill.pipeline.validation import validate
from rankdistill.store.stages import Built
from tests.composing import composed

MAX_LENGTH = 40  # no multiple of BUCKET: the last bucket ends here, where the positions may end too
FIRST_WORD = 5  # ids below are [PAD] to [MASK]
PRECISIONS = ["fp32", pytest.param("bf16", marks=pytest.mark.skipif(not has_bf16(), reason="no bf16 here"))]


@pytest.fixture(scope="module")
def ranker(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("ranker")
    torch.manual_seed(1)
    save_ranker(ClsOnlyBert.from_pretrained(encoder, num_labels=1), str(folder))
    (folder / "tokenizer.json").write_bytes((encoder / "tokenizer.json").read_bytes())
    write_bert_graph(folder, folder / FP32, cls_only=True, opset=18)
    return folder


@pytest.fixture(scope="module")
def scorers(ranker):
    """Return scorers by precision, each of two threads."""
    pair_encoder = PairEncoder.load(ranker, MAX_LENGTH)
    found = {"onnxruntime": BatchScorer(ranker / FP32, pair_encoder, 1)}
    for precision in ("fp32", "bf16") if has_bf16() else ("fp32",):
        found[precision] = OpenvinoScorer(ranker / FP32, pair_encoder, 2, precision)
    yield found
    for scorer in found.values():
        scorer.close()


def ids(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(FIRST_WORD, 60, length).astype(np.int32) for length in lengths]


def test_every_length_scores_as_in_onnxruntime(scorers):
    items = [*range(MAX_LENGTH + 10)] * 2  # tokens: none, one, each edge of a bucket, and what is cut
    for query in (0, 1, 5, MAX_LENGTH + 1):
        queries, texts = ids([query] * len(items)), ids(items, seed=query + 1)
        expected = scorers["onnxruntime"].score_tokens(queries, texts)
        np.testing.assert_allclose(scorers["fp32"].score_tokens(queries, texts), expected, atol=1e-5)
        assert np.ptp(expected) > 0.01  # what is compared is not all one score


@pytest.mark.skipif(not has_bf16(), reason="the processor does not multiply bf16")
def test_bf16_is_another_precision_and_close(scorers):
    queries, texts = ids([4] * 200, seed=1), ids([*range(1, 21)] * 10, seed=2)
    exact, rounded = (scorers[name].score_tokens(queries, texts) for name in ("onnxruntime", "bf16"))
    errors = np.abs(rounded - exact)
    assert errors.max() > 1e-5  # fp32 is nearer: OpenVINO did not quietly compute in it
    assert errors.max() < 0.1 * np.ptp(exact)  # 8 bits of mantissa


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 60)), max_size=14), seed=st.integers(0, 99))
def test_a_score_does_not_depend_on_company(scorers, precision, lengths, seed):
    queries, texts = ids([q for q, _ in lengths], seed), ids([i for _, i in lengths], seed + 1)
    together = scorers[precision].score_tokens(queries, texts)
    alone = [scorers[precision].score_tokens([q], [i])[0] for q, i in zip(queries, texts, strict=True)]
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, np.array(alone, dtype=np.float32), atol=2e-6)


def test_shapes_are_few_and_hold_every_pair_once(scorers):
    texts = ids([*range(MAX_LENGTH + 10)] * 3)
    tasks = scorers["fp32"]._tasks(ids([3] * len(texts)), texts)
    assert {width for width, _ in tasks} == {BUCKET, 2 * BUCKET, MAX_LENGTH}
    assert sorted(row for _, rows in tasks for row in rows) == [*range(len(texts))]
    for width, rows in tasks:
        assert len(rows) <= BATCH
        assert all(width - BUCKET < min(3 + len(texts[row]) + SPECIAL, MAX_LENGTH) <= width for row in rows)


def test_texts_are_scored_by_a_system(ranker, scorers):
    system = System("student", "openvino", "fp32", ranker, ranker / FP32, MAX_LENGTH, 0)
    assert system.name == "student openvino fp32"
    scorer = System.from_json(system.as_json()).open(1)
    items = ["red lamp", "", "large old car of many colours " * 5]
    expected = scorers["onnxruntime"].score("red car", items)
    np.testing.assert_allclose(scorer.score("red car", items), expected, atol=1e-5)
    scorer.close()


def test_no_graph_is_told(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"broken\.onnx cannot be run by OpenVINO"):
        compile_graph(tmp_path / "broken.onnx", 1, "fp32")


def test_it_has_as_many_threads_as_asked_for(ranker):
    compiled = compile_graph(ranker / FP32, 1, "fp32")
    assert compiled.get_property("INFERENCE_NUM_THREADS") == compiled.get_property("NUM_STREAMS") == 1


def test_another_precision_than_asked_for_is_told(ranker, monkeypatch):
    kind = type(compile_graph(ranker / FP32, 1, "fp32"))
    monkeypatch.setattr(kind, "get_property", lambda *_: openvino.Type.bf16)  # its default where the processor has it
    with pytest.raises(ModelError, match=r"OpenVINO computes .* in bf16 on this processor, not in fp32"):
        compile_graph(ranker / FP32, 1, "fp32")


def without(monkeypatch, module):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == module else find(name, *more))


def test_without_the_extra_it_is_refused_at_once(monkeypatch):
    both = "measure.engines=[onnxruntime,openvino]"
    validate(composed(both))
    without(monkeypatch, "openvino")
    validate(composed())  # who does not ask needs nothing
    with pytest.raises(
        ConfigError, match=re.escape("openvino not installed; run: pip install 'rankdistill[openvino]'")
    ):
        validate(composed(both))


@pytest.mark.parametrize("engines", ["[]", "[openvino]", "[onnxruntime,tensorrt]", "[onnxruntime,onnxruntime]"])
def test_the_engine_that_serves_is_always_measured(engines):
    with pytest.raises(ConfigError, match=r"measure\.engines=.*allowed is \[onnxruntime\].*\[onnxruntime, openvino\]"):
        validate(composed(f"measure.engines={engines}"))


def rows_of(ranker, *overrides):
    built = Built(folder=ranker, key="key", seconds=0.0, reused=False)
    return [system for system, _ in measure_stages.systems(composed(*overrides), built, built, built, built)]


def test_rows_end_with_what_is_served(ranker, monkeypatch, caplog):
    monkeypatch.setattr(measure_stages, "has_bf16", lambda: True)
    names = [system.name for system in rows_of(ranker, "measure.engines=[onnxruntime,openvino]")]
    assert names[0] == "teacher pytorch fp32"
    assert names[1:] == [
        f"{model} {form}"
        for model in ("teacher", "student")
        for form in ("openvino fp32", "openvino bf16", "onnxruntime fp32", "onnxruntime int8")
    ]
    assert not caplog.records
    monkeypatch.setattr(measure_stages, "has_bf16", lambda: False)
    with caplog.at_level(logging.WARNING):
        names = [system.name for system in rows_of(ranker, "measure.engines=[onnxruntime,openvino]")]
    assert [name for name in names if "bf16" in name] == []
    assert [record.message for record in caplog.records] == [
        "openvino bf16 is left out: this processor does not multiply bf16 (avx512_bf16, amx_bf16)"
    ]
    caplog.clear()
    assert [system for system in rows_of(ranker) if system.engine == "openvino"] == []
    assert not caplog.records


def test_nothing_loads_it_unasked():
    modules = (
        "rankdistill.pipeline.measure_stages, rankdistill.export.measure.latency, rankdistill.export.runtime.ranker"
    )
    code = f"import sys, {modules}; print('openvino' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
