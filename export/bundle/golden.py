"""Golden pairs: texts with the tokens and scores that every copy of a bundle must give."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from rankdistill.export.graphs.graph_files import halves
from rankdistill.export.graphs.variants import Offered, is_split
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.manifest import GOLDEN, with_states
from rankdistill.export.runtime.scorer import Float32, PairScorer
from rankdistill.export.runtime.split_scorer import SplitScorer
from rankdistill.export.runtime.text.tokens import SPECIAL, PairEncoder

REAL = 8  # pairs of each real kind
ODD = {
    "Chinese": [("红色 台灯", "LED 护眼台灯，暖光，可调亮度"), ("适合孩子的科幻电影", "一部关于太空的老电影 (1977)")],
    "emoji": [("🚀 space film ❤️", "Star 🌟 Wars 👨‍👩‍👧‍👦 (1977)"), ("🙂", "🙃🙃🙃")],
    "odd": [
        ("naïve café №5", "ﬁne ｆｕｌｌｗｉｄｔｈ Ⅷ x\u0301\u0323"),
        ("tab\tnew\nline\u200b", "\u202eright\u202c \x07 bell"),
    ],
}
TOLERANCE = 1e-4  # rounding in fp32: forms of one model were seen to differ by up to 6e-6
# An int8 activation near a rounding border falls to either side on another processor, and moves the score with it. How
# far: the most that a score moves when the graph's fp32 vectors are off by ROUNDING, in DRAWS draws, times MARGIN.
ROUNDING, DRAWS, MARGIN = 1e-6, 3, 2.0


@dataclass(frozen=True)
class Pair:
    """A golden pair: what it is an example of, and its texts."""

    kind: str
    query: str
    item: str


def choose_pairs(
    lists: Sequence[tuple[str, Sequence[str]]], shorten: Callable[[str], str], encoder: PairEncoder, seed: int
) -> list[Pair]:
    """Choose pairs: short, long, truncated and random ones of the lists, empty and odd ones beside them.

    Args:
        lists: each query's text and its candidates' texts.
        shorten: gives what the model reads of an item; the pairs' items are whole.
        encoder: of the model; its max_length decides what is truncated.
        seed: of the random ones.
    """
    pairs = [(query, item) for query, items in lists for item in items]
    lengths = np.array([len(i) for i in encoder.ids([shorten(item) for _, item in pairs])])
    queries = list(dict.fromkeys(query for query, _ in pairs))
    tokens = dict(zip(queries, (len(ids) for ids in encoder.ids(queries)), strict=True))
    lengths += np.array([tokens[query] for query, _ in pairs]) + SPECIAL
    order = np.argsort(lengths, kind="stable")
    whole = order[lengths[order] <= encoder.max_length]
    cut = order[lengths[order] > encoder.max_length]
    drawn = np.random.default_rng(seed).choice(len(pairs), size=min(REAL, len(pairs)), replace=False)
    chosen = {
        "short": whole[:REAL],
        "long": whole[::-1][:REAL],
        "truncated": cut[::-1][:REAL],
        "random": np.sort(drawn),
    }
    found = [Pair(kind, *pairs[int(row)]) for kind, rows in chosen.items() for row in rows]
    query, item = pairs[int(order[-1])]
    repeated = " ".join([item] * (encoder.max_length // max(len(item.split()), 1) + 2))
    if not len(cut) and shorten(repeated) == repeated:  # of real items none is too long, nor shortened
        found.append(Pair("truncated", query, repeated))
    query = found[0].query
    found.append(Pair("truncated", " ".join([query] * encoder.max_length), found[0].item))
    found += [Pair("empty", "", ""), Pair("empty", query, ""), Pair("empty", "", item), Pair("empty", " ", "\n")]
    return found + [Pair(kind, *texts) for kind, both in ODD.items() for texts in both]


def write(
    lists: Sequence[tuple[str, Sequence[str]]],
    shorten: Callable[[str], str],
    checkpoint: Path,
    graphs: Path,
    variants: Sequence[Offered],
    *,
    max_length: int,
    seed: int,
    out: Path,
) -> None:
    """Write golden.jsonl, and the variants' tolerances into tolerance.json.

    Args:
        lists: each query's text and its candidates' texts, real ones.
        shorten: gives what the model reads of an item; a line's `item` is that, beside `whole` if it is another text.
        checkpoint: folder with the tokenizer.
        graphs: folder with the variants' graphs.
        variants: those that this processor computes exactly; only their scores are written.
        max_length: of the model.
        seed: of the choice.
        out: folder to write to.
    """
    encoder = PairEncoder.load(checkpoint, max_length)
    pairs = choose_pairs(lists, shorten, encoder, seed)
    wholes = [pair.item for pair in pairs]
    pairs = [replace(pair, item=shorten(pair.item)) for pair in pairs]
    _write(pairs, wholes, encoder, graphs, variants, out)


def write_again(
    older: Path, checkpoint: Path, graphs: Path, variants: Sequence[Offered], max_length: int, out: Path
) -> None:
    """Write golden.jsonl with the texts of another model's, which had the same tokenizer and shortener.

    Args:
        older: golden.jsonl of the other model.
        checkpoint: folder with the tokenizer.
        graphs: folder with the variants' graphs.
        variants: those that this processor computes exactly; only their scores are written.
        max_length: of the model.
        out: folder to write to.
    """
    rows = list(read(older))
    pairs = [Pair(row["kind"], row["query"], row["item"]) for row in rows]
    wholes = [row.get("whole", row["item"]) for row in rows]
    _write(pairs, wholes, PairEncoder.load(checkpoint, max_length), graphs, variants, out)


def _write(
    pairs: Sequence[Pair],
    wholes: Sequence[str],
    encoder: PairEncoder,
    graphs: Path,
    variants: Sequence[Offered],
    out: Path,
) -> None:
    scores: dict[str, Float32] = {}
    tolerance: dict[str, float] = {}
    with Progress("golden scores", len(variants), "variants") as bar:
        for variant in variants:
            scores[variant.name] = _score(PairScorer(graphs / variant.graph, encoder, threads=1), pairs)
            tolerance[variant.name] = _tolerance(graphs / variant.graph, encoder, pairs, scores[variant.name], variant)
            if is_split(graphs):
                name, both = with_states(variant.name), [graphs / half for half in halves(variant.graph)]
                scores[name] = _score(_joined(both, encoder), pairs)
                tolerance[name] = _tolerance_of_halves(both, encoder, pairs, scores[name])
            bar.update(1)
    lines = []
    for row, (pair, whole) in enumerate(zip(pairs, wholes, strict=True)):
        ids, types = encoder.join(*encoder.ids([pair.query, pair.item]))
        line = {
            "kind": pair.kind,
            "query": pair.query,
            "item": pair.item,
            **({"whole": whole} if whole != pair.item else {}),
            "input_ids": ids.tolist(),
            "token_type_ids": types.tolist(),
            "scores": {name: float(values[row]) for name, values in scores.items()},
            "tolerance": tolerance,
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    (out / GOLDEN).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def read(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of a golden.jsonl."""
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line:
            yield json.loads(line)


