"""The bundle of an updated student: its parent's, with other weights, graphs, golden scores and what was measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.bundle import golden, signature
from rankdistill.export.bundle.card import with_verdict
from rankdistill.export.bundle.cascade_bundle import model_key, write_manifest
from rankdistill.export.bundle.verification import verify
from rankdistill.export.bundle.writer import sums_of
from rankdistill.export.errors import BundleError
from rankdistill.export.gate.estimates import recommendation
from rankdistill.export.graphs.variants import Offered, offered
from rankdistill.export.measure.quality import AGREEMENT, METRICS, agreement, ranking_metrics
from rankdistill.export.report import evaluation
from rankdistill.export.report.recommendation import Recommendation, served_student, unmeasured
from rankdistill.export.report.tradeoff import finite
from rankdistill.export.runtime.manifest import (
    CARD,
    EVALUATION,
    GOLDEN,
    MANIFEST,
    SHORTENER,
    SIGNATURE,
    SUMS,
    TOKENIZER,
    WEIGHTS,
    Manifest,
)
from rankdistill.export.runtime.processor import abilities
from rankdistill.export.runtime.scorer import Float32

STUDENT = "student"
DROPPED = (MANIFEST, SUMS, SIGNATURE, WEIGHTS, GOLDEN, EVALUATION, CARD)  # of the parent: written anew, if at all
HEADING = "\n## Updated\n"  # of the card; what follows is of the last update
DIGITS = 6
CONFIDENCE = 0.95  # of a parent that does not say it
OF_SCORES = (
    *METRICS,
    *AGREEMENT,
    "tied",
    "retention",
)  # columns that other weights change; times and sizes they do not
STALE_CASCADE = "the cascade's cut-offs were fitted to the student before its updates; the anchor keeps its scores near"


@dataclass(frozen=True)
class Measured:
    """What was measured of an updated student on the split that its parent's evaluation is of.

    Attributes:
        scores: raw logits by precision, float32 [pairs] each.
        teacher: the teacher's, which agreement and retention are measured with, float32 [pairs].
        grades: int32 [pairs].
        offsets: int64 [queries + 1].
        relevant: least grade that is relevant.
    """

    scores: Mapping[str, Float32]
    teacher: Float32
    grades: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    relevant: int


def write_successor(
    parent: Path,
    checkpoint: Path,
    graphs: Path,
    update: Mapping[str, Any],
    measured: Measured | None,
    out: Path,
    key: Path | None = None,
) -> None:
    """Write the bundle of an updated student.

    Tokenizer, configuration, cascade, embedder, timings and batches are its parent's: an update changes no shape. Rows
    of the student's quality are measured anew, or left out.

    Args:
        parent: bundle of the student that was updated.
        checkpoint: folder of the updated one; its tokenizer is the parent's.
        graphs: folder of its graphs, made in the way of the parent's.
        update: what the manifest says of the update.
        measured: on the parent's evaluation; None where nothing was.
        out: an empty folder.
        key: file of an Ed25519 private key to sign with; None for no signature.

    Raises:
        BundleError: if a file of the parent is not as it was written, or another graph is offered than before.
        UserError: if the key cannot be read.
    """
    old = Manifest.read(parent)
    variants = {variant.name: variant for variant in offered(graphs)}
    if set(variants) != {variant.name for variant in old.variants}:
        names = ", ".join(variant.name for variant in old.variants)
        raise BundleError(f"{parent} offers {names}; the updated student's graphs are {', '.join(variants)}")
    _take_over(old, variants, graphs, out)
    shutil.copyfile(checkpoint / WEIGHTS, out / WEIGHTS)
    has = abilities()
    exact = [variant for variant in variants.values() if variant.is_exact(graphs, has)]
    golden.write_again(parent / GOLDEN, parent, graphs, exact, old.max_length, out)
    content = _describe(old, variants, graphs, update, out)
    if measured is not None:
        content["quality"] = [*content["quality"], *_measure(old, measured, out)]
    content["verdict"] = _verdict(content, out).as_dict()
    _write_card(parent, content, out)
    write_manifest(content, out)
    (out / SUMS).write_text(sums_of(out), encoding="utf-8", newline="\n")
    if key is not None:
        (out / SIGNATURE).write_bytes(signature.sign((out / SUMS).read_bytes(), key))
    for path in out.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def problems(bundle: Path) -> list[str]:
    """Return what `ranker verify` finds wrong with a bundle and the variants that this processor computes exactly."""
    manifest = Manifest.read(bundle)
    tolerance = manifest.content["golden"]["tolerance"]
    names = [variant.name for variant in manifest.variants if variant.name in tolerance]
    return [f"{each.what} {each.detail}" for each in verify(bundle, names) if not each.ok]


def _take_over(old: Manifest, variants: Mapping[str, Offered], graphs: Path, out: Path) -> None:
    """Copy the parent's files, and put the new graph wherever the old one of a variant stands (onnx/, triton/)."""
    graph_of = {old.file(variant.file): variants[variant.name].graph for variant in old.variants}
    for variant in old.variants:
        halved = zip(old.halves(variant) or (), variants[variant.name].halves, strict=False)
        graph_of |= {old.file(name): half for name, half in halved}
    for name in old.content["files"]:
        if name in DROPPED:
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        graph = graph_of.get(old.file(name))
        shutil.copyfile(old.checked(name) if graph is None else graphs / graph, out / name)


