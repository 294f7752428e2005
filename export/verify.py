"""Whether a bundle is whole, safe, and gives here what it gave where it was made; needs no training stack."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export import signature
from export.errors import BundleError, ModelError
from export.onnx_file import external_files
from export.runtime.manifest import (
    FP32,
    GOLDEN,
    MANIFEST,
    SIGNATURE,
    SUMS,
    TOKENIZER,
    Manifest,
    Variant,
    broken,
    is_inside,
)
from export.runtime.scorer import PairScorer, open_session
from export.runtime.tokens import PairEncoder
from export.runtime.untrusted import hash_file, parse_json, read_bytes, read_json

PICKLES = (".pkl", ".pickle", ".bin", ".pt", ".pth", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".msgpack", ".py")
MOST_GOLDEN = 64 << 20  # bytes
MOST_FILES = 1000
GOLDEN_SCHEMA = {
    "query": str, "item": str, "input_ids": [int], "token_type_ids": [int], "scores": {"*": float},
    "tolerance": {"*": float},
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One line of a verification.

    Attributes:
        ok: whether it is as it should be.
        what: file or check.
        detail: what was found.
    """

    ok: bool
    what: str
    detail: str


def verify(folder: Path, variants: Sequence[str] = (), key: Path | None = None) -> Iterator[Finding]:
    """Check a bundle, cheap and safe things first; what may not be read safely ends it.

    Args:
        folder: of the bundle.
        variants: names of the graphs whose scores are checked; empty for fp32 and the one for this processor.
        key: file of the signer's public key; None to ask for no signature.

    Raises:
        BundleError: if it is no bundle at all, or has no variant of that name.
        UserError: if the key cannot be read.
    """
    if not (folder / MANIFEST).exists():
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}; `ranker bundle RUN` makes one")
    unsafe = [*_unsafe_files(folder)]
    yield from unsafe
    if unsafe:
        return
    yield from _sums(folder)
    if key is not None:
        wrong = signature.check(folder, key)
        yield Finding(wrong is None, SIGNATURE, wrong or f"signed with the key of {key}")
    try:
        manifest = Manifest.read(folder)
    except BundleError as error:
        yield Finding(False, MANIFEST, str(error))
        return
    yield Finding(True, MANIFEST, f"format {manifest.content['format']}, {len(manifest.variants)} variants")
    names = variants or dict.fromkeys([manifest.variant().name, FP32])
    chosen = [manifest.variant(name) for name in names]
    yield from _listed(manifest)
    yield from _json_files(manifest)
    graphs = [*_graphs(manifest)]
    yield from graphs
    if all(finding.ok for finding in graphs):
        yield from _golden(manifest, chosen)


