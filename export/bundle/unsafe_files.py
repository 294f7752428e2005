"""What is refused before anything of a bundle is believed: links, code, names and sizes that do harm by being read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rankdistill.export.bundle.dockerfile import DOCKERFILE
from rankdistill.export.bundle.finding import Finding, refusal
from rankdistill.export.bundle.known_fields import code_problems
from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.manifest import SUMS, WEIGHTS, is_inside
from rankdistill.export.runtime.untrusted.bounded_files import MOST_BYTES, parse_json, read_json

KINDS = (".json", ".jsonl", ".gz", ".md", ".svg", ".txt", ".onnx", ".safetensors", ".pbtxt")
PICKLES = (".pkl", ".pickle", ".bin", ".pt", ".pth", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".msgpack", ".py")
SAFETENSORS = Path(WEIGHTS).suffix
MOST_FILES = 1000
MOST_TOTAL = 64 << 30  # bytes; a large BERT's bundle has 6 * 2**30


def unsafe_files(folder: Path) -> Iterator[Finding]:
    """Yield what must not be read at all: links, devices, code, names that leave the folder, too much."""
    number, total = 0, 0
    try:
        for number, (name, status) in enumerate(entries(folder), 1):
            total += status.st_size
            if number > MOST_FILES:
                yield Finding(False, name, f"is one of more than {MOST_FILES} files; refused")
                return
            if total > MOST_TOTAL:
                yield Finding(False, name, f"makes more than {MOST_TOTAL} bytes; refused")
                return
            if wrong := _unsafe(folder / name, name, status.st_mode):
                yield Finding(False, name, wrong)
    except OSError as error:
        name = os.path.relpath(error.filename, folder) if error.filename else "."
        yield Finding(False, name, f"cannot be read: {error.strerror}")


def entries(folder: Path, inside: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield name and status of everything in a folder, sorted; links are not followed, bad names not entered."""
    with os.scandir(folder / inside) as found:
        names = sorted(entry.name for entry in islice(found, MOST_FILES + 1))
    for each in names:
        name = f"{inside}/{each}" if inside else each
        status = (folder / name).lstat()
        yield name, status
        if stat.S_ISDIR(status.st_mode) and is_inside(name):
            yield from entries(folder, name)


def _unsafe(path: Path, name: str, mode: int) -> str | None:
    """Return what is wrong with a file, None if it may be read."""
    if stat.S_ISLNK(mode):
        return "a link; refused"
    if not is_inside(name):
        return "a name that is not safe on every system; refused"
    if stat.S_ISDIR(mode):
        return None
    if not stat.S_ISREG(mode):
        return "neither file nor folder; refused"
    try:
        is_code = path.suffix.lower() in PICKLES or _is_pickle(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if is_code:
        return "a kind of file that can run code when it is read; refused"
    if path.suffix not in KINDS and name not in (SUMS, DOCKERFILE):
        return "no kind of file that a bundle holds; refused"
    return None


def _is_pickle(path: Path) -> bool:
    """Return whether a file begins as a pickle or a zip archive, which PyTorch reads as one."""
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix == SAFETENSORS and start[8:] == b"{":  # its length may look like a pickle's first two bytes
        return False
    return (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")) or start[:2] == b"PK"


def unsafe_content(folder: Path, name: str) -> Finding | None:
    """Return what is wrong with a JSON file or with weights, None if nothing is or it is neither."""
    path = folder / name
    try:
        if path.suffix == SAFETENSORS:
            _check_header(path)
        elif path.suffix == ".json" and (problem := next(code_problems(path.name, read_json(path)), None)):
            return Finding(False, name, f"{problem}; refused")
    except (BundleError, OSError) as error:
        return refusal(folder, name, error)
    return None


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        content = file.read(min(length, MOST_BYTES))
    if length != len(content) or not isinstance(parse_json(content, str(path)), dict):
        raise BundleError(f"{path}: no header of safetensors")