def _describe(
    old: Manifest, variants: Mapping[str, Offered], graphs: Path, update: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """Return the manifest, but for its files and what was measured."""
    content = {name: value for name, value in old.content.items() if name != "files"}
    shortener = [SHORTENER] if (out / SHORTENER).is_file() else []
    halved = [half for variant in old.variants for half in old.halves(variant) or ()]
    files = [TOKENIZER, *shortener, *(variant.file for variant in variants.values()), *halved]
    line = next(golden.read(out / GOLDEN))
    entries = []
    for entry in old.content["variants"]:
        measured = [each for each in entry["measured"] if each == "latency"]
        entries.append(entry | {"saturates": variants[entry["name"]].saturates(graphs), "measured": measured})
    warnings = [each for each in content["warnings"] if each != STALE_CASCADE]
    return content | {
        "key": model_key(out, files, old.max_length),
        "variants": entries,
        "golden": {"pairs": old.content["golden"]["pairs"], "tolerance": line["tolerance"]},
        "quality": [row for row in content["quality"] if row["model"] != STUDENT],
        "comparisons": [],
        "parity": [],
        "warnings": [*warnings, *([STALE_CASCADE] if "cascade" in content else [])],
        "update": dict(update),
    }


def _measure(old: Manifest, measured: Measured, out: Path) -> list[dict[str, Any]]:
    """Write the per-query evaluation with the student's rows as they are now; return the table's rows of it.

    A parent that was made without one leaves nothing to compare with: there is none then, and no row.
    """
    if EVALUATION not in old.content["files"]:
        return []
    content = evaluation.read(old.checked(EVALUATION))
    rows, models = {}, []
    for model in content["models"]:
        if model["model"] != STUDENT:
            models.append(model)
            continue
        scores = measured.scores.get(model["precision"])
        if scores is None or model["engine"] != "onnxruntime":
            continue
        found = ranking_metrics(scores, measured.grades, measured.offsets, measured.relevant)
        found |= agreement(scores, measured.teacher, measured.offsets)
        models.append(model | {"quality": {name: values.round(DIGITS).tolist() for name, values in found.items()}})
        rows[model["precision"]] = {name: float(np.nanmean(values)) for name, values in found.items()}
    evaluation.rewrite(out / EVALUATION, content | {"models": models})
    theirs = ranking_metrics(measured.teacher, measured.grades, measured.offsets)["ndcg@10"].mean()
    table = []
    for row in old.content["quality"]:
        if row["model"] == STUDENT and row["engine"] == "onnxruntime" and row["precision"] in rows:
            kept = {name: value for name, value in row.items() if name.removesuffix("_ci") not in OF_SCORES}
            means = rows[row["precision"]]
            table.append(kept | means | {"retention": float(means["ndcg@10"] / theirs)})
    return [dict(finite(row)) for row in table]


def _verdict(content: Mapping[str, Any], out: Path) -> Recommendation:
    """Return the verdict on the weights as they are now; never the parent's, which was on others."""
    student = served_student(content["quality"])
    if student is None or not (out / EVALUATION).is_file():
        return unmeasured("the updated student was not measured on the test set of the student before its updates")
    confidence = float(content.get("confidence", CONFIDENCE))
    return recommendation(evaluation.read(out / EVALUATION), student["precision"], confidence)


def _write_card(parent: Path, content: Mapping[str, Any], out: Path) -> None:
    """Write the parent's card with what the update says of itself at its end."""
    if not (parent / CARD).is_file():
        return
    text = (parent / CARD).read_text(encoding="utf-8").split(HEADING)[0].rstrip("\n")
    was, now = (Recommendation.of(each) for each in (Manifest.read(parent).content.get("verdict"), content["verdict"]))
    if now is not None:
        text = with_verdict(text, was, now)
    update = content["update"]
    lines = [f"- {name}: {value['detail']}" for name, value in update.get("checks", {}).items()]
    told = (
        f"Version {update['version']}, made of {update['parent']} by {update['kind']} on {update['trained']} events. "
        "What is said above of quality, but for the first line, is of the student before its updates; what held before "
        "this one was published:"
    )
    (out / CARD).write_text(f"{text}\n{HEADING}\n{told}\n\n" + "\n".join(lines) + "\n", encoding="utf-8", newline="\n")
