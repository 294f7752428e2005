"""The bundle's manifest: what a serving team's programs may rely on, and how it is checked before it is believed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import BundleError
from export.runtime.processor import abilities, meets
from export.runtime.untrusted import read_json

FORMAT = 1  # raised when an older runtime could no longer read a bundle
MANIFEST, SUMS, SIGNATURE = "manifest.json", "SHA256SUMS", "signature.json"
GOLDEN, EVALUATION, CARD, PLOT = "golden.jsonl", "evaluation.json.gz", "README.md", "tradeoff.svg"
TOKENIZER, WEIGHTS = "tokenizer.json", "model.safetensors"
GRAPHS, TRITON = "onnx", "triton"
MOST_MANIFEST = 8 << 20  # bytes
FP32 = "fp32"

# What a manifest must hold: a type, a tuple of types, or an object of schemas; a list holds the schema of its members.
Schema = Any
VARIANT_SCHEMA: Schema = {
    "name": str,
    "file": str,
    "precision": str,
    "processors": [str],
    "batch": int,
    "batch_invariant": bool,
    "saturates": bool,
    "measured": [str],
}
SCHEMA: Schema = {
    "format": int,
    "name": str,
    "key": str,
    "files": {"*": {"sha256": str, "bytes": int}},
    "scores": {"scale": str, "activation": str, "higher_is_better": bool},
    "max_length": int,
    "truncation": {"rule": str, "special_tokens": int},
    "templates": {"query": str, "item": str, "pair": str},
    "variants": [VARIANT_SCHEMA],
    "threads": {"intra_op": int, "inter_op": int, "spinning": bool, "parallel": str, "measured_with": int},
    "batching": {"*": object},
    "golden": {"pairs": int, "tolerance": {"*": float}},
    "data": {"name": str, "fingerprint": str, "split": str, "queries": int, "pairs": int, "licence": (str, type(None))},
    "teacher": {"model": str, "licence": (str, type(None))},
    "quality": [object],
    "latency": {"*": object},
    "comparisons": [object],
    "warnings": [str],
    "versions": {"*": str},
    "host": {"*": object},
    "stages": {"*": str},
    "config": {"*": object},
}


@dataclass(frozen=True)
class Variant:
    """A graph of the bundle and where it is right to run it.

    Attributes:
        name: as in its file's name, "qint8_avx512_vnni"; "fp32" for the plain one.
        file: path inside the bundle.
        precision: "fp32" or "int8".
        processors: architecture and flags, one of which a processor must have; empty for all.
        batch: most pairs of equal length that share a call of the engine.
        batch_invariant: whether a pair's score was bitwise the same alone and among others.
        saturates: whether its weights are too large for the 16-bit sums of processors without VNNI.
        measured: what was measured of it: "quality", "latency", "parity".
    """

    name: str
    file: str
    precision: str
    processors: tuple[str, ...]
    batch: int
    batch_invariant: bool
    saturates: bool
    measured: tuple[str, ...]

    def suits(self, has: Iterable[str]) -> bool:
        """Return whether a processor that has these abilities should run it."""
        return meets(self.processors, has)


@dataclass(frozen=True)
class Manifest:
    """A manifest that has the right shape.

    Attributes:
        folder: of the bundle.
        content: everything it says.
        variants: the graphs, the one to prefer first.
    """

    folder: Path
    content: Mapping[str, Any]
    variants: tuple[Variant, ...]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check `manifest.json` of a bundle.

        Raises:
            BundleError: if it is missing, unsafe, of another format, or lacks something.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}; `ranker bundle RUN` makes one")
        content = read_json(path, MOST_MANIFEST)
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise BundleError(f"{path}: format {content.get('format')!r}; this version reads format {FORMAT}")
        if problems := [*broken(content, SCHEMA, "")]:
            raise BundleError(f"{path}: " + "; ".join(problems[:5]))
        variants = tuple(_variant(fields) for fields in content["variants"])
        unsafe = [name for name in [*content["files"], *(v.file for v in variants)] if not is_inside(name)]
        if unsafe:
            raise BundleError(f"{path}: {unsafe[0]!r} is no path inside the bundle; refused")
        if not any(variant.name == FP32 and not variant.processors for variant in variants):
            raise BundleError(f"{path}: no variant {FP32} for every processor; every bundle has one")
        if unlisted := [v.file for v in variants if v.file not in content["files"]]:
            raise BundleError(f"{path}: the variant's file {unlisted[0]} is not among files")
        return cls(Path(folder), content, variants)

    @property
    def max_length(self) -> int:
        """Most tokens of a pair, special tokens included."""
        return int(self.content["max_length"])

    def file(self, name: str) -> tuple[str, int]:
        """Return the sha256 and the size in bytes that a file must have."""
        entry = self.content["files"][name]
        return str(entry["sha256"]), int(entry["bytes"])

    def variant(self, name: str | None = None, has: Iterable[str] | None = None) -> Variant:
        """Return a variant by name, or the first that suits the processor.

        Args:
            name: of the variant; None to choose.
            has: abilities of the processor; None for this machine's.

        Raises:
            BundleError: if there is no variant of this name.
        """
        if name is None:
            return pick(self.variants, abilities() if has is None else has)
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise BundleError(f"{self.folder} has no variant {name}; it has {', '.join(v.name for v in self.variants)}")


def pick(variants: Sequence[Variant], has: Iterable[str]) -> Variant:
    """Return the first variant that suits a processor; the last in a bundle suits all."""
    abilities_ = frozenset(has)
    return next(variant for variant in variants if variant.suits(abilities_))


def is_inside(name: str) -> bool:
    """Return whether a name is a plain relative path that cannot leave its folder on any system."""
    parts = name.split("/")
    bad = any(part in ("", ".", "..") for part in parts)
    return not bad and not any(character in name for character in '\\:\0\n\r"') and len(name) < 256


def broken(value: Any, schema: Schema, where: str) -> Iterator[str]:
    """Yield a line for each place where a JSON value has not the shape of a schema."""
    if isinstance(schema, dict):
        yield from _broken_object(value, schema, where)
    elif isinstance(schema, list):
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for number, child in enumerate(value):
            yield from broken(child, schema[0], f"{where}[{number}]")
    elif not _is(value, schema):
        yield f"{where} is {value!r:.40}"


def _broken_object(value: Any, schema: Mapping[str, Schema], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where or 'the manifest'} is no object"
        return
    for name, inner in schema.items():
        if name == "*":
            for key, child in value.items():
                yield from broken(child, inner, f"{where}.{key}".lstrip("."))
        elif name not in value:
            yield f"{f'{where}.{name}'.lstrip('.')} is missing"
        else:
            yield from broken(value[name], inner, f"{where}.{name}".lstrip("."))


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    if kind is object:
        return True
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int) and float in kinds:
        return True
    return isinstance(value, kinds)


def _variant(fields: Mapping[str, Any]) -> Variant:
    return Variant(
        name=fields["name"],
        file=fields["file"],
        precision=fields["precision"],
        processors=tuple(fields["processors"]),
        batch=fields["batch"],
        batch_invariant=fields["batch_invariant"],
        saturates=fields["saturates"],
        measured=tuple(fields["measured"]),
    )
