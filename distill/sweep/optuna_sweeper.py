"""A search: Optuna chooses the overrides of the next runs by what earlier ones gave."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rankdistill.errors import ConfigError
from rankdistill.export.extras import require
from rankdistill.export.files import write_atomic
from rankdistill.export.report.tradeoff_table import headline
from rankdistill.options.from_hydra import at_home
from rankdistill.sweep.grid_sweeper import begin, end, place
from rankdistill.sweep.launcher import PLUGINS, quoted, told
from rankdistill.sweep.search_space import Space
from rankdistill.training.median_stopping import Curve

if TYPE_CHECKING:
    from optuna.trial import Trial

    from rankdistill.sweep.optuna_study import Study

log = logging.getLogger(__name__)

FIELDS = (
    "ndcg@10", "mrr@10", "map", "pair_accuracy", "tau", "rbo", "overlap@10", "retention", "p50_ms", "p95_ms", "p99_ms",
    "pairs_per_s", "cpu_ms_per_query", "speedup", "speedup_wall", "size_mb", "params", "peak_rss_mb",
)  # fmt: skip
LEAST_POPULATION, GENERATIONS = 4, 5  # of nsga2: trials of a generation at least, generations of a search
# test is for reporting: a search that saw it would have used it up; and dozens of bundles would fill a disk
IN_A_SEARCH = {"measure.split": "dev", "bundle": "false"}


class OptunaSweeper(Sweeper):
    """Searches for the front of several objectives.

    Args:
        n_trials: that have a result or were given up, of the whole study, when the search ends.
        n_jobs: trials asked for at once.
        sampler: tpe or nsga2.
        seed: of the sampler.
        study: its name; the same name goes on with it.
        storage: a journal file or a database's URL.
        objectives: field of the table's last student row -> maximize or minimize.
        prune: `least` rivals and `margin` of nDCG@10, see `training.median_stopping`; without it nothing is given up.
        params: overrides, as on the command line.
    """

    __module__ = PLUGINS

    def __init__(
        self, n_trials: int, n_jobs: int, sampler: str, seed: int | None, study: str, storage: str,
        objectives: Mapping[str, str], prune: Mapping[str, float] | None, params: Mapping[str, str] | None,
    ) -> None:  # fmt: skip
        self.n_trials, self.n_jobs, self.sampler, self.seed = n_trials, n_jobs, sampler, seed
        self.name, self.storage, self.objectives = study, storage, dict(objectives)
        self.prune, self.params = prune, dict(params or {})
        self._without = 0  # trials that finished without a value of each objective

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives, and make the launcher."""
        self._context, self._config = hydra_context, config
        self._launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Search the space that the command line's overrides stand for."""
        with told():
            return self._search(arguments)

    def _search(self, arguments: list[str]) -> list[JobReturn]:
        require("sweep", "optuna", "plotly")
        from rankdistill.sweep.optuna_study import Study, check_options

        problems = check_options(self.sampler, self.objectives, FIELDS)
        numbers = {"n_trials": self.n_trials, "n_jobs": self.n_jobs}
        if self.prune is not None:
            numbers["prune.least"] = int(self.prune["least"])
        problems += [
            f"hydra.sweeper.{name}={value}: allowed is a number >= 1" for name, value in numbers.items() if value < 1
        ]
        if problems:
            raise ConfigError("\n".join(problems))
        space = self._space(arguments)
        population = max(LEAST_POPULATION, self.n_trials // GENERATIONS)
        study = Study(self.name, self.storage, self.objectives, self.sampler, self.seed, space, population)
        if adopted := study.adopt_abandoned():
            log.info("trials of a killed process that are done again: %d", adopted)
        log.info("study %s: trials with a result or given up: %d of %d", self.name, study.ended(), self.n_trials)
        folder = begin(self._config)
        jobs: list[JobReturn] = []
        while wanted := self._wanted(study, jobs):
            jobs += self._batch(study, space, min(self.n_jobs, wanted), len(jobs))
        if not jobs:
            log.info("nothing to run; hydra.sweeper.n_trials=... asks for more")
        end(folder, jobs, study.folders(), self._config, "the same command chooses others until n_trials have a result")
        return jobs

    def _space(self, arguments: Sequence[str]) -> Space:
        given = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        keys = {each.lstrip("+").partition("=")[0] for each in given}
        given += [f"{key}={value}" for key, value in IN_A_SEARCH.items() if key not in keys]
        loader = self._context.config_loader
        space = Space.of(OverridesParser.create(config_loader=loader).parse_overrides(given))
        for overrides in space.samples():  # what cannot be composed is told now, not when a trial chooses it
            loader.load_sweep_config(self._config, overrides)
        return space

    def _wanted(self, study: Study, jobs: Sequence[JobReturn]) -> int:
        """Return how many trials are still to be begun; those of this process that failed count, so that it ends."""
        failed = sum(job.status != JobStatus.COMPLETED for job in jobs)
        return max(0, self.n_trials - study.ended() - study.under_way() - failed - self._without)

    def _batch(self, study: Study, space: Space, number: int, first: int) -> Sequence[JobReturn]:
        """Ask, launch and tell."""
        trials = [study.ask() for _ in range(number)]
        more = self._rivals(study)
        overrides = [[*space.overrides(trial.params), *more, *self._place(trial)] for trial in trials]
        numbers = ", ".join(str(trial.number) for trial in trials)
        log.info("study %s: trial %s (%d of %d are done)", self.name, numbers, study.ended(), self.n_trials)
        jobs: Sequence[JobReturn] = self._launcher.launch(overrides, initial_job_idx=first)
        for trial, job in zip(trials, jobs, strict=True):
            self._tell(study, trial, place(job))
        return jobs

    def _place(self, trial: Trial) -> list[str]:
        """Name a run's folder after its trial, so that a study that goes on in the same folder overwrites nothing."""
        given = any(each.lstrip("+").startswith("hydra.sweep.subdir=") for each in self._config.hydra.overrides.hydra)
        return [] if given else [f"hydra.sweep.subdir={trial.number}"]

    def _rivals(self, study: Study) -> list[str]:
        if self.prune is None:
            return []
        path = Path(at_home(str(self._config.runs)), "sweeps", f"{self.name}.rivals.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        rivals = study.rivals(int(self.prune["least"]), float(self.prune["margin"]))
        write_atomic(path, json.dumps(rivals.as_json()) + "\n")
        return [f"rivals={quoted(path)}"]  # one name for all trials: it is no option that varies

    def _tell(self, study: Study, trial: Trial, folder: Path) -> None:
        record = _read(folder / "run.json")
        tradeoff = _read(folder / "tradeoff.json") if record.get("status") == "finished" else {}
        row = headline(tradeoff) if tradeoff else None
        values = [row.get(field) for field in self.objectives] if row else []
        student = folder / record["stages"]["student"] if "student" in record.get("stages", {}) else None
        curve = Curve.read(student) if student is not None and student.is_dir() else None
        known = [float(value) for value in values if value is not None]
        complete = bool(known) and len(known) == len(self.objectives)
        if row and not complete:  # its job is no failed one
            missing = ", ".join(name for name, value in zip(self.objectives, values, strict=True) if value is None)
            log.warning("study %s: trial %d has no %s; it counts as failed", self.name, trial.number, missing)
            self._without += 1
        study.tell(trial, folder, known if complete else None, pruned=record.get("status") == "pruned", curve=curve)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
