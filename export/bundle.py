"""The bundle: the folder that a serving team receives. Made of a finished run, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from export import signature
from export.embedder_bundle import EmbedderSources
from export.errors import UserError
from export.files import folder_beside, publish_folder
from export.measure import golden, serving
from export.runtime.manifest import (
    CARD,
    CASCADE,
    EMBEDDER,
    EVALUATION,
    FORMAT,
    GOLDEN,
    GRAPHS,
    MANIFEST,
    PLOT,
    SHORTENER,
    SIGNATURE,
    SUMS,
    TOKENIZER,
    TRITON,
    WEIGHTS,
    Manifest,
)
from export.runtime.tokens import SPECIAL
from export.runtime.untrusted import hash_file
from export.stage_bundles import StageSources, model_key
from export.triton import model_config
from export.variants import Offered, offered, served_int8

TOKENIZER_FILES = ("vocab.txt", "special_tokens_map.json")
SPECIAL_TOKENS = {
    "cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]",
}  # fmt: skip
IDENTITY = "torch.nn.modules.linear.Identity"  # sentence-transformers would put a sigmoid on a single output
LEFT_OUT = ("runs", "budget", "track", "bundle", "rivals")  # of the configuration: they say nothing of the model


@dataclass(frozen=True)
class Sources:
    """What a bundle is made of.

    Attributes:
        tradeoff: content of the run's tradeoff.json.
        evaluation: file of the run's per-query evaluation.
        student: folder of the student's checkpoint.
        graphs: folder of its graphs.
        golden: folder of its golden pairs.
        serving: what was measured of its graphs' batches.
        shortener: file of what shortens items for it; None if it reads them as they are given.
        cascade: the other stages of its cascade; None if it is served by itself.
        embedder: its model of single texts; None if it has none.
    """

    tradeoff: Mapping[str, Any]
    evaluation: Path
    student: Path
    graphs: Path
    golden: Path
    serving: Mapping[str, Any]
    shortener: Path | None
    cascade: StageSources | None
    embedder: EmbedderSources | None

    @classmethod
    def of(cls, run: Path) -> Sources:
        """Find them from a run's folder.

        Raises:
            UserError: if it is no finished run, or its stages are gone.
        """
        if not (run / "run.json").is_file():
            raise UserError(f"{run} is no run: it has no run.json")
        record = _read_record(run / "run.json", "status", "stages")
        if record["status"] != "finished":
            raise UserError(f"{run} is not finished; give its command again")
        stages = {}
        shortens = ["student input"] if "student input" in record["stages"] else []
        for role in ("student", "student graphs", "golden", "serving", *shortens):
            stages[role] = run / record["stages"].get(role, "-")
            if not stages[role].is_dir():
                raise UserError(f"{run}: its stage {role} is not there any more; give the run's command again")
        shortener = next((stages[role] / SHORTENER for role in shortens), None)
        return cls(
            tradeoff=_read_record(run / "tradeoff.json", "experiment", "config", "rows", "stages", "inputs"),
            evaluation=run / EVALUATION,
            student=stages["student"],
            graphs=stages["student graphs"],
            golden=stages["golden"],
            serving=serving.read(stages["serving"]),
            shortener=shortener if shortener is not None and shortener.is_file() else None,
            cascade=StageSources.of(run, record["stages"]),
            embedder=EmbedderSources.of(run, record["stages"]),
        )


def write_bundle(run: Path, out: Path, key: Path | None = None) -> None:
    """Make a run's bundle; the same stages give the same bytes, and a bundle of that name is replaced in one step.

    Args:
        run: folder of a finished run.
        out: folder of the bundle.
        key: file of an Ed25519 private key to sign with; None for no signature.

    Raises:
        UserError: if the run is not finished, or `out` is something else than a bundle.
    """
    sources = Sources.of(run)
    try:
        final = out.resolve()  # where a link leads to is replaced, not the link
        if final.exists() and not _is_replaceable(final):
            raise UserError(f"{out} is there and no bundle; name another folder")
        final.parent.mkdir(parents=True, exist_ok=True)
        with folder_beside(final) as work:
            _write(sources, work)
            if key is not None:
                (work / SIGNATURE).write_bytes(signature.sign((work / SUMS).read_bytes(), key))
            publish_folder(work, final, replace=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself, before Python 3.13
        raise UserError(f"{out} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def _is_replaceable(folder: Path) -> bool:
    """Return whether it is a bundle, whole or not, or empty: other things have a manifest.json too.

    A folder that another writer has replaced meanwhile is looked at again: its names were being deleted.
    """
    while folder.is_dir():
        looked_at = folder.stat()
        names = {path.name for path in folder.iterdir()}
        if os.path.samestat(looked_at, folder.stat()):
            return not names or {MANIFEST, SUMS, GRAPHS} <= names
    return not folder.exists()


def sums_of(folder: Path) -> str:
    """Return what SHA256SUMS must say of a bundle's files: as `sha256sum` writes it, sorted by name."""
    return "".join(
        f"{hash_file(folder / name)}  {name}\n" for name in files_of(folder) if name not in (SUMS, SIGNATURE)
    )


