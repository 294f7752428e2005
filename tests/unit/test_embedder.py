"""An embedder in PyTorch, sentence-transformers and as a graph gives the same vectors, of any text, in any company."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import CancelledError
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.embedder.embedder_model import TextEmbedder, embed, principal_components, text_encoder
from rankdistill.export.errors import UserError
from rankdistill.export.graphs.graph_files import FP32, INT8
from rankdistill.export.graphs.variants import served_int8
from rankdistill.export.runtime.processor import abilities
from rankdistill.export.runtime.vectors import pack, prefix
from tests.conftest import write_encoder
from tests.embedders import load, texts, write_checkpoint, write_graphs

ODD = ["", " ", "\t\n", "红色 台灯", "كتاب أحمر", "🚀🚀", "a" * 5000, "word " * 3000, "\ud800", "a\x00b", "e\u0301"]


@pytest.fixture(scope="module")
def made(encoder, tmp_path_factory):
    """A checkpoint of mean pooling, its graphs and the model."""
    folder = tmp_path_factory.mktemp("embedder")
    model = write_checkpoint(encoder, folder / "checkpoint")
    write_graphs(folder / "checkpoint", folder / "graphs")
    return folder / "checkpoint", folder / "graphs", model


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_the_graph_gives_the_vectors_of_pytorch_and_of_sentence_transformers(encoder, tmp_path, pooling):
    from sentence_transformers import SentenceTransformer

    model = write_checkpoint(encoder, tmp_path / "checkpoint", pooling)
    write_graphs(tmp_path / "checkpoint", tmp_path / "graphs")
    asked = [*texts(40, seed=1), "", "word " * 3000]
    expected = embed(model, text_encoder(encoder, 24), asked, "embed")
    again = embed(TextEmbedder.load(tmp_path / "checkpoint"), text_encoder(encoder, 24), asked, "embed")
    theirs = SentenceTransformer(str(tmp_path / "checkpoint"), device="cpu").encode(asked)
    with load(tmp_path / "checkpoint", tmp_path / "graphs") as ours:
        found = ours.embed(asked, normalize=False)
    assert np.abs(again - expected).max() < 1e-6
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(theirs - expected).max() < 1e-5
    assert np.ptp(expected, axis=0).max() > 0.1  # texts differ


def test_pooling_is_the_formula(encoder):
    model = TextEmbedder.begin(encoder, "mean", None, "eager").eval()
    tokens = text_encoder(encoder, 24)
    ids = tokens.ids(["red car", "a very large lamp"])
    with torch.inference_mode():
        states = [
            model.bert(torch.from_numpy(each.astype(np.int64))[None]).last_hidden_state[0].numpy() for each in ids
        ]
        batch = {name: torch.from_numpy(value) for name, value in tokens.batch(ids).items()}
        found = {}
        for pooling in ("mean", "cls", "pooler"):
            model.pooling = pooling
            found[pooling] = model.pooled(batch).numpy()
    dense = model.bert.pooler.dense
    weight, bias = (each.detach().numpy() for each in (dense.weight, dense.bias))
    for row, state in enumerate(states):
        expected = {"mean": state.mean(axis=0), "cls": state[0], "pooler": np.tanh(weight @ state[0] + bias)}
        for pooling, value in expected.items():
            assert found[pooling][row] == pytest.approx(value / np.linalg.norm(value), abs=1e-5)


def test_principal_components_are_those_of_the_singular_value_decomposition():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(300, 12)) * np.linspace(5, 0.5, 12) + 3).astype(np.float32)
    mean, axes = principal_components(vectors)
    _, _, expected = np.linalg.svd(vectors.astype(float) - vectors.mean(axis=0, dtype=float), full_matrices=False)
    assert mean == pytest.approx(vectors.mean(axis=0), abs=1e-5)
    assert np.abs((axes * expected).sum(axis=1)) == pytest.approx(np.ones(12), abs=1e-4)
    assert axes @ axes.T == pytest.approx(np.eye(12), abs=1e-5)
    from sklearn.decomposition import PCA

    assert np.abs(PCA(4).fit_transform(vectors)) == pytest.approx(np.abs((vectors - mean) @ axes[:4].T), abs=1e-3)


def test_prefixes_hold_most_of_what_the_texts_differ_in(made, encoder):
    checkpoint, graphs, _ = made
    with load(checkpoint, graphs) as ours:
        variance = ours.embed(texts(200), normalize=False).var(axis=0)
    assert (np.diff(variance) <= 1e-6).all()  # of the texts that it was fitted to: falling
    assert variance[:8].sum() > 0.5 * variance.sum()


def test_int8_graph_is_near_and_a_text_has_one_vector_in_any_company(made):
    checkpoint, graphs, _ = made
    asked = [*texts(30, seed=2), *ODD]
    with load(checkpoint, graphs, FP32) as plain, load(checkpoint, graphs, served_int8(abilities()), threads=3) as ours:
        together, exact = ours.embed(asked), plain.embed(asked)
        alone = np.concatenate([ours.embed([text]) for text in asked])
        backwards = ours.embed(asked[::-1])[::-1]
    assert (together == alone).all()
    assert (together == backwards).all()
    assert (together * exact).sum(axis=1).min() > 0.9
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(len(asked)), abs=1e-5)


def test_dimensions_and_types_are_those_of_the_vectors(made):
    checkpoint, graphs, _ = made
    asked = texts(20, seed=3)
    with load(checkpoint, graphs) as ours:
        whole = ours.embed(asked, normalize=False)
        assert (ours.embed(asked, 8, "int8") == pack(prefix(whole, 8), "int8")).all()
        assert (ours.embed(asked, 16, "binary") == np.packbits(whole[:, :16] > 0, axis=1)).all()
        assert ours.embed(asked, 8) == pytest.approx(prefix(whole, 8))
        assert ours.embed([], 8, "binary").shape == (0, 1)
        for dimensions in (0, 33):
            with pytest.raises(UserError, match="allowed is a number from 1 to 32"):
                ours.embed(asked, dimensions)
        with pytest.raises(UserError, match="dtype=float16"):
            ours.embed(asked, dtype="float16")
        with pytest.raises(TypeError, match="int"):
            ours.embed([3])


def test_ten_thousand_random_texts_and_the_odd_ones_have_vectors(made):
    checkpoint, graphs, _ = made
    rng = np.random.default_rng(4)
    points = [rng.integers(1, 0x110000, rng.integers(0, 12)) for _ in range(10_000)]
    asked = ["".join(map(chr, each)) for each in points] + ODD  # halves of surrogate pairs among them
    with load(checkpoint, graphs, INT8, threads=2) as ours:
        found = ours.embed(asked)
    assert found.shape == (len(asked), 32)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(len(asked)), abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(asked=st.lists(st.text(max_size=200), max_size=4))
def test_no_text_is_a_crash(made, asked):
    checkpoint, graphs, _ = made
    with load(checkpoint, graphs) as ours:
        found = ours.embed(asked)
    assert found.shape == (len(asked), 32)
    assert np.isfinite(found).all()


def test_chinese_is_read_character_by_character(tmp_path):
    words = [*"红蓝色台灯椅子大小新旧", "lamp"]
    write_encoder(tmp_path / "encoder", words)
    write_checkpoint(
        tmp_path / "encoder", tmp_path / "checkpoint", seen=["红色台灯", "蓝色椅子", "大台灯", "旧 lamp"] * 10
    )
    write_graphs(tmp_path / "checkpoint", tmp_path / "graphs")
    with load(tmp_path / "checkpoint", tmp_path / "graphs") as ours:
        assert ours.encoder.lengths(["红色台灯", "lamp", "", "法"]) == [6, 3, 2, 3]  # an unknown one is [UNK]
        one, same, other, unknown = ours.embed(["红色台灯", "红 色 台 灯", "蓝色椅子", "法国"])
    assert one @ same == pytest.approx(1, abs=1e-5)
    assert one @ other < 0.999
    assert np.isfinite(unknown).all()


def _in_child(model, asked, queue):
    queue.put(model.embed(asked))


def test_a_forked_process_embeds_too(made):
    checkpoint, graphs, _ = made
    asked = texts(50, seed=5)
    with load(checkpoint, graphs, INT8, threads=3) as ours:
        expected = ours.embed(asked)
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_in_child, args=(ours, asked, queue))
        child.start()
        found = queue.get(timeout=30)
        child.join(10)
    assert (found == expected).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_vectors_that_nobody_wants_any_more_are_not_made(made, monkeypatch, threads):
    checkpoint, graphs, _ = made
    unwanted, runs = threading.Event(), []
    with load(checkpoint, graphs, threads=threads) as embedder:
        asked = texts(40)
        expected = embedder.embed(asked)
        assert (embedder.embed(asked, unwanted=unwanted) == expected).all()

        def run(outputs, feed):
            runs.append(1)
            unwanted.set()
            return [np.zeros((1, embedder.width), dtype=np.float32)]

        monkeypatch.setattr(embedder, "_session", SimpleNamespace(run=run))
        with pytest.raises(CancelledError):
            embedder.embed(asked, unwanted=unwanted)
    assert len(runs) <= threads