def _joined(both: Sequence[Path], encoder: PairEncoder) -> SplitScorer:
    lower, upper = both
    return SplitScorer((lower, upper), encoder, 1, None, 0)


def _score(scorer: PairScorer, pairs: Sequence[Pair]) -> Float32:
    encoder = scorer.encoder
    scores = scorer.score_tokens(encoder.ids([p.query for p in pairs]), encoder.ids([p.item for p in pairs]))
    scorer.close()
    return scores


def _tolerance(graph: Path, encoder: PairEncoder, pairs: Sequence[Pair], scores: Float32, variant: Offered) -> float:
    """Return how far a score may be from the golden one on another processor."""
    if variant.precision == "fp32":
        return TOLERANCE
    queries, items = encoder.ids([p.query for p in pairs]), encoder.ids([p.item for p in pairs])
    furthest = 0.0
    for seed in range(DRAWS):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(_shaken(graph, seed), options, providers=["CPUExecutionProvider"])
        for query, item, score in zip(queries, items, scores, strict=True):
            other = float(session.run(None, encoder.equal([query], [item]))[0][0, 0])
            furthest = max(furthest, abs(other - float(score)))
    return float(np.round(max(TOLERANCE, MARGIN * furthest), 4))


def _tolerance_of_halves(both: Sequence[Path], encoder: PairEncoder, pairs: Sequence[Pair], scores: Float32) -> float:
    """Return the same of two halves; in fp32 too, because the items' states between them are rounded."""
    furthest = 0.0
    for seed in range(DRAWS):
        with tempfile.TemporaryDirectory() as folder:
            shaken = [Path(folder) / graph.name for graph in both]
            for graph, copy in zip(both, shaken, strict=True):
                copy.write_bytes(_shaken(graph, seed))
            furthest = max(furthest, float(np.abs(_score(_joined(shaken, encoder), pairs) - scores).max()))
    return float(np.round(max(TOLERANCE, MARGIN * furthest), 4))


def _shaken(graph: Path, seed: int) -> bytes:
    """Return a graph whose fp32 vectors (biases, normalisations) are off by about one rounding."""
    import onnx
    from onnx import numpy_helper

    model, rng = onnx.load(str(graph)), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 1 and tensor.dims[0] > 1:
            exact = numpy_helper.to_array(tensor)
            off = exact * (1 + ROUNDING * rng.standard_normal(exact.shape))
            tensor.CopyFrom(numpy_helper.from_array(off.astype(np.float32), tensor.name))
    return bytes(model.SerializeToString())
