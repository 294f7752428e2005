"""What a sweep found: a table and a page over its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rankdistill.export.compare.comparison_page import write_csv, write_page
from rankdistill.export.compare.comparison_rows import Comparison, compare
from rankdistill.export.report.run_folders import is_run, jobs_of, write_members

TABLE, PAGE = "sweep.csv", "sweep.html"


def summarise(sweep_folder: Path, runs: Sequence[Path] | None = None) -> Comparison:
    """Compare a sweep's jobs; write sweep.csv and sweep.html into its folder.

    Args:
        sweep_folder: of the sweep.
        runs: folders of the runs it is about, in order; without it, of the numbered jobs in the sweep's folder. One
            without a run.json is left out.

    Returns:
        See `comparison.compare`.

    Raises:
        UserError: if the folder is no sweep's, or plotly is not installed (the table is written before).
    """
    if runs is not None:
        write_members(sweep_folder, [folder for folder in runs if is_run(folder)])
    found = jobs_of(sweep_folder)
    comparison = compare(found, sweep_folder)
    write_csv(comparison, sweep_folder / TABLE)
    write_page(comparison, sweep_folder / PAGE)
    return comparison
