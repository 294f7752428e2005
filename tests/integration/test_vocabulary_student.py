"""A student of few tokens from training to graphs: equal scores everywhere, and whole after a kill."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from safetensors.numpy import load_file
from sentence_transformers import CrossEncoder
from transformers import BertForSequenceClassification, BertTokenizer

from rankdistill.data import beir as beir_data
from rankdistill.data import tokens
from rankdistill.data.records import RankingData
from rankdistill.data.scored_pairs import Lessons
from rankdistill.data.tokens import PairTokens, TokenTable
from rankdistill.export.graphs.bert_graph import write_bert_graph
from rankdistill.export.graphs.graph_files import FP32, INT8, INT8_AVX2, count_nodes
from rankdistill.export.quantization.dynamic import quantize_graph
from rankdistill.export.runtime.scorer import PairScorer
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.models import student, teacher
from rankdistill.options import EncoderTeacher, Fit, MarginMse, Student, Train, Vocabulary
from tests.conftest import THINGS, WORDS, write_encoder

pytestmark = pytest.mark.integration

WIDTH = 32
UNKNOWN = 1
UNSEEN = ["granite", "saffron", "harpsichord", *(f"{head}{tail}" for head in ("zan", "mor", "tel") for tail in THINGS)]
FIT = Fit(epochs=3, learning_rate=1e-3, evaluations=3, dev_queries=None, keep="last")
TRAIN = Train(precision="fp32", attention="eager", freeze_embeddings=False)
TABLE = "bert.embeddings.word_embeddings.weight"
TEXTS = st.lists(st.sampled_from([*WORDS, *THINGS, *UNSEEN, "redcar", "x9", "東京"]), max_size=9).map(" ".join)


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def made(beir, tmp_path_factory):
    """A teacher that knows far more words than the data, the data's pairs, and its student with only those it needs."""
    root = tmp_path_factory.mktemp("vocabulary")
    encoder, data, table, tuned, out = (root / name for name in ("encoder", "data", "tokens", "teacher", "student"))
    write_encoder(encoder, [*WORDS, *THINGS, *UNSEEN], hidden_size=WIDTH)
    for folder in (data, table, tuned, out):
        folder.mkdir()
    beir_data.prepare(beir, data, name="things", relevant=1, candidates=12, dev_fraction=0.1, seed=0)
    records, pair = RankingData.open(data), PairEncoder.load(encoder, 24)
    tokens.write(records, pair, table)
    pairs, dev = (PairTokens(records.splits[name], TokenTable.open(table), pair) for name in ("train", "dev"))
    teacher.write_tuned(encoder, pairs, dev, EncoderTeacher(fit=FIT), TRAIN, 0, tuned)
    made = SimpleNamespace(teacher=tuned, pairs=pairs, dev=dev, student=out)
    distil(made, out)
    write_bert_graph(out, out / FP32, cls_only=True, opset=18)
    quantize_graph(out / FP32, out / INT8, per_channel=True, reduce_range=False)
    quantize_graph(out / FP32, out / INT8_AVX2, per_channel=True, reduce_range=True)
    return made


def distil(made, out, vocabulary=Vocabulary(min_count=1), rivals=None):  # noqa: B008 (not changed)
    scores = np.random.default_rng(0).normal(size=len(made.pairs)).astype(np.float32)
    options = Student(layers=2, hidden_size=WIDTH, max_length=24, vocabulary=vocabulary, fit=FIT)
    student.write(
        made.teacher, Lessons(made.pairs, scores, "logit"), made.dev, layers=[0, 1], student=options,
        terms={"margin_mse": MarginMse()}, train=TRAIN, seed=0, rivals=rivals, out=out,
    )  # fmt: skip


def score(graph, tokenizer, lists):
    scorer = PairScorer(graph, PairEncoder.load(tokenizer, 24), 1)
    return np.concatenate([scorer.score(query, items) for query, items in lists])


def lists(words, seed=0):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(words, rng.integers(1, 8))) for _ in range(32)]
    return [(texts[n], texts[n + 1 : n + 8]) for n in range(0, 24, 8)]


def test_dropped_tokens_have_the_row_of_unknown_and_the_others_learned(made):
    before, after = (load_file(folder / "model.safetensors")[TABLE] for folder in (made.teacher, made.student))
    summary = json.loads((made.student / "vocabulary.json").read_text())
    dropped = [number for number, row in enumerate(after) if number != UNKNOWN and (row == after[UNKNOWN]).all()]
    names = BertTokenizer.from_pretrained(made.student).convert_ids_to_tokens(dropped)
    assert set(names) == set(UNSEEN)
    assert after.shape == before.shape == (summary["kept"] + summary["dropped"], WIDTH)
    assert summary["dropped"] == len(UNSEEN)
    assert summary["unknown"]["training queries"] == summary["unknown"]["items"] == 0
    shown = BertTokenizer.from_pretrained(made.student).convert_tokens_to_ids(["red", "car"])
    assert (before[shown] != after[shown]).any(axis=1).all()


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40) | TEXTS)
def test_every_text_keeps_its_tokens_and_each_means_itself_or_unknown(made, text):
    """Whatever loads the tokenizer, a row that the model sees is the token's own or [UNK]'s, never another's."""
    own = BertTokenizer.from_pretrained(made.teacher)(text)["input_ids"]
    assert BertTokenizer.from_pretrained(made.student)(text)["input_ids"] == own
    stored = {each.name: numpy_helper.to_array(each) for each in onnx.load(made.student / FP32).graph.initializer}
    rows, small = stored["word_rows"], stored[TABLE]
    full = load_file(made.student / "model.safetensors")[TABLE]
    names = BertTokenizer.from_pretrained(made.student).convert_ids_to_tokens(own)
    for number, name in zip(own, names, strict=True):
        meant = UNKNOWN if name in UNSEEN else number
        np.testing.assert_array_equal(small[rows[number]], full[meant])
        assert (rows == rows[number]).sum() == (len(UNSEEN) + 1 if meant == UNKNOWN else 1)


