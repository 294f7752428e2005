"""Embedding a file of texts: in parts that are whole or not there, so that a killed run goes on, joined in the end."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.batch.text_file import Row, read_rows
from rankdistill.export.batch.vector_file import check_target, files_of, write_parts
from rankdistill.export.errors import UserError
from rankdistill.export.files import write_atomic
from rankdistill.export.runtime.embedder import Embedder

PLAN, PARTS = "plan.json", ".parts"  # of a run; end of the name of its folder beside the output
SAMPLE = 1 << 20  # bytes at either end of the input that tell it from another


@dataclass(frozen=True)
class Job:
    """What is embedded, and how.

    Attributes:
        source: file of texts.
        target: file of vectors.
        text_fields: columns whose texts are joined.
        id_field: column of the id; None for the row's number.
        dimensions: that are kept; None for all.
        dtype: of `rankdistill.export.runtime.vectors.DTYPES`.
        part: rows of a part: what a kill loses at most, and what is in memory.
    """

    source: Path
    target: Path
    text_fields: tuple[str, ...]
    id_field: str | None
    dimensions: int | None
    dtype: str
    part: int


def embed_file(embedder: Embedder, job: Job, progress: Callable[[int], None]) -> tuple[int, int]:
    """Embed a file's texts.

    Args:
        embedder: that makes the vectors.
        job: what and how.
        progress: is told of every text that is done, also by an earlier run.

    Returns:
        How many rows there are, and how many of them an earlier run that was killed had made.

    Raises:
        UserError: if the input cannot be read, or the output not be written.
    """
    check_target(job.target)
    empty = embedder.embed([], job.dimensions, job.dtype)  # refuses what cannot be before a file is touched
    work = job.target.with_name(f".{job.target.name}{PARTS}")
    try:
        _begin(work, _plan(embedder, job))
        rows = made = 0
        texts = read_rows(job.source, job.text_fields, job.id_field)
        for number, batch in enumerate(_batches(texts, job.part)):
            path = work / f"{number:09d}.npz"
            if path.is_file():
                made += len(batch)
            else:
                vectors = embedder.embed([text for _, text in batch], job.dimensions, job.dtype)
                _write_part(path, [each for each, _ in batch], vectors)
            rows += len(batch)
            progress(len(batch))
        _join(work, job.target, rows, empty)
        shutil.rmtree(work)
    except OSError as error:
        raise UserError(f"{job.target} cannot be written: {error.strerror or error}") from error
    return rows, made


def _plan(embedder: Embedder, job: Job) -> dict[str, Any]:
    """Return what parts are of; those of another plan are of no use."""
    try:
        status = job.source.stat()
        with job.source.open("rb") as file:
            digest = hashlib.sha256(file.read(SAMPLE))
            file.seek(max(0, status.st_size - SAMPLE))
            digest.update(file.read(SAMPLE))
    except OSError as error:
        raise UserError(f"{job.source} cannot be read: {error.strerror}") from error
    asked = {name: value for name, value in asdict(job).items() if name not in ("source", "target")}
    return {
        **asked, "text_fields": list(job.text_fields), "model": embedder.key, "variant": embedder.variant,
        "bytes": status.st_size, "modified_ns": status.st_mtime_ns, "changed_ns": status.st_ctime_ns,
        "sha256_of_ends": digest.hexdigest(),
    }  # fmt: skip


def _begin(work: Path, plan: dict[str, Any]) -> None:
    """Leave a folder with this plan, and of its parts those that an earlier run of the same plan made."""
    path = work / PLAN
    try:
        same = json.loads(path.read_text(encoding="utf-8")) == plan
    except (FileNotFoundError, ValueError):
        same = False
    if not same:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        write_atomic(path, json.dumps(plan, indent=2) + "\n")


def _batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while batch := [*islice(rows, size)]:
        yield batch


def _write_part(path: Path, ids: list[str], vectors: npt.NDArray[Any]) -> None:
    half = path.with_suffix(".half")
    with half.open("wb") as file:
        np.savez(file, vectors=vectors, ids=np.frombuffer(json.dumps(ids).encode(), dtype=np.uint8))
    half.replace(path)


def _join(work: Path, target: Path, rows: int, empty: npt.NDArray[Any]) -> None:
    """Write the output beside its name and rename it."""

    def parts() -> Iterator[tuple[list[str], npt.NDArray[Any]]]:
        for path in sorted(work.glob("*.npz")):
            with np.load(path) as part:
                yield json.loads(part["ids"].tobytes()), part["vectors"]

    halves = [work / each.name for each in files_of(target)]
    write_parts(parts(), rows, empty.shape[1], empty.dtype, halves)
    for half, final in zip(halves, files_of(target), strict=True):
        half.replace(final)
