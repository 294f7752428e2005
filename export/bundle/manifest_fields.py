"""What a bundle's manifest says of its ranker: how it is used, what was measured, and where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rankdistill.export.bundle import golden
from rankdistill.export.bundle.cascade_bundle import model_key
from rankdistill.export.bundle.run_sources import Sources
from rankdistill.export.graphs.graph_files import FP32, INT8, INT8_AVX2, WEIGHT8
from rankdistill.export.graphs.split_bert_graph import item_parts
from rankdistill.export.graphs.variants import Offered, is_split
from rankdistill.export.report.recommendation import recommendation_of
from rankdistill.export.runtime.manifest import FORMAT, GOLDEN, SHORTENER, SPLIT, TOKENIZER
from rankdistill.export.runtime.text.tokens import SPECIAL

LEFT_OUT = ("runs", "budget", "track", "bundle", "rivals")  # of the configuration: they say nothing of the model


def describe(sources: Sources, variants: list[Offered], work: Path) -> dict[str, Any]:
    """Return the manifest, but for its files and for what else stands in the bundle.

    Args:
        sources: what the bundle is made of.
        variants: its graphs.
        work: the bundle's folder, with the files of its student.
    """
    tradeoff = sources.tradeoff
    config = {name: value for name, value in tradeoff["config"].items() if name not in LEFT_OUT}
    lines = list(golden.read(work / GOLDEN))
    rows = [row for row in tradeoff["rows"] if row["model"] in ("teacher", "student")]
    named = {role: tradeoff["stages"][role] for role in sorted(tradeoff["stages"])}
    return {
        "format": FORMAT,
        "name": tradeoff["experiment"],
        "key": _key(work, variants, sources.max_length),
        "verdict": recommendation_of(tradeoff).as_dict(),
        "scores": {
            "scale": "raw logit, comparable within a query",
            "activation": "identity",
            "higher_is_better": True,
        },
        "max_length": sources.max_length,
        "input": {
            "item": tradeoff["inputs"]["student"]["items"],
            "shortener": SHORTENER if sources.shortener is not None else None,
            "mean_tokens": tradeoff["inputs"]["student"]["tokens"],
        },
        "truncation": {
            "rule": "longest_first: the longer text is cut to the shorter's length, then both to half each",
            "special_tokens": SPECIAL,
        },
        "templates": tradeoff["templates"] | {"pair": "[CLS] query [SEP] item [SEP]"},
        "variants": [_variant(sources, variant) for variant in variants],
        "threads": {
            "intra_op": 1,
            "inter_op": 1,
            "spinning": False,
            "parallel": "one session, one pair a call, as many calls at once as the process has cores",
            "measured_with": sources.serving["threads"],
        },
        **_split(sources, variants),
        "batching": {variant.name: sources.serving["graphs"].get(variant.graph, {}) for variant in variants},
        "golden": {"pairs": len(lines), "tolerance": lines[0]["tolerance"]},
        "data": {
            "name": tradeoff["dataset"],
            "fingerprint": tradeoff["fingerprint"],
            "split": tradeoff["split"],
            "queries": tradeoff["queries"],
            "pairs": tradeoff["pairs"],
            "licence": tradeoff["licences"]["data"],
        },
        "teacher": {"model": config["teacher"]["model"], "licence": tradeoff["licences"]["teacher"]},
        "quality": rows,
        "latency": tradeoff["latency"],
        "comparisons": tradeoff["comparisons"],
        "parity": [row for row in tradeoff["parity"] if row["model"] == "student"],
        "warnings": tradeoff["warnings"],
        "confidence": tradeoff["confidence"],
        "versions": tradeoff["versions"],
        "host": tradeoff["host"],
        "stages": named,
        "config": config,
    }


def _split(sources: Sources, variants: list[Offered]) -> dict[str, Any]:
    """Return what a manifest says of a split student beside the rest."""
    if not is_split(sources.graphs):
        return {}
    shape = json.loads((sources.student / "config.json").read_text(encoding="utf-8"))
    graphs = {each.name: dict(zip(("lower", "upper"), each.halves.values(), strict=True)) for each in variants}
    joint = int(shape["num_hidden_layers"]) - int(shape["split_layers"])
    parts = item_parts(joint, bool(sources.tradeoff["config"]["export"]["cls_only"]))
    told = {"layers": shape["split_layers"], "parts": parts, "width": shape["hidden_size"]}
    return {SPLIT: told | {"graphs": graphs}}


def _variant(sources: Sources, variant: Offered) -> dict[str, Any]:
    measured = []
    if variant.precision != "int8" or variant.name == sources.measured_int8:
        measured += ["quality", "latency"]
    forms = {"int8": INT8, "int8 avx2": INT8_AVX2, "weight8": WEIGHT8, "onnx": FP32}
    compared = {
        forms.get(row["comparison"].split(" vs ")[0]) for row in sources.tradeoff["parity"] if row["model"] == "student"
    }
    if variant.graph in compared and variant.is_for(sources.processor):
        measured.append("parity")
    return variant.entry(sources.graphs, sources.serving, measured)


def _key(work: Path, variants: list[Offered], max_length: int) -> str:
    """Return what names the model: equal keys give equal scores, variant by variant."""
    shortener = [SHORTENER] if (work / SHORTENER).is_file() else []
    halved = [file for variant in variants for file in variant.halves.values() if (work / file).is_file()]
    files = sorted({TOKENIZER, *shortener, *(variant.file for variant in variants), *halved})
    return model_key(work, files, max_length)
