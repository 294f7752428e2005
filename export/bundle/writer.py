"""The bundle: the folder that a serving team receives. Made of a finished run, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rankdistill.export.bundle import signature
from rankdistill.export.bundle.manifest_fields import describe
from rankdistill.export.bundle.run_sources import Sources
from rankdistill.export.bundle.triton import model_config
from rankdistill.export.errors import UserError
from rankdistill.export.files import folder_beside, publish_folder
from rankdistill.export.graphs.variants import Offered, is_split, offered
from rankdistill.export.runtime.manifest import (
    CARD,
    CASCADE,
    EMBEDDER,
    EVALUATION,
    GOLDEN,
    GRAPHS,
    MANIFEST,
    PLOT,
    SHORTENER,
    SIGNATURE,
    SPLIT,
    SUMS,
    TOKENIZER,
    TRITON,
    WEIGHTS,
    Manifest,
)
from rankdistill.export.runtime.scorer import INPUTS
from rankdistill.export.runtime.untrusted.bounded_files import hash_file

TOKENIZER_FILES = ("vocab.txt", "special_tokens_map.json")
SPECIAL_TOKENS = {
    "cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]",
}  # fmt: skip
NORMALIZER = {  # what tokenizer_config.json calls the fields of tokenizer.json's normalizer
    "do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars",
}  # fmt: skip
IDENTITY = "torch.nn.modules.linear.Identity"  # sentence-transformers would put a sigmoid on a single output


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


def tokenizer_config(student: Path, length: int) -> dict[str, Any]:
    """Return a tokenizer_config.json by which transformers reads texts as tokenizer.json does, whatever was told.

    Args:
        student: folder of its checkpoint.
        length: most tokens of a pair.
    """
    path = student / "tokenizer_config.json"
    config: dict[str, Any] = _read_json(path) if path.is_file() else dict(SPECIAL_TOKENS)
    content = _read_json(student / TOKENIZER)
    normalizer = content.get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer" and content["model"].get("type") == "WordPiece":
        kind = "BertTokenizer"  # sets the normalizer anew, by these
        config |= {field: normalizer.get(name) for field, name in NORMALIZER.items()}
    else:
        kind = "PreTrainedTokenizerFast"  # takes tokenizer.json as it is, and has no special tokens of its own
        config = config if config.get("tokenizer_class") == kind else SPECIAL_TOKENS | config
    config.pop("name_or_path", None)  # a folder of whoever made the model
    sides = {"truncation_side": "right", "padding_side": "right"}
    names = {"model_input_names": list(INPUTS)}  # else transformers 5 gives a plain tokenizer no token types
    return config | {"tokenizer_class": kind, "model_max_length": length} | names | sides


def _write(sources: Sources, work: Path) -> None:
    from rankdistill.export.bundle.card import write_card
    from rankdistill.export.bundle.dockerfile import DOCKERFILE, write_dockerfile

    _write_checkpoint(sources, work)
    variants = offered(sources.graphs)
    (work / GRAPHS).mkdir()
    for variant in variants:
        shutil.copyfile(sources.graphs / variant.graph, work / variant.file)
    if is_split(sources.graphs):
        (work / SPLIT).mkdir()
        for half, file in (each for variant in variants for each in variant.halves.items()):
            shutil.copyfile(sources.graphs / half, work / file)
    shutil.copyfile(sources.golden / GOLDEN, work / GOLDEN)
    shutil.copyfile(sources.evaluation, work / EVALUATION)
    if sources.shortener is not None:
        shutil.copyfile(sources.shortener, work / SHORTENER)
    _write_triton(sources, variants, work)
    content = describe(sources, variants, work)
    if sources.cascade is not None:
        content["cascade"] = CASCADE
        sources.cascade.write(content, int(content["config"]["teacher"]["max_length"]), work)
    if sources.embedder is not None:
        content["embedder"] = EMBEDDER
        sources.embedder.write(work, sources.measured_int8)
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
    length = sources.max_length
    tokenizer = Tokenizer.from_file(str(sources.student / TOKENIZER))
    tokenizer.enable_truncation(length)  # for programs that read nothing but tokenizer.json; longest first
    tokenizer.no_padding()
    tokenizer.save(str(work / TOKENIZER), pretty=False)
    config = _read_json(sources.student / "config.json")
    config["sentence_transformers"] = {"activation_fn": IDENTITY}
    _write_json(work / "config.json", config)
    _write_json(work / "tokenizer_config.json", tokenizer_config(sources.student, length))
    _write_json(work / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})


def _write_triton(sources: Sources, variants: list[Offered], work: Path) -> None:
    """Write a repository of models: fp32, and the 8-bit graph that was measured."""
    measured = sources.measured_int8
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


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
