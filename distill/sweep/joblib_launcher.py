"""Several jobs at once on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rankdistill.sweep.jobs import Job, Outcome, run_job
from rankdistill.sweep.launcher import PLUGINS, ProcessLauncher


class JoblibLauncher(ProcessLauncher):
    """Waits for the jobs' processes in a pool of joblib's threads."""

    __module__ = PLUGINS
    needs = ("sweep", "joblib")

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs, yielding each as it ends."""
        from joblib import Parallel, delayed

        def work(job: Job) -> tuple[Job, Outcome]:
            return job, run_job(job, self.threads, self.tries)

        pool = Parallel(n_jobs=self.n_jobs, backend="threading", return_as="generator_unordered", pre_dispatch="n_jobs")
        yield from pool(delayed(work)(job) for job in jobs)
