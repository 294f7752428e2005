"""Jobs through submitit: on Slurm, or in processes of this machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rankdistill.export.errors import UserError
from rankdistill.sweep.jobs import Job, Outcome, outcome, run_job
from rankdistill.sweep.launcher import PLUGINS, ProcessLauncher

log = logging.getLogger(__name__)

LOOK_EVERY = 0.2  # seconds


class SubmititLauncher(ProcessLauncher):
    """Submits each job, `n_jobs` at a time, and again when its node is lost.

    Args:
        n_jobs: jobs that are queued or run at once.
        threads: of each, and the cores that it asks Slurm for.
        tries: how often a job is begun that was killed.
        cluster: slurm, local, or null: Slurm if this machine has it.
        parameters: of submitit's AutoExecutor: timeout_min, mem_gb, slurm_partition, ...
    """

    __module__ = PLUGINS
    needs = ("sweep", "submitit")

    def __init__(
        self, n_jobs: int, threads: int | None, tries: int, cluster: str | None, parameters: Mapping[str, Any]
    ) -> None:
        super().__init__(n_jobs, threads, tries)
        self.cluster, self.parameters = cluster, dict(parameters)

    def check(self) -> None:
        """Refuse what cannot be, before anything is run.

        Raises:
            UserError: as all launchers, and if submitit cannot submit there or knows no such parameter.
        """
        super().check()
        self._executor()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs, yielding each as it ends."""
        executor = self._executor()
        waiting, lost = list(jobs), dict.fromkeys((job.number for job in jobs), 0)
        going: dict[int, tuple[Job, Any]] = {}
        try:
            while waiting or going:
                while waiting and len(going) < self.n_jobs:
                    job = waiting.pop(0)
                    going[job.number] = (job, executor.submit(run_job, job, self.threads, self.tries))
                for number, (job, submitted) in list(going.items()):
                    if not submitted.done():
                        continue
                    del going[number]
                    if (error := submitted.exception()) is None:
                        yield job, submitted.result()
                        continue
                    lost[number] += 1
                    if lost[number] < self.tries:
                        log.info("#%d was lost (%s); submitting it again", number, _last_line(error))
                        waiting.append(job)
                    else:
                        yield job, outcome(job.folder, -9, lost[number])
                time.sleep(LOOK_EVERY)
        finally:  # a sweep that is stopped leaves nothing in the queue
            for _, submitted in going.values():
                submitted.cancel(check=False)

    def _executor(self) -> Any:
        import submitit

        folder = Path(str(self._config.hydra.sweep.dir)).absolute() / ".submitit"
        try:
            executor = submitit.AutoExecutor(folder=folder / "%j", cluster=self.cluster)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"hydra.launcher.cluster={self.cluster}: {_last_line(error)}") from error
        try:
            executor.update_parameters(cpus_per_task=self.threads, **self.parameters)
        except (NameError, AssertionError, TypeError, ValueError) as error:
            told = str(error).splitlines()[0]
            raise UserError(f"hydra.launcher.parameters: {told} (of submitit's AutoExecutor)") from error
        return executor


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
