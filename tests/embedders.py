"""A small embedder's checkpoint, graphs and bundle, made without a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rankdistill.embedder.embedder_model import TextEmbedder, embed, text_encoder, turn
from rankdistill.export.graphs.graph_files import FP32
from rankdistill.export.quantization.embedder_graphs import EmbedderInt8, write_embedder_graphs
from rankdistill.export.runtime.embedder import Embedder
from tests.conftest import THINGS, WORDS

MAX_LENGTH = 24
DIMENSIONS = (8, 16)


def texts(count: int, seed: int = 0) -> list[str]:
    """Return short texts of the vocabulary's words, none longer than the model reads."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice([*WORDS, *THINGS], rng.integers(1, 15))) for _ in range(count)]


def write_checkpoint(encoder: Path, folder: Path, pooling: str = "mean", seen: list[str] | None = None) -> TextEmbedder:
    """Write a PCA embedder of an encoder."""
    model = TextEmbedder.begin(encoder, pooling, None, "eager").eval()
    turn(model, embed(model, text_encoder(encoder, MAX_LENGTH), seen or texts(200), "embed"))
    folder.mkdir()
    model.save(folder, encoder, kind="pca", max_length=MAX_LENGTH, dimensions=DIMENSIONS)
    return model


def write_graphs(checkpoint: Path, folder: Path) -> None:
    """Write its graphs, fp32 and int8."""
    folder.mkdir()
    encoder = text_encoder(checkpoint, MAX_LENGTH)
    feeds = [encoder.batch([ids]) for ids in encoder.ids(texts(8, seed=9))]
    write_embedder_graphs(
        checkpoint, folder, opset=18, quantization=EmbedderInt8(True, False, smooth=0.8, outliers=1, feeds=feeds)
    )


def load(checkpoint: Path, graphs: Path, file: str = FP32, threads: int = 1) -> Embedder:
    """Open one of the graphs."""
    about = json.loads((checkpoint / "embedder.json").read_text())
    return Embedder(
        graphs / file, text_encoder(checkpoint, MAX_LENGTH), width=about["width"], dimensions=about["dimensions"],
        key="k", variant=file, threads=threads,
    )  # fmt: skip
