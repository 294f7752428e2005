"""What the launchers have in common: jobs made of overrides, their progress, and what Hydra wants to hear of them."""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from rankdistill.export.errors import UserError
from rankdistill.export.extras import require
from rankdistill.export.full_disk import write_problem
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.threads import available_cores
from rankdistill.sweep.jobs import CONSOLE, Job, Outcome

log = logging.getLogger(__name__)

PLUGINS = "hydra_plugins.rankdistill"  # Hydra takes plugins by names of this package alone
# Hydra's own options that say how a sweep is run, not what a job does
OF_THE_SWEEP = (
    "hydra.mode",
    "hydra/launcher",
    "hydra.launcher",
    "hydra/sweeper",
    "hydra.sweeper",
    "hydra.sweep",
    "hydra.run",
)


class JobError(UserError):
    """A job ended without a result."""


class SweepFailed(CompactHydraException):
    """Tells Hydra why there is no sweep, or no result of some jobs; printed without a traceback."""


@contextmanager
def told() -> Iterator[None]:
    """Tell Hydra of a user's error, or of a full disk, so that it is printed without a traceback."""
    try:
        yield
    except UserError as error:
        raise SweepFailed(str(error)) from error
    except OSError as error:
        if problem := write_problem(error, [Path()]):
            raise SweepFailed(problem) from error
        raise


class ProcessLauncher(Launcher):
    """Runs each job in a process of its own.

    Args:
        n_jobs: jobs at once.
        threads: of each; without it the cores divided by n_jobs.
        tries: how often a job is begun that was killed.
    """

    needs = ("sweep", "")  # an extra of the package, and its module

    def __init__(self, n_jobs: int, threads: int | None, tries: int) -> None:
        self.n_jobs, self.tries = n_jobs, tries
        self.threads = max(1, available_cores() // max(1, n_jobs)) if threads is None else threads
        self._config: DictConfig
        self._loader: ConfigLoader

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives: the sweep's configuration and what composes the jobs'."""
        del task_function  # a job is a command
        self._config, self._loader = config, hydra_context.config_loader
        with told():
            self.check()

    def check(self) -> None:
        """Refuse what cannot be, before anything is run.

        Raises:
            UserError: if an option is wrong, or the launcher's extra is not installed.
        """
        wrong = [
            f"hydra.launcher.{name}={value}: allowed is a number >= 1"
            for name, value in (("n_jobs", self.n_jobs), ("threads", self.threads), ("tries", self.tries)) if value < 1
        ]  # fmt: skip
        if wrong:
            raise UserError("\n".join(wrong))
        require(*self.needs)

    @abstractmethod
    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs, yielding each as it ends."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs.

        Args:
            job_overrides: overrides of each.
            initial_job_idx: number of the first.
        """
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        composed = [self._compose(overrides, initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        jobs = {job.number: job for job, _ in composed}
        for job, _ in composed:
            log.info("#%d: %s", job.number, " ".join(filter_overrides(job_overrides[job.number - initial_job_idx])))
        log.info("%d at once with %d threads each; what they say: FOLDER/%s", self.n_jobs, self.threads, CONSOLE)
        outcomes: dict[int, Outcome] = {}
        with Progress("jobs", len(jobs), "jobs") as bar:
            for job, outcome in self.run(list(jobs.values())):
                outcomes[job.number] = outcome
                again = f", begun {outcome.starts} times" if outcome.starts > 1 else ""
                aside = f": {outcome.error}" if outcome.error else ""
                log.info("#%d %s on %s%s%s", job.number, outcome.status, outcome.place, again, aside)
                bar.update(1)
        return [_returned(config, outcomes[job.number]) for job, config in composed]

    def _compose(self, overrides: Sequence[str], number: int) -> tuple[Job, DictConfig]:
        config = self._loader.load_sweep_config(self._config, list(overrides))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
            folder = Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)).absolute()
            config.hydra.runtime.output_dir = str(folder)
        return Job(number, folder, self._arguments(overrides, folder), Path.cwd()), config

    def _arguments(self, overrides: Sequence[str], folder: Path) -> list[str]:
        hydra = self._config.hydra
        arguments = [
            f"--config-dir={each.path}" for each in hydra.runtime.config_sources if each.provider == "command-line"
        ]
        arguments += [f"--config-name={hydra.job.config_name}"]
        ours = [each for each in hydra.overrides.hydra if not each.lstrip("+~").startswith(OF_THE_SWEEP)]
        place = [
            f"hydra.run.dir={quoted(folder)}",
            f"hydra.sweep.dir={quoted(Path(str(hydra.sweep.dir)).absolute())}",
        ]
        return [*arguments, *overrides, *ours, *place]


def quoted(path: Path) -> str:
    """Write a path so that Hydra takes it as it is: escape quotes, backslashes before them, and interpolations."""
    text = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), str(path))
    return "'" + text.replace("${", "\\${") + "'"


def _returned(config: DictConfig, outcome: Outcome) -> JobReturn:
    HydraConfig.instance().set_config(config)
    task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    returned = JobReturn(
        overrides=list(config.hydra.overrides.task),
        cfg=task,
        hydra_cfg=OmegaConf.masked_copy(config, ["hydra"]),
        working_dir=str(Path.cwd()),
        task_name=config.hydra.job.name,
    )
    ended_well = outcome.status in ("finished", "pruned")
    returned.status = JobStatus.COMPLETED if ended_well else JobStatus.FAILED
    returned.return_value = None if ended_well else JobError(outcome.error)
    return returned