def files_of(folder: Path) -> list[str]:
    """Return the names of all files of a bundle, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _write(sources: Sources, work: Path) -> None:
    from export.card import write_card
    from export.dockerfile import DOCKERFILE, write_dockerfile

    _write_checkpoint(sources, work)
    variants = offered(sources.graphs)
    (work / GRAPHS).mkdir()
    for variant in variants:
        shutil.copyfile(sources.graphs / variant.graph, work / variant.file)
    shutil.copyfile(sources.golden / GOLDEN, work / GOLDEN)
    shutil.copyfile(sources.evaluation, work / EVALUATION)
    if sources.shortener is not None:
        shutil.copyfile(sources.shortener, work / SHORTENER)
    _write_triton(sources, variants, work)
    content = _describe(sources, variants, work)
    if sources.cascade is not None:
        content["cascade"] = CASCADE
        sources.cascade.write(content, int(content["config"]["teacher"]["max_length"]), work)
    if sources.embedder is not None:
        content["embedder"] = EMBEDDER
        sources.embedder.write(work)
    write_card(content, sources.tradeoff, work / CARD, work / PLOT)
    write_dockerfile(content, work / DOCKERFILE)
    names = [name for name in files_of(work) if name not in (MANIFEST, SUMS)]
    content["files"] = {
        name: {"sha256": hash_file(work / name), "bytes": (work / name).stat().st_size} for name in names
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (work / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
    (work / SUMS).write_text(sums_of(work), encoding="utf-8", newline="\n")
    for path in work.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    Manifest.read(work)


def _write_checkpoint(sources: Sources, work: Path) -> None:
    """Write the files that make the folder a checkpoint of transformers and a CrossEncoder of sentence-transformers."""
    for name in (WEIGHTS, *TOKENIZER_FILES):
        if (sources.student / name).is_file():
            shutil.copyfile(sources.student / name, work / name)
    if not (work / "special_tokens_map.json").is_file():
        _write_json(work / "special_tokens_map.json", SPECIAL_TOKENS)
    length = _max_length(sources)
    tokenizer = Tokenizer.from_file(str(sources.student / TOKENIZER))
    tokenizer.enable_truncation(length)  # for programs that read nothing but tokenizer.json; longest first
    tokenizer.no_padding()
    tokenizer.save(str(work / TOKENIZER), pretty=False)
    config = _read_json(sources.student / "config.json")
    config["sentence_transformers"] = {"activation_fn": IDENTITY}
    _write_json(work / "config.json", config)
    _write_json(work / "tokenizer_config.json", _tokenizer_config(sources.student, length))
    _write_json(work / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})


def _tokenizer_config(student: Path, length: int) -> dict[str, Any]:
    path = student / "tokenizer_config.json"
    config: dict[str, Any] = _read_json(path) if path.is_file() else dict(SPECIAL_TOKENS)
    if "do_lower_case" not in config:
        normalizer = _read_json(student / TOKENIZER).get("normalizer") or {}
        config["do_lower_case"] = bool(normalizer.get("lowercase", True))
    config.pop("name_or_path", None)  # a folder of whoever made the model
    return config | {"tokenizer_class": "BertTokenizer", "model_max_length": length, "truncation_side": "right"}


def _write_triton(sources: Sources, variants: list[Offered], work: Path) -> None:
    """Write a repository of models: fp32, and the 8-bit graph that was measured."""
    measured = _measured_int8(sources)
    for variant in variants:
        if variant.precision == "int8" and variant.name != measured:
            continue
        name = f"ranker_{variant.precision}"
        folder = work / TRITON / name
        (folder / "1").mkdir(parents=True)
        found = sources.serving["graphs"].get(variant.graph, {})
        config = model_config(name, variant.precision, found, int(sources.serving["threads"]))
        (folder / "config.pbtxt").write_text(config, encoding="utf-8", newline="\n")
        shutil.copyfile(sources.graphs / variant.graph, folder / "1" / "model.onnx")


def _describe(sources: Sources, variants: list[Offered], work: Path) -> dict[str, Any]:
    """Return the manifest, but for its files."""
    tradeoff = sources.tradeoff
    config = {name: value for name, value in tradeoff["config"].items() if name not in LEFT_OUT}
    lines = list(golden.read(work / GOLDEN))
    rows = [row for row in tradeoff["rows"] if row["model"] in ("teacher", "student")]
    named = {role: tradeoff["stages"][role] for role in sorted(tradeoff["stages"])}
    return {
        "format": FORMAT,
        "name": tradeoff["experiment"],
        "key": _key(work, variants, _max_length(sources)),
        "scores": {
            "scale": "raw logit, comparable within a query",
            "activation": "identity",
            "higher_is_better": True,
        },
        "max_length": _max_length(sources),
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


def _variant(sources: Sources, variant: Offered) -> dict[str, Any]:
    measured = []
    if variant.precision != "int8" or variant.name == _measured_int8(sources):
        measured += ["quality", "latency"]
    forms = {"int8": "qint8_avx512_vnni", "int8 avx2": "qint8_avx2", "weight8": "weight8", "onnx": "fp32"}
    compared = {
        forms.get(row["comparison"].split(" vs ")[0]) for row in sources.tradeoff["parity"] if row["model"] == "student"
    }
    if variant.name in compared:
        measured.append("parity")
    return variant.entry(sources.graphs, sources.serving, measured)


def _measured_int8(sources: Sources) -> str | None:
    """Return the name of the int8 variant that quality and latency were measured of: the measuring host's."""
    host = sources.tradeoff["host"]
    graph = served_int8([*host["flags"], host["system"].split()[-1]])
    return next((each.name for each in offered(sources.graphs) if each.graph == graph), None)


def _key(work: Path, variants: list[Offered], max_length: int) -> str:
    """Return what names the model: equal keys give equal scores, variant by variant."""
    shortener = [SHORTENER] if (work / SHORTENER).is_file() else []
    files = sorted({TOKENIZER, *shortener, *(variant.file for variant in variants)})
    return model_key(work, files, max_length)


def _max_length(sources: Sources) -> int:
    return int(sources.tradeoff["config"]["student"]["max_length"])


def _read_record(path: Path, *names: str) -> dict[str, Any]:
    try:
        content = _read_json(path)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}; give the run's command again") from error
    if missing := [name for name in names if name not in content]:
        raise UserError(f"{path} lacks {missing[0]}; give the run's command again")
    return content


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
