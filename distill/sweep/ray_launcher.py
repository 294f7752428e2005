"""Jobs on a Ray cluster whose machines share the folder of the runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rankdistill.export.errors import UserError
from rankdistill.export.runtime.threads import available_cores
from rankdistill.sweep.jobs import Job, Outcome, outcome, run_job
from rankdistill.sweep.launcher import PLUGINS, ProcessLauncher

log = logging.getLogger(__name__)


class RayLauncher(ProcessLauncher):
    """Gives each job to a Ray task; a task whose worker or node is lost is begun again.

    Args:
        n_jobs: jobs at once, over all machines.
        threads: of each, and the CPUs that it asks Ray for.
        tries: how often a job is begun that was killed.
        address: of the cluster; null begins one on this machine.
    """

    __module__ = PLUGINS
    needs = ("ray", "ray")

    def __init__(self, n_jobs: int, threads: int | None, tries: int, address: str | None) -> None:
        super().__init__(n_jobs, threads, tries)
        self.address = address

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs, yielding each as it ends."""
        import ray

        own = {} if self.address else {"num_cpus": max(available_cores(), self.threads), "include_dashboard": False}
        try:
            ray.init(address=self.address or "local", log_to_driver=False, logging_level="error", **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"hydra.launcher.address={self.address}: no Ray cluster answers ({str(error).strip()})"
            ) from error
        try:
            nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
            if max(nodes, default=0) < self.threads:
                log.info("no node of the cluster has %d CPUs; waiting for one that has", self.threads)
            task = ray.remote(num_cpus=self.threads, max_retries=self.tries - 1)(_on_a_node)
            waiting = list(jobs)
            going: dict[Any, Job] = {}
            while waiting or going:
                while waiting and len(going) < self.n_jobs:
                    job = waiting.pop(0)
                    going[task.remote(job, self.threads, self.tries)] = job
                for done in ray.wait(list(going))[0]:
                    job = going.pop(done)
                    try:
                        yield job, ray.get(done)
                    except ray.exceptions.RayError:
                        yield job, outcome(job.folder, -9, self.tries)
        finally:
            ray.shutdown()


def _on_a_node(job: Job, threads: int, tries: int) -> Outcome:
    import ray

    done = run_job(job, threads, tries)
    return replace(done, place=f"{done.place}, node {ray.get_runtime_context().get_node_id()[:8]}")
