"""What a bundle's graphs and tokenizer give here, compared with what they gave where the bundle was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.export.bundle.finding import Finding, refusal
from rankdistill.export.errors import BundleError, ModelError, is_fault
from rankdistill.export.graphs.graph_files import LOWER
from rankdistill.export.runtime.bm25 import Bm25
from rankdistill.export.runtime.cascade import BM25, BUNDLE, EMBEDDED, read_cascade, stage_folder
from rankdistill.export.runtime.embedder import OUTPUT as EMBEDDING
from rankdistill.export.runtime.embedder import About
from rankdistill.export.runtime.manifest import (
    CASCADE,
    EMBEDDER,
    GOLDEN,
    MANIFEST,
    SHORTENER,
    SPLIT,
    STAGES,
    TOKENIZER,
    Manifest,
    Variant,
    with_states,
)
from rankdistill.export.runtime.scorer import INPUTS, OUTPUT, Float32, PairScorer, open_session
from rankdistill.export.runtime.split_scorer import STATES, UPPER_INPUTS, SplitScorer
from rankdistill.export.runtime.text.shortener import Shortener
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.export.runtime.untrusted.bounded_files import parse_json, read_bytes
from rankdistill.export.runtime.untrusted.json_schema import broken
from rankdistill.export.runtime.untrusted.onnx_file import external_files

MOST_GOLDEN = 64 << 20  # bytes
MOST_WRONG = 5  # golden pairs told one by one
LOOSE = 0.01  # a tolerance up to this is small, however little the golden scores differ
GOLDEN_SCHEMA = {
    "query": str, "item": str, "input_ids": [int], "token_type_ids": [int], "scores": {"*": float},
    "tolerance": {"*": float},
}  # fmt: skip

Row = Mapping[str, Any]


def check_graph(folder: Path, name: str) -> Finding:
    """Check that a graph holds its weights itself and has the inputs and the output that its place asks for."""
    inputs, output = _ends(Path(name))
    try:
        if outside := external_files(folder / name):
            return Finding(False, name, f"keeps weights in {outside[0]!r}; a bundle's graph holds them itself; refused")
        session = open_session(folder / name, 1, output, inputs)
    except (BundleError, ModelError) as error:
        return refusal(folder, name, error)
    told = ", ".join(value.name for value in session.get_inputs())
    return Finding(True, name, f"({told}) -> {session.get_outputs()[0].name}")


def _ends(graph: Path) -> tuple[Sequence[str], str]:
    """Return what a graph takes and gives, by its place in a bundle."""
    if graph.parent == Path(EMBEDDER).parent:
        return INPUTS, EMBEDDING
    if graph.parent == Path(SPLIT):
        return (INPUTS, STATES) if graph.name.startswith(LOWER) else (UPPER_INPUTS, OUTPUT)
    return INPUTS, OUTPUT


def check_golden(manifest: Manifest, variants: Sequence[Variant]) -> Iterator[Finding]:
    """Compare tokens and scores with the golden ones; where the tokens differ, the scores must."""
    try:
        rows = _golden_rows(manifest)
    except BundleError as error:
        yield refusal(manifest.folder, GOLDEN, error)
        return
    try:
        encoder = PairEncoder.load(manifest.folder, manifest.max_length)
        wrong = [number for number, row in enumerate(rows, 1) if not _same_tokens(encoder, row)]
    except BaseException as error:  # tokenizers raises plain Exception; its panics are no Exception
        if not is_fault(error):
            raise
        yield refusal(manifest.folder, TOKENIZER, error)
        return
    for number in wrong[:MOST_WRONG]:
        yield Finding(False, TOKENIZER, f"gives other tokens than {GOLDEN}:{number}")
    if len(wrong) > MOST_WRONG:
        yield Finding(False, TOKENIZER, f"gives other tokens than {len(wrong)} of {len(rows)} golden pairs")
    if wrong:
        return
    yield Finding(True, TOKENIZER, f"gives the tokens of {len(rows)} golden pairs")
    if SHORTENER in manifest.content["files"]:
        yield _check_shortener(manifest, rows)
    for variant in variants:
        graph = manifest.folder / variant.file
        yield _check_scores(manifest, variant.name, variant.file, partial(PairScorer, graph, encoder, 1), rows)
        if (both := manifest.halves(variant)) is not None:
            lower, upper = (manifest.folder / half for half in both)
            joined = partial(SplitScorer, (lower, upper), encoder, 1, None, 0)
            yield _check_scores(manifest, with_states(variant.name), both[1], joined, rows)


def check_stages(manifest: Manifest) -> Iterator[Finding]:
    """Check a bundle's cascade, and in it the golden pairs of every stage that is a bundle of its own."""
    try:
        stages = read_cascade(manifest)["stages"]
        inner = {
            stage["name"]: (Manifest.read(stage_folder(manifest, stage)), stage["variant"])
            for stage in stages
            if stage["kind"] == BUNDLE
        }
        for stage in stages:
            if stage["kind"] == BM25:
                Bm25.load(manifest.checked(f"{STAGES}/{stage['name']}.json"))
            elif stage["kind"] == EMBEDDED:  # its graphs and vectors are checked with the bundle's embedder
                About.of(manifest).variant(stage["variant"])
        chosen = {name: each.variant(variant) for name, (each, variant) in inner.items()}
    except (BundleError, KeyError) as error:
        yield refusal(manifest.folder, CASCADE, error)
        return
    yield Finding(True, CASCADE, f"stages {', '.join(stage['name'] for stage in stages)}")
    for name, (each, _) in inner.items():
        other = [file for file in each.content["files"] if not _is_file_of(manifest, each, f"{STAGES}/{name}", file)]
        if other:
            yield Finding(False, f"{STAGES}/{name}/{other[0]}", f"is another file in {STAGES}/{name}/{MANIFEST}")
            continue
        for finding in check_golden(each, [chosen[name]]):
            yield replace(finding, what=f"{STAGES}/{name}/{finding.what}")


