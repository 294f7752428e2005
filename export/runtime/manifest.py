"""The bundle's manifest: what a serving team's programs may rely on, and how it is checked before it is believed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.processor import abilities, meets
from rankdistill.export.runtime.untrusted.bounded_files import hash_file, parse_json, read_bytes
from rankdistill.export.runtime.untrusted.json_schema import Schema, Within, broken

FORMAT = 1  # raised when an older runtime could no longer read a bundle
MANIFEST, SUMS, SIGNATURE = "manifest.json", "SHA256SUMS", "signature.json"
GOLDEN, EVALUATION, CARD, PLOT = "golden.jsonl", "evaluation.json.gz", "README.md", "tradeoff.svg"
TOKENIZER, WEIGHTS = "tokenizer.json", "model.safetensors"
SHORTENER = "shortener.json"  # there where the student reads less than a whole item
GRAPHS, TRITON = "onnx", "triton"
EMBEDDER = "embedder/embedder.json"  # there where the bundle has a model of single texts
CASCADE, STAGES = "cascade.json", "stages"  # there where the student is one of several stages; the others' folder
SPLIT = "split"  # folder of a split student's halves, and what the manifest says of them
MOST_MANIFEST = 8 << 20  # bytes
FP32 = "fp32"

MOST_DOUBT = 400  # characters of a verdict in a log
MOST_TOLD = 5  # of what is wrong with a manifest
NOT_IN_NAMES = frozenset('\\:*?"<>|')  # what one system or another forbids in a file's name, or reads as something else


COUNT = Within(int, 0, 1 << 53)
NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
VARIANT_SCHEMA: Schema = {
    "name": NAME,
    "file": str,
    "precision": re.compile(r"fp32|int8|weight8"),
    "processors": [NAME],
    "batch": Within(int, 1, 4096),
    "batch_invariant": bool,
    "saturates": bool,
    "measured": [str],
}
SPLIT_SCHEMA: Schema = {
    "layers": Within(int, 1, 1000),
    "parts": Within(int, 2, 3),
    "width": Within(int, 1, 1 << 16),
    "graphs": {"*": {"lower": str, "upper": str}},
}
VERDICT_SCHEMA: Schema = {"status": re.compile(r"recommended|not_shown|not_recommended"), "sentence": str}
SCHEMA: Schema = {
    "format": int,
    "name": str,
    "key": re.compile(r"[0-9a-f]{16}"),
    "files": {"*": {"sha256": re.compile(r"[0-9a-f]{64}"), "bytes": COUNT}},
    "scores": {"scale": str, "activation": str, "higher_is_better": bool},
    "max_length": Within(int, 5, 1 << 16),
    "truncation": {"rule": str, "special_tokens": COUNT},
    "templates": {"query": str, "item": str, "pair": str},
    "variants": [VARIANT_SCHEMA],
    "threads": {"intra_op": int, "inter_op": int, "spinning": bool, "parallel": str, "measured_with": int},
    "batching": {"*": object},
    "golden": {"pairs": Within(int, 1, 1000), "tolerance": {"*": Within(float, 0, 1e6)}},
    "data": {
        "name": str, "fingerprint": str, "split": str, "queries": COUNT, "pairs": COUNT, "licence": (str, type(None))
    },
    "teacher": {"model": str, "licence": (str, type(None))},
    "quality": [object],
    "latency": {"*": object},
    "comparisons": [object],
    "warnings": [str],
    "versions": {"*": str},
    "host": {"*": object},
    "stages": {"*": str},
    "config": {"*": object},
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A graph of the bundle and where it is right to run it.

    Attributes:
        name: as in its file's name, "qint8_avx512_vnni"; "fp32" for the plain one.
        file: path inside the bundle.
        precision: "fp32", "int8" or "weight8".
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
        digest: sha256 of the file that was read, in hex; empty of a manifest that was made otherwise.
    """

    folder: Path
    content: Mapping[str, Any]
    variants: tuple[Variant, ...]
    digest: str = ""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check `manifest.json` of a bundle.

        Raises:
            BundleError: if it is missing, unsafe, of another format, or lacks something.
        """
        path = Path(folder) / MANIFEST
        try:
            there = path.is_file()
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}") from error
        if not there:
            raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}; `ranker bundle RUN` makes one")
        written = read_bytes(path, MOST_MANIFEST)
        content = parse_json(written, str(path))
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise BundleError(f"{path}: format {content.get('format')!r:.40}; this version reads format {FORMAT}")
        if problems := [*islice(broken(content, SCHEMA, ""), MOST_TOLD)]:
            raise BundleError(f"{path}: " + "; ".join(problems))
        variants = tuple(read_variant(fields) for fields in content["variants"])
        parts = chain(
            _contradictions(content, variants), _loose_parts(content), _verdict_parts(content),
            _split_parts(content, variants),
        )  # fmt: skip
        if problem := next(parts, None):
            raise BundleError(f"{path}: {problem}")
        return cls(Path(folder), content, variants, hashlib.sha256(written).hexdigest())

    @property
    def verdict(self) -> tuple[str, str] | None:
        """What the run that made it came to, status and sentence; None of a bundle from before there were verdicts."""
        told = self.content.get("verdict")
        return None if told is None else (str(told["status"]), str(told["sentence"]))

    @property
    def doubt(self) -> str | None:
        """Why the bundle should not be served as it is, in one line; None unless its verdict is "not recommended"."""
        if self.verdict is None or self.verdict[0] != "not_recommended":
            return None
        plain = " ".join(self.verdict[1].split())[:MOST_DOUBT]
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in plain)

    @property
    def max_length(self) -> int:
        """Most tokens of a pair, special tokens included."""
        return int(self.content["max_length"])

    def halves(self, variant: Variant) -> tuple[str, str] | None:
        """Return the lower and the upper graph of a variant, None of a student that is not split."""
        if SPLIT not in self.content:
            return None
        graphs = self.content[SPLIT]["graphs"][variant.name]
        return str(graphs["lower"]), str(graphs["upper"])

    def file(self, name: str) -> tuple[str, int]:
        """Return the sha256 and the size in bytes that a file must have."""
        entry = self.content["files"][name]
        return str(entry["sha256"]), int(entry["bytes"])

    def checked(self, name: str) -> Path:
        """Return a file's path, compared with the manifest: neither a damaged file nor another bundle's is ever used.

        Raises:
            BundleError: if it is not the file that the manifest tells of.
        """
        path = self.folder / name
        digest, size = self.file(name)
        try:
            same = path.stat().st_size == size and hash_file(path) == digest
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}; run: ranker verify {self.folder}") from error
        if not same:
            raise BundleError(f"{path} is not the file of its manifest; run: ranker verify {self.folder}")
        return path

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
    """Return whether a name is a plain relative path that stays in its folder and can be printed on any system."""
    plain = name.isprintable() and len(name) < 256 and NOT_IN_NAMES.isdisjoint(name)
    return plain and all(part and not part.endswith((".", " ")) for part in name.split("/"))


def _contradictions(content: Mapping[str, Any], variants: Sequence[Variant]) -> Iterator[str]:
    """Yield what is wrong with a manifest in which each value by itself is right."""
    files, tolerance = content["files"], content["golden"]["tolerance"]
    names = [variant.name for variant in variants]
    for name in [*files, *(variant.file for variant in variants)]:
        if not is_inside(name):
            yield f"{name!r:.80} is no path inside the bundle; refused"
    for name in [TOKENIZER, GOLDEN, *(variant.file for variant in variants)]:
        if name not in files:
            yield f"{name} is not among files"
    for variant in variants:
        if not variant.file.endswith(".onnx"):
            yield f"the variant {variant.name} is {variant.file}, no graph (.onnx)"
    if len(set(names)) < len(names):
        yield "two variants have one name"
    if not any(variant.name == FP32 and not variant.processors for variant in variants):
        yield f"no variant {FP32} for every processor; every bundle has one"
    if FP32 not in tolerance or tolerance.keys() - {*names, *(with_states(name) for name in names if SPLIT in content)}:
        yield f"golden.tolerance is of {', '.join(sorted(tolerance)):.80}; of {FP32}, and of variants alone, it must be"


def _loose_parts(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the name of a file that only some bundles have."""
    if content.get("embedder", EMBEDDER) != EMBEDDER or ("embedder" in content) != (EMBEDDER in content["files"]):
        yield f"embedder is {content.get('embedder')!r:.80}; {EMBEDDER} it must be, and among files, or neither"
    if content.get("cascade", CASCADE) != CASCADE or ("cascade" in content) != (CASCADE in content["files"]):
        yield f"cascade is {content.get('cascade')!r:.80}; {CASCADE} it must be, and among files, or neither"


