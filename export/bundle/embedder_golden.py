"""Texts with the vectors that every copy of an embedder must give."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.export.bundle.finding import Finding, refusal
from rankdistill.export.errors import BundleError, ModelError
from rankdistill.export.graphs.graph_files import FP32
from rankdistill.export.graphs.variants import offered
from rankdistill.export.runtime.embedder import About, Embedder, TextEncoder
from rankdistill.export.runtime.manifest import EMBEDDER, Manifest
from rankdistill.export.runtime.manifest import FP32 as PLAIN
from rankdistill.export.runtime.processor import abilities
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.export.runtime.untrusted.bounded_files import read_json
from rankdistill.export.runtime.untrusted.json_schema import broken
from rankdistill.export.runtime.vectors import prefix

FILE = "golden.json"
IN_BUNDLE = f"{Path(EMBEDDER).parent.as_posix()}/{FILE}"
ODD = ("", " ", "🙂 日本語のテキスト", "a\x00b", "word " * 600)  # texts that trouble tokenizers
SCHEMA = {"texts": [str], "vectors": [[float]], "least": {"*": float}}
ROUNDING = 0.9999  # least cosine of two vectors that differ by the order of fp32's additions
SLACK = 0.02  # by which a processor's 8-bit products may lower a cosine further


def write_golden(texts: Sequence[str], encoder: TextEncoder, graphs: Path, width: int) -> None:
    """Write texts with their fp32 vectors, and the least cosine with them that each variant gives.

    Of variants that this processor cannot compute exactly nothing is told.

    Args:
        texts: real ones; odd ones are added.
        encoder: of the tokens.
        graphs: folder of the graphs, to write to.
        width: of a vector.
    """
    asked = [*texts, *ODD]
    vectors = _embed(asked, encoder, graphs / FP32, width)
    least = {each.name: _least(_embed(asked, encoder, graphs / each.graph, width), vectors)
             for each in offered(graphs) if each.is_exact(graphs, abilities())}  # fmt: skip
    content = {"texts": asked, "vectors": np.round(vectors, 7).tolist(), "least": least}
    (graphs / FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")


def check_embedder(manifest: Manifest) -> Iterator[Finding]:
    """Compare the vectors of the plain graph, and of the one for this processor, with the golden ones."""
    try:
        about = About.of(manifest)
        golden = read_json(manifest.checked(IN_BUNDLE))
        if problem := next(broken(golden, SCHEMA, ""), None):
            raise BundleError(f"{manifest.folder / IN_BUNDLE}: {problem}")
        vectors = np.asarray(golden["vectors"], dtype=np.float32)
        if vectors.shape != (len(golden["texts"]), about.content["width"]):
            raise BundleError(f"{manifest.folder / IN_BUNDLE}: vectors of another shape than texts x width")
        encoder = TextEncoder(PairEncoder.load(manifest.folder, about.content["max_length"]))
        chosen = [about.variant(name) for name in dict.fromkeys([about.variant(None).name, PLAIN])]
    except (BundleError, ModelError, KeyError, ValueError) as error:
        yield refusal(manifest.folder, EMBEDDER, error)
        return
    for variant in chosen:
        try:
            found = _embed(golden["texts"], encoder, manifest.folder / variant.file, vectors.shape[1])
        except Exception as error:  # onnxruntime's exceptions share no public class
            yield refusal(manifest.folder, variant.file, error)
            continue
        least = _least(found, vectors)
        if variant.name != PLAIN and variant.name not in golden["least"]:
            told = "no golden cosine: made on a processor that cannot compute it exactly"
            yield Finding(True, variant.file, told)
            continue
        allowed = ROUNDING if variant.name == PLAIN else float(golden["least"][variant.name]) - SLACK
        detail = f"vectors of {len(vectors)} golden texts have cosines from {least:.4f} on, allowed is {allowed:.4f}"
        yield Finding(bool(least >= allowed), variant.file, detail)  # false for NaN


def _embed(texts: Sequence[str], encoder: TextEncoder, graph: Path, width: int) -> Float32:
    with Embedder(graph, encoder, width=width, dimensions=(), key="", variant="", threads=1) as model:
        return np.asarray(model.embed(texts), dtype=np.float32)


def _least(one: Float32, other: Float32) -> float:
    cosines: Any = (one * prefix(other, other.shape[1])).sum(axis=1)
    return float(cosines.min())
