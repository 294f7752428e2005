"""What was measured query by query, so that another model can be compared with this one in pairs."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.errors import UserError
from rankdistill.export.files import write_atomic
from rankdistill.export.measure.quality import agreement, ranking_metrics
from rankdistill.export.report.tradeoff import Candidate, finite
from rankdistill.export.runtime.untrusted.json_schema import broken

DIGITS = 6
TEXT = (str, type(None))
SHAPE = {  # what is relied on; the lists' numbers are not looked at one by one
    "queries": list,
    "models": [{"model": str, "engine": TEXT, "precision": TEXT, "quality": {"*": list}}],
}


def write(
    path: Path,
    candidates: Sequence[Candidate],
    grades: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    relevant: int,
    queries: Sequence[str],
    timed: Sequence[str],
    about: Mapping[str, Any],
) -> None:
    """Write a compressed JSON file; the same content gives the same bytes.

    Args:
        path: of the file.
        candidates: the models of the table, in its order; the first is the teacher that agreement is measured with.
        grades: int32 [pairs].
        offsets: int64 [queries + 1].
        relevant: least grade that is relevant in MRR and MAP.
        queries: ids of the queries that quality was measured on.
        timed: ids of the queries that were timed.
        about: what else identifies the measurement (data set, fingerprint, split).
    """
    models = []
    for candidate in candidates:
        metrics = ranking_metrics(candidate.scores, grades, offsets, relevant)
        metrics |= agreement(candidate.scores, candidates[0].scores, offsets)
        row: dict[str, Any] = {
            "model": candidate.model,
            "engine": candidate.engine,
            "precision": candidate.precision,
            "quality": {name: values.round(DIGITS).tolist() for name, values in metrics.items()},
        }
        if candidate.latency is not None:
            row["wall_ms"], row["cpu_ms"] = candidate.latency.wall_ms.tolist(), candidate.latency.cpu_ms.tolist()
        models.append(row)
    rewrite(path, {**about, "queries": list(queries), "timed_queries": list(timed), "models": models})


def rewrite(path: Path, content: Mapping[str, Any]) -> None:
    """Write what `read` returns; the same content gives the same bytes."""
    text = json.dumps(finite(content), ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, gzip.compress(text.encode(), compresslevel=9, mtime=0))


def read(path: Path) -> dict[str, Any]:
    """Return what `write` stored; a metric that a query does not have is None.

    Raises:
        UserError: if it is missing, damaged, or of another shape.
    """
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); measure anew") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if problem := next(broken(content, SHAPE, ""), None):
        raise UserError(f"{path} is damaged ({problem}); measure anew")
    return dict(content)