def _is_file_of(outer: Manifest, inner: Manifest, folder: str, file: str) -> bool:
    """Return whether two manifests say the same of a file; the outer one's was compared with the file itself."""
    name = f"{folder}/{file}"
    return name in outer.content["files"] and outer.file(name) == inner.file(file)


def _golden_rows(manifest: Manifest) -> list[Row]:
    """Return the golden pairs, each as the manifest tells of them.

    Raises:
        BundleError: if one is not.
    """
    lines = [line for line in read_bytes(manifest.folder / GOLDEN, MOST_GOLDEN).split(b"\n") if line]
    told = manifest.content["golden"]
    if len(lines) != told["pairs"]:
        raise BundleError(f"{GOLDEN}: {len(lines)} pairs; {MANIFEST} tells of {told['pairs']}")
    rows = []
    for number, line in enumerate(lines, 1):
        row = parse_json(line, f"{GOLDEN}:{number}")
        schema = GOLDEN_SCHEMA | ({"whole": str} if isinstance(row, dict) and "whole" in row else {})
        if problem := next(broken(row, schema, ""), None):
            raise BundleError(f"{GOLDEN}:{number}: {problem}")
        # the manifest states it too, so a loose one here alone does not help
        if row["tolerance"] != told["tolerance"] or row["scores"].keys() != told["tolerance"].keys():
            raise BundleError(f"{GOLDEN}:{number}: scores or tolerances of other graphs than {MANIFEST} tells of")
        rows.append(row)
    return rows


def _same_tokens(encoder: PairEncoder, row: Row) -> bool:
    ids, types = encoder.join(*encoder.ids([row["query"], row["item"]]))
    return bool(ids.tolist() == row["input_ids"] and types.tolist() == row["token_type_ids"])


def _check_shortener(manifest: Manifest, rows: Sequence[Row]) -> Finding:
    """Check that whole items become what the model read: another Unicode may take other characters for words."""
    try:
        shortener = Shortener.load(manifest.checked(SHORTENER))
    except BundleError as error:
        return refusal(manifest.folder, SHORTENER, error)
    wrong = [n for n, row in enumerate(rows, 1) if shortener.shorten(row.get("whole", row["item"])) != row["item"]]
    if wrong:
        return Finding(False, SHORTENER, f"gives other texts than {len(wrong)} golden pairs, first {GOLDEN}:{wrong[0]}")
    return Finding(True, SHORTENER, f"gives the texts of {len(rows)} golden pairs")


def _check_scores(
    manifest: Manifest, name: str, file: str, opened: Callable[[], PairScorer], rows: Sequence[Row]
) -> Finding:
    """Compare the scores of what `opened` gives with the golden ones called `name`."""
    tolerance = manifest.content["golden"]["tolerance"]
    if name not in tolerance:
        return Finding(True, file, "no golden scores: made on a processor that cannot compute it exactly")
    allowed = float(tolerance[name])
    golden = np.array([row["scores"][name] for row in rows], dtype=np.float64)
    span = float(golden.max() - golden.min())
    if allowed > max(span, LOOSE):
        detail = f"the tolerance {allowed:g} proves nothing: golden scores are within {span:g} of each other"
        return Finding(False, file, detail)
    try:
        apart = np.abs(_scores(opened(), rows) - golden)
    except Exception as error:  # onnxruntime's exceptions share no public class
        return refusal(manifest.folder, file, error)
    detail = f"scores of {len(rows)} golden pairs differ by at most {apart.max():.1e}, allowed is {allowed:g}"
    return Finding(bool(apart.max() <= allowed), file, detail)  # false for NaN


def _scores(scorer: PairScorer, rows: Sequence[Row]) -> Float32:
    tokens = [scorer.encoder.ids([row["query"], row["item"]]) for row in rows]
    scores = scorer.score_tokens([query for query, _ in tokens], [item for _, item in tokens])
    scorer.close()
    return scores
