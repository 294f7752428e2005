"""Every combination of the values given: Hydra's own grid, whose jobs all run and whose end is one page over them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from rankdistill.export.commands.output import printing_at_best
from rankdistill.export.extras import require
from rankdistill.options import Track
from rankdistill.sweep.launcher import PLUGINS, SweepFailed, told
from rankdistill.tracking import recorder

log = logging.getLogger(__name__)


class GridSweeper(Sweeper):
    """Runs every combination; a failed job stops no other, and the command then ends with exit code 1.

    Args:
        params: overrides, as on the command line.
    """

    __module__ = PLUGINS

    def __init__(self, params: Mapping[str, str] | None) -> None:
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives, and make the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        """Run the sweep that the command line's overrides stand for."""
        with told():
            return self._sweep(arguments)

    def _sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        require("sweep", "plotly")
        assert self.hydra_context is not None and self.config is not None and self.launcher is not None  # noqa: PT018
        # here: Hydra's scan for plugins loads the module anew
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        (combinations,) = BasicSweeper.split_arguments(parser.parse_overrides(given), None)
        self.validate_batch_is_legal(combinations)
        folder = begin(self.config)
        jobs: Sequence[JobReturn] = self.launcher.launch(combinations, initial_job_idx=0)
        end(folder, jobs, [place(job) for job in jobs], self.config, "the same command runs again what is missing")
        return jobs


def begin(config: DictConfig) -> Path:
    """Make a sweep's folder, with the configuration that it began with, and return it."""
    folder = Path(str(config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "multirun.yaml")
    return folder


def end(folder: Path, jobs: Sequence[JobReturn], runs: Sequence[Path], config: DictConfig, then: str) -> None:
    """Write a sweep's table and page, print the table, and tell of failed jobs.

    Args:
        folder: of the sweep.
        jobs: that this process had run.
        runs: folders of all runs that the table is about.
        config: of the sweep.
        then: what the same command does after a failure.

    Raises:
        SweepFailed: if a job failed.
    """
    from rankdistill.export.compare import sweep_files as sweep_
    from rankdistill.export.compare.comparison_table import print_comparison

    comparison = sweep_.summarise(folder, runs)
    with printing_at_best(f"{folder / 'sweep.html'} has it"):
        print_comparison(comparison, Console())
    log.info("%s", folder / "sweep.html")
    recorder.after_sweep(folder, cast("Track", OmegaConf.to_object(config.track)))
    failed = [job for job in jobs if job.status != JobStatus.COMPLETED]
    if failed:
        lines = [f"{len(failed)} of {len(jobs)} jobs failed; {then}:"]
        raise SweepFailed("\n".join([*lines, *(f"  {place(job)}: {error(job)}" for job in failed)]))


def place(job: JobReturn) -> Path:
    """Return the folder of a job's run."""
    assert job.hydra_cfg is not None
    return Path(job.hydra_cfg.hydra.runtime.output_dir)


def error(job: JobReturn) -> str:
    """Return why a job failed, from its run.json, else as its process told."""
    try:
        return str(json.loads((place(job) / "run.json").read_text(encoding="utf-8"))["error"])
    except (OSError, ValueError, KeyError):
        return str(_told(job))


def _told(job: JobReturn) -> Any:
    return job._return_value  # the property raises it