def _unsafe_files(folder: Path) -> Iterator[Finding]:
    """Refuse what must not be read at all: links, devices, pickles, names that leave the folder, too many files."""
    if folder.is_symlink():
        folder = folder.resolve()
    for number, path in enumerate(sorted(folder.rglob("*"))):
        name = path.relative_to(folder).as_posix()
        mode = path.lstat().st_mode
        if number > MOST_FILES:
            yield Finding(False, name, f"more than {MOST_FILES} files; refused")
            return
        if stat.S_ISLNK(mode):
            yield Finding(False, name, "a link; refused")
        elif not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            yield Finding(False, name, "neither file nor folder; refused")
        elif not is_inside(name):
            yield Finding(False, name, "a name that is not safe on every system; refused")
        elif stat.S_ISREG(mode) and (path.suffix.lower() in PICKLES or _is_pickle(path)):
            yield Finding(False, name, "a kind of file that can run code when it is read; refused")


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4)
    return (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05") or start == b"PK\x03\x04"


def _sums(folder: Path) -> Iterator[Finding]:
    """Compare every file with SHA256SUMS, and that file with itself."""
    try:
        told = read_bytes(folder / SUMS).decode("utf-8")
    except (BundleError, UnicodeDecodeError) as error:
        yield Finding(False, SUMS, f"cannot be read: {error}")
        return
    found = {name: hash_file(folder / name) for name in _files(folder) if name not in (SUMS, SIGNATURE)}
    lines = dict(line.split("  ", 1)[::-1] for line in told.split("\n") if "  " in line)
    wrong = 0
    for name, digest in found.items():
        if name not in lines:
            yield Finding(False, name, f"is not in {SUMS}")
        elif lines[name] != digest:
            yield Finding(False, name, f"sha256 is {digest[:12]}…, {SUMS} says {lines[name][:12]}…")
        wrong += lines.get(name) != digest
    for name in lines.keys() - found.keys():
        yield Finding(False, name, f"is in {SUMS} but not there")
    same = told == "".join(f"{digest}  {name}\n" for name, digest in found.items())
    if not same and not wrong:
        yield Finding(False, SUMS, "is not as it was written")
    if same:
        yield Finding(True, SUMS, f"{len(found)} files are as they were written")
    if (folder / SIGNATURE).exists():
        try:
            signed = signature.read(folder)
            yield Finding(True, SIGNATURE, f"by the key {signed['public_key']}; checked against yours with --key")
        except BundleError as error:
            yield Finding(False, SIGNATURE, str(error))


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _listed(manifest: Manifest) -> Iterator[Finding]:
    """Compare the files with what the manifest says of them, which SHA256SUMS alone does not prove."""
    listed = manifest.content["files"]
    there = set(_files(manifest.folder)) - {MANIFEST, SUMS, SIGNATURE}
    for name in sorted(there - listed.keys()):
        yield Finding(False, name, f"is not in {MANIFEST}")
    for name in sorted(listed.keys() - there):
        yield Finding(False, name, f"is in {MANIFEST} but not there")
    for name in sorted(listed.keys() & there):
        digest, size = manifest.file(name)
        path = manifest.folder / name
        if path.stat().st_size != size or hash_file(path) != digest:
            yield Finding(False, name, f"is not the file of {MANIFEST}")


def _json_files(manifest: Manifest) -> Iterator[Finding]:
    for path in sorted(manifest.folder.glob("*.json")):
        try:
            read_json(path)
        except BundleError as error:
            yield Finding(False, path.name, str(error))


def _graphs(manifest: Manifest) -> Iterator[Finding]:
    """Check that each graph holds its weights itself and has a cross-encoder's inputs and output."""
    for path in sorted(manifest.folder.rglob("*.onnx")):
        name = path.relative_to(manifest.folder).as_posix()
        try:
            if outside := external_files(path):
                yield Finding(
                    False, name, f"keeps weights in {outside[0]!r}; a bundle's graph holds them itself; refused"
                )
                continue
            session = open_session(path, 1)
        except (BundleError, ModelError) as error:
            yield Finding(False, name, str(error))
        else:
            inputs = ", ".join(value.name for value in session.get_inputs())
            yield Finding(True, name, f"({inputs}) -> {session.get_outputs()[0].name}")


def _golden(manifest: Manifest, variants: Sequence[Variant]) -> Iterator[Finding]:
    """Compare tokens and scores with the golden ones."""
    try:
        rows = _golden_rows(manifest.folder / GOLDEN)
        encoder = PairEncoder.load(manifest.folder, manifest.max_length)
    except (BundleError, ModelError) as error:
        yield Finding(False, GOLDEN, str(error))
        return
    wrong = [number for number, row in enumerate(rows, 1) if not _same_tokens(encoder, row)]
    for number in wrong:
        yield Finding(False, TOKENIZER, f"gives other tokens than {GOLDEN}:{number}")
    if not wrong:
        yield Finding(True, TOKENIZER, f"gives the tokens of {len(rows)} golden pairs")
    for variant in variants:
        yield _same_scores(manifest, variant, encoder, rows)


def _golden_rows(path: Path) -> list[Mapping[str, Any]]:
    lines = read_bytes(path, MOST_GOLDEN).split(b"\n")
    rows = [parse_json(line, f"{GOLDEN}:{number}") for number, line in enumerate(lines, 1) if line]
    for number, row in enumerate(rows, 1):
        if broken_ := [*broken(row, GOLDEN_SCHEMA, "")]:
            raise BundleError(f"{GOLDEN}:{number}: {broken_[0]}")
    if not rows:
        raise BundleError(f"{GOLDEN}: empty")
    return rows


def _same_tokens(encoder: PairEncoder, row: Mapping[str, Any]) -> bool:
    ids, types = encoder.join(*encoder.ids([row["query"], row["item"]]))
    return bool(ids.tolist() == row["input_ids"] and types.tolist() == row["token_type_ids"])


def _same_scores(
    manifest: Manifest, variant: Variant, encoder: PairEncoder, rows: Sequence[Mapping[str, Any]]
) -> Finding:
    known = [row for row in rows if variant.name in row["scores"]]
    if not known:
        return Finding(True, variant.file, "no golden scores: made on a processor that cannot compute it exactly")
    scorer = PairScorer(manifest.folder / variant.file, encoder, threads=1)
    tokens = [encoder.ids([row["query"], row["item"]]) for row in known]
    scores = scorer.score_tokens([query for query, _ in tokens], [item for _, item in tokens])
    scorer.close()
    apart = np.abs(scores - np.array([row["scores"][variant.name] for row in known]))
    # the manifest states it too, so a loose one in golden.jsonl does not help
    allowed = min(
        manifest.content["golden"]["tolerance"][variant.name], *(row["tolerance"][variant.name] for row in known)
    )
    ok = bool(apart.max() <= allowed)  # false for NaN
    detail = f"scores of {len(known)} golden pairs differ by at most {apart.max():.1e}, allowed is {allowed:g}"
    return Finding(ok, variant.file, detail)
