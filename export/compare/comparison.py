"""Runs side by side: what `ranker compare` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rankdistill.export.compare import comparison_rows as comparison_
from rankdistill.export.compare.comparison_rows import Comparison
from rankdistill.export.errors import UserError
from rankdistill.export.report.run_folders import Run, is_run, is_sweep, jobs_of, read

if TYPE_CHECKING:
    from rich.console import Console


def compare(folders: Sequence[Path], reference: Path | None = None) -> Comparison:
    """Compare runs; the reports' paths are relative to the working folder.

    Args:
        folders: of runs, or of sweeps, which stand for their jobs; one that is given twice counts once.
        reference: folder of the run that differences are with, added if it is not among them; without it, the first
            with a result.

    Raises:
        UserError: if a folder is neither, if there is but one run, or the reference has no result.
    """
    runs = _distinct([run for folder in folders for run in _runs(folder)])
    if reference is not None:
        runs = _distinct([*runs, read(reference)])
    if len(runs) < 2 and all(is_run(folder) for folder in folders):
        raise UserError(f"{folders[0]} is the only run; give two or more, or a sweep's folder")
    place = None
    if reference is not None:
        place = next(i for i, run in enumerate(runs) if run.folder.resolve() == reference.resolve())
    return comparison_.compare(runs, Path(), place)


def write(
    comparison: Comparison, *, csv_file: Path | None = None, html: Path | None = None, json_file: Path | None = None
) -> None:
    """Write the files that are asked for; the reports' paths in each are relative to its folder.

    Args:
        comparison: as `compare` returned it.
        csv_file: for a table, a row a run.
        html: for a page.
        json_file: for the comparison as it is.

    Raises:
        UserError: if one cannot be written, or plotly is not installed.
    """
    from rankdistill.export.compare.comparison_page import write_csv, write_json, write_page

    for path, write_to in ((csv_file, write_csv), (json_file, write_json), (html, write_page)):
        if path is not None:
            try:
                write_to(comparison_.moved(comparison, Path(), path.parent), path)
            except OSError as error:
                raise UserError(f"{path} cannot be written: {error.strerror}") from error


def show(comparison: Comparison, console: Console) -> None:
    """Print the table, and the differences to the reference."""
    from rankdistill.export.compare.comparison_table import print_comparison, print_differences

    print_comparison(comparison, console)
    print_differences(comparison, console)


def _runs(folder: Path) -> list[Run]:
    """Return a folder's run, or the jobs of the sweep that it is."""
    try:
        if is_sweep(folder):
            return jobs_of(folder)
        return [read(folder)]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error


def _distinct(runs: Sequence[Run]) -> list[Run]:
    found: dict[Path, Run] = {}
    for run in runs:
        found.setdefault(run.folder.resolve(), run)
    return list(found.values())