def test_the_tokenizers_files_are_untouched(made):
    for name in ("tokenizer.json", "vocab.txt"):
        assert (made.student / name).read_bytes() == (made.teacher / name).read_bytes()


def test_a_dropped_word_scores_as_unknown_does_and_no_other(made):
    given = [("old saffron", ["red zancar"]), ("old ☃", ["red ☂"]), ("old lamp", ["red"])]
    found, same, other = score(made.student / FP32, made.student, given)
    assert found == same
    assert found != other


def test_pytorch_graphs_and_other_tools_have_the_same_scores(made):
    given = lists([*WORDS, *THINGS, *UNSEEN])
    pairs = [(query, item) for query, items in given for item in items]
    model = BertForSequenceClassification.from_pretrained(made.student).eval()
    inputs = BertTokenizer.from_pretrained(made.student)(
        [query for query, _ in pairs], [item for _, item in pairs], truncation="longest_first", max_length=24,
        padding=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        expected = model(**inputs).logits[:, 0].numpy()
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(score(made.student / FP32, made.student, given), expected, atol=1e-5)
    tool = CrossEncoder(str(made.student), max_length=24, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(tool.predict(pairs), expected, atol=1e-5)


def test_texts_of_kept_tokens_score_bitwise_as_with_the_full_table(made, tmp_path):
    model = BertForSequenceClassification.from_pretrained(made.student)
    table = model.bert.embeddings.word_embeddings.weight.data
    dropped = (table == table[UNKNOWN]).all(dim=1)
    dropped[UNKNOWN] = False
    torch.manual_seed(0)
    table[dropped] = torch.randn(int(dropped.sum()), WIDTH)  # the full vocabulary: every token a row of its own
    model.save_pretrained(tmp_path)
    write_bert_graph(tmp_path, tmp_path / "full.onnx", cls_only=True, opset=18)
    assert "word_rows" not in {each.name for each in onnx.load(tmp_path / "full.onnx").graph.initializer}
    small, full = made.student / FP32, tmp_path / "full.onnx"
    known, unknown = lists([*WORDS, *THINGS]), lists(UNSEEN)
    np.testing.assert_array_equal(score(small, made.student, known), score(full, made.student, known))
    assert (score(small, made.student, unknown) != score(full, made.student, unknown)).all()
    saved = 4 * (int(dropped.sum()) * WIDTH - len(table))
    assert full.stat().st_size - small.stat().st_size == pytest.approx(saved, abs=200)


@pytest.mark.parametrize("name", [INT8, INT8_AVX2])
def test_the_small_table_is_quantized_and_the_map_is_not(made, name):
    stored = {each.name: each for each in onnx.load(made.student / name).graph.initializer}
    summary = json.loads((made.student / "vocabulary.json").read_text())
    assert stored["word_rows"].data_type == onnx.TensorProto.INT32
    assert list(stored["word_rows"].dims) == [summary["kept"] + summary["dropped"]]
    tables = [each for key, each in stored.items() if key.startswith(TABLE) and list(each.dims)[1:] == [WIDTH]]
    assert [(each.data_type, each.dims[0]) for each in tables] == [(onnx.TensorProto.INT8, summary["kept"])]
    counts = count_nodes(made.student / name)
    assert (counts.quantized, counts.left_fp32, counts.quantized_embeddings) == (12, 0, 1)
    given = lists([*WORDS, *THINGS, *UNSEEN])
    fp32, int8 = (score(made.student / each, made.student, given) for each in (FP32, name))
    assert np.corrcoef(fp32, int8)[0, 1] > 0.95


@pytest.mark.parametrize("equal", [16, 15])  # 127 tokens of 32 bytes: a map of 508 bytes pays from 16 rows on
def test_equal_rows_are_stored_once_where_that_saves_bytes(encoder, tmp_path, equal):
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(encoder, num_labels=1)
    table = model.bert.embeddings.word_embeddings.weight.data
    assert table.shape == (127, 32)
    table[60 : 60 + equal] = table[UNKNOWN].clone()
    model.save_pretrained(tmp_path)
    write_bert_graph(tmp_path, tmp_path / "g.onnx", cls_only=True, opset=18)
    stored = {each.name: each for each in onnx.load(tmp_path / "g.onnx").graph.initializer}
    assert stored[TABLE].dims[0] == (111 if equal == 16 else 127)
    assert ("word_rows" in stored) == (equal == 16)


def test_a_killed_training_goes_on_to_the_same_student(made, tmp_path):
    def kill(cost, share, value):
        if share > 0.5:
            raise Killed

    with pytest.raises(Killed):
        distil(made, tmp_path, rivals=SimpleNamespace(check=kill))
    kept = list((tmp_path / "checkpoints").glob("checkpoint-*"))
    assert kept
    summary = json.loads((made.student / "vocabulary.json").read_text())
    assert {load_file(each / "model.safetensors")[TABLE].shape for each in kept} == {(summary["kept"], WIDTH)}
    distil(made, tmp_path)
    expected, found = (load_file(folder / "model.safetensors") for folder in (made.student, tmp_path))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
