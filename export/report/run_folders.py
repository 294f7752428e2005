"""The folders of runs, as they were left: finished, failed, pruned, killed or damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankdistill.export.errors import UserError
from rankdistill.export.files import write_atomic
from rankdistill.export.report.tradeoff import FORMAT

RECORD, TRADEOFF, GATE, REPORT = "run.json", "tradeoff.json", "gate.json", "report.html"
FINISHED, FAILED, PRUNED, RUNNING = "finished", "failed", "pruned", "running"  # what a run says of itself
KILLED, DAMAGED = "killed", "damaged"  # what a reader finds
MEMBERS = "runs.json"  # of a sweep: which runs it is about, where they may lie in other sweeps' folders
UNREADABLE = "unreadable"  # a gate's verdict in a damaged file
STILL_RUNNING = f"{RECORD} still says running: the run was killed, or is at work"
SHAPE: Mapping[type, tuple[str, ...]] = {
    dict: ("host", "latency", "stages", "config"),
    str: ("dataset", "split", "fingerprint"),
    float: ("queries", "pairs", "confidence"),
}
NAMES = {dict: "object", str: "text", float: "number"}


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        folder: of the run.
        name: the folder's, a job's number in a sweep.
        experiment: name of its configuration, empty if it is not known.
        status: finished, failed, pruned, killed or damaged.
        error: why there is no result; None if it is finished.
        overrides: what its command line changed, as Hydra writes it ("student.layers=2").
        started: when, as ISO 8601, None if it is not known.
        seconds: that it took, None if it is not known.
        verdict: of the gate (pass, fail, inconclusive, unreadable), None if it was held to no budget.
        tradeoff: content of tradeoff.json, None unless it is finished.
    """

    folder: Path
    name: str
    experiment: str
    status: str
    error: str | None
    overrides: tuple[str, ...]
    started: str | None
    seconds: float | None
    verdict: str | None
    tradeoff: Mapping[str, Any] | None


def read(folder: Path) -> Run:
    """Read a run's folder; a result that cannot be used makes the run a damaged one.

    Raises:
        UserError: if the folder is not of a run, or what the run says of itself cannot be read.
    """
    path = folder / RECORD
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the folder of a run, or of a sweep")
    if not path.is_file():
        raise UserError(f"{folder} is no run: it has no {RECORD}; give runs/<experiment>/<time>, or a sweep's folder")
    record = read_object(path)
    status, overrides = record.get("status"), record.get("overrides", [])
    if status not in (FINISHED, FAILED, PRUNED, RUNNING):
        raise UserError(f"{path}: status is {status!r}, not finished, failed, pruned or running; run it again")
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise UserError(f"{path}: overrides is no list of texts; run it again")
    run = Run(
        folder=folder,
        name=folder.resolve().name,
        experiment=str(record.get("experiment", "")),
        status=KILLED if status == RUNNING else status,
        error=STILL_RUNNING if status == RUNNING else None,
        overrides=tuple(overrides),
        started=str(record["started"]) if record.get("started") else None,
        seconds=_number(record.get("seconds")),
        verdict=None,
        tradeoff=None,
    )
    if status in (FAILED, PRUNED):
        return replace(run, error=str(record.get("error") or f"{status}, no reason given"))
    return _with_result(run) if status == FINISHED else run


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run's."""
    return (folder / RECORD).is_file()


def job(folder: Path) -> Run:
    """Read a run's folder as `read` does; one that cannot be read is a damaged run."""
    try:
        return read(folder)
    except UserError as error:
        told = str(error).removeprefix(f"{folder}/")
        return Run(folder, folder.name, "", DAMAGED, told, (), None, None, None, None)


def jobs_of(sweep_folder: Path) -> list[Run]:
    """Read a sweep's jobs in the order of their numbers; a job that cannot be read is a damaged one.

    Folders without a run.json (a job that never began) are left out. A search that goes on has runs in the folders
    of its earlier sweeps, which `write_members` named.

    Raises:
        UserError: if there is no such folder, no job in it, or if what `write_members` wrote is damaged.
    """
    try:
        if (sweep_folder / MEMBERS).is_file():
            return [job(sweep_folder / path) for path in _members(sweep_folder / MEMBERS)]
        folders = [path for path in sweep_folder.iterdir() if path.name.isdecimal() and is_run(path)]
    except OSError as error:
        raise UserError(f"{sweep_folder} is no sweep: {error.strerror}; give the folder above the jobs") from error
    if not folders:
        raise UserError(
            f"{sweep_folder} is no sweep: no numbered folder in it has a {RECORD}; give runs/sweeps/<experiment>/<time>"
        )
    return [job(folder) for folder in sorted(folders, key=lambda path: (int(path.name), path.name))]


def _members(path: Path) -> list[str]:
    """Return what `write_members` wrote."""
    paths = read_object(path).get("runs")
    if not isinstance(paths, list) or not all(isinstance(each, str) for each in paths):
        raise UserError(f"{path}: runs is no list of folders; delete it to have the numbered jobs beside it")
    return paths


def write_members(sweep_folder: Path, runs: Sequence[Path]) -> None:
    """Name the runs that a sweep is about, by paths from its folder."""
    paths = [os.path.relpath(path.resolve(), sweep_folder.resolve()) for path in runs]
    write_atomic(sweep_folder / MEMBERS, json.dumps({"runs": paths}, indent=2, ensure_ascii=False) + "\n")


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is a sweep's."""
    if (folder / MEMBERS).is_file():
        return True
    return not is_run(folder) and folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())


def _with_result(run: Run) -> Run:
    """Add a finished run's result; if that cannot be used, say why."""
    try:
        tradeoff = read_object(run.folder / TRADEOFF)
        _check(tradeoff, run.folder / TRADEOFF)
    except UserError as error:
        return replace(run, status=DAMAGED, error=str(error).removeprefix(f"{run.folder}/"))
    return replace(run, tradeoff=tradeoff, verdict=_verdict(run.folder / GATE))


def _check(tradeoff: Mapping[str, Any], path: Path) -> None:
    """Look whether a trade-off has the shape that a comparison relies on.

    Raises:
        UserError: naming what has not.
    """
    if tradeoff.get("format") != FORMAT:
        raise UserError(f"{path}: format {tradeoff.get('format')!r}, this version reads {FORMAT}; run it again")
    rows = tradeoff.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "model" in row for row in rows):
        raise UserError(f"{path}: rows is no list of models; run it again")
    for kind, names in SHAPE.items():
        for name in names:
            value = tradeoff.get(name)
            if value is not None and not isinstance(value, (int, float) if kind is float else kind):
                raise UserError(f"{path}: {name} is no {NAMES[kind]}; run it again")
    confidence = tradeoff.get("confidence")
    if confidence is not None and not 0 < confidence < 1:
        raise UserError(f"{path}: confidence is {confidence}, not between 0 and 1; run it again")


def _verdict(path: Path) -> str | None:
    """Return a gate's verdict; a damaged one takes nothing from what was measured."""
    if not path.exists():
        return None
    try:
        return str(read_object(path)["verdict"])
    except (UserError, KeyError):
        return UNREADABLE


def read_object(path: Path) -> dict[str, Any]:
    """Read a file of a run with a JSON object.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run it again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no UTF-8 text; run it again") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({error}); run it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: no JSON object; run it again")
    return content


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
