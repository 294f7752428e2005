"""From trained weights to a bundle: checkpoint, graphs, what 8 bits cost, and everything that is not changed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BertForSequenceClassification

from rankdistill.data.records import Float32
from rankdistill.data.tokens import PairTokens
from rankdistill.export.bundle import successor
from rankdistill.export.bundle.successor import Measured
from rankdistill.export.graphs.variants import Offered, offered
from rankdistill.export.quantization.ranker_graphs import write_graphs
from rankdistill.export.runtime.manifest import FP32, TOKENIZER
from rankdistill.export.runtime.scorer import PairScorer
from rankdistill.export.torch_models.checkpoint import save_ranker
from rankdistill.online.checks import BUNDLE, Check, int8_check
from rankdistill.online.events.labelled_lists import told
from rankdistill.online.origin import Origin
from rankdistill.online.replay import calibration
from rankdistill.options import Update

FEEDS = 32  # pairs that int8's smoothing is fitted to where there is no run; with one it draws its own


def save_checkpoint(model: BertForSequenceClassification, parent: Path, out: Path) -> None:
    """Write an updated student as a checkpoint with its parent's tokenizer."""
    out.mkdir()
    save_ranker(model, str(out))
    shutil.copyfile(parent / TOKENIZER, out / TOKENIZER)


def make_graphs(origin: Origin, checkpoint: Path, pairs: PairTokens, seed: int, out: Path) -> None:
    """Write a checkpoint's graphs in the way of the first version's.

    Args:
        origin: of the student.
        checkpoint: its folder.
        pairs: of the update, some of which smoothing is fitted to where there is no run.
        seed: of their choice.
        out: a new folder.
    """
    out.mkdir()
    feeds = calibration(pairs, FEEDS, np.random.default_rng(seed))
    export = origin.config.export
    quantization = origin.quantization(checkpoint, feeds)
    write_graphs(checkpoint, out, cls_only=export.cls_only, opset=export.opset, quantization=quantization)


def compare_eight_bits(
    graphs: Path, pairs: PairTokens, exact: Float32, update: Update, threads: int
) -> tuple[list[Check], dict[str, Float32]]:
    """Hold the 8-bit graph of this processor to the fp32 scores.

    Args:
        graphs: folder of the graphs.
        pairs: scored by it; candidates of unknown grade count for nothing.
        exact: the fp32 scores, float32 [pairs].
        update: has the bound.
        threads: that score.

    Returns:
        The checks, and the scores by precision; none where there is no 8-bit graph.
    """
    from rankdistill.export.runtime.processor import abilities

    has = abilities()
    suited = [each for each in offered(graphs) if each.name != FP32 and _suits(each, graphs, has)]
    if not suited or not len(pairs):
        return [], {}
    scores = _score(graphs / suited[0].graph, pairs, threads)
    split, kept = told(pairs.split)
    check = int8_check(suited[0].name, split, exact[kept], scores[kept], update)
    return [check], {suited[0].precision: scores}


def write_bundle(
    parent: Path,
    checkpoint: Path,
    graphs: Path,
    about: Mapping[str, Any],
    measured: Measured | None,
    sign: str | None,
    out: Path,
) -> Check:
    """Write the bundle of an updated student and verify it as whoever receives it will.

    Args:
        parent: bundle of the served student.
        checkpoint: of the updated one.
        graphs: of it.
        about: what the manifest says of the update.
        measured: of it on the old test set.
        sign: file of a private key; None for no signature.
        out: a new folder.
    """
    out.mkdir()
    key = None if sign is None else Path(sign).expanduser()
    successor.write_successor(parent, checkpoint, graphs, about, measured, out, key)
    wrong = successor.problems(out)
    return Check(BUNDLE, not wrong, float(len(wrong)), 0.0, wrong[0] if wrong else "ranker verify finds nothing wrong")


def _suits(variant: Offered, graphs: Path, has: frozenset[str]) -> bool:
    from rankdistill.export.runtime.processor import meets

    return meets(variant.processors, has) and variant.is_exact(graphs, has)


def _score(graph: Path, pairs: PairTokens, threads: int) -> Float32:
    scorer = PairScorer(graph, pairs.encoder, threads)
    table, split = pairs.table, pairs.split
    queries = [table.queries[row] for row in pairs.query]
    scores = scorer.score_tokens(queries, [table.items[row] for row in split.item])
    scorer.close()
    return scores