def _verdict_parts(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the verdict, which older bundles do not have."""
    if "verdict" in content:
        yield from islice(broken(content["verdict"], VERDICT_SCHEMA, "verdict"), MOST_TOLD)


def with_states(variant: str) -> str:
    """Return what golden scores call a variant whose halves are run, with items' states between them."""
    return f"{variant}_states"


def _split_parts(content: Mapping[str, Any], variants: Sequence[Variant]) -> Iterator[str]:
    """Yield what is wrong with what a manifest says of a split student's halves."""
    if SPLIT not in content:
        return
    told = content[SPLIT]
    yield from islice(broken(told, SPLIT_SCHEMA, f"{SPLIT}."), MOST_TOLD)
    if told["graphs"].keys() != {variant.name for variant in variants}:
        yield f"{SPLIT}.graphs is of {', '.join(sorted(told['graphs'])):.80}; of every variant it must be"
    for name in (name for each in told["graphs"].values() for name in each.values()):
        if name not in content["files"] or not name.startswith(f"{SPLIT}/") or not name.endswith(".onnx"):
            yield f"{name!r:.80} is no graph in {SPLIT}/ among files"


def read_variant(fields: Mapping[str, Any]) -> Variant:
    """Return what an entry of `VARIANT_SCHEMA` says."""
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
