"""Vectors into files, part by part: .npy with the ids beside it, Parquet, Arrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.errors import UserError

SUFFIXES = (".npy", ".parquet", ".arrow")
IDS = ".ids.jsonl"  # ends the name of the file with the ids, one JSON string a line, beside vectors in .npy

Part = tuple[Sequence[str], npt.NDArray[Any]]  # ids, vectors [rows, values]


def check_target(path: Path) -> None:
    """Ask whether vectors can be written to a file of this name, before anything is embedded.

    Raises:
        UserError: if they cannot.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: written are {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    if path.suffix != ".npy":
        from rankdistill.export.extras import require

        require("parquet", "pyarrow")


def files_of(path: Path) -> list[Path]:
    """Return the files that stand for the vectors at `path`, the one that a reader opens first last."""
    return [path.with_name(path.name + IDS), path] if path.suffix == ".npy" else [path]


def write_parts(parts: Iterator[Part], rows: int, values: int, dtype: npt.DTypeLike, targets: Sequence[Path]) -> None:
    """Join parts into the files of `files_of`, one part in memory at a time.

    Args:
        parts: in their order.
        rows: of all of them.
        values: of a vector.
        dtype: of a value.
        targets: what to write, in the order of `files_of`; the last one's suffix says how.
    """
    if targets[-1].suffix == ".npy":
        _write_npy(parts, rows, values, dtype, targets)
    else:
        _write_columns(parts, values, dtype, targets[-1])


def _write_npy(parts: Iterator[Part], rows: int, values: int, dtype: npt.DTypeLike, targets: Sequence[Path]) -> None:
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows, values)}
    with targets[0].open("w", encoding="utf-8") as names, targets[1].open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for ids, vectors in parts:
            file.write(np.ascontiguousarray(vectors).tobytes())
            names.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in ids)


def _write_columns(parts: Iterator[Part], values: int, dtype: npt.DTypeLike, target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.list_(pa.from_numpy_dtype(dtype), values)
    schema = pa.schema([("id", pa.string()), ("vector", kind)])
    is_parquet = target.suffix == ".parquet"
    with pq.ParquetWriter(target, schema) if is_parquet else pa.ipc.new_file(str(target), schema) as writer:
        for ids, vectors in parts:
            flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, type=kind)
            writer.write_batch(pa.record_batch([pa.array(ids, pa.string()), column], schema=schema))
