"""What launchers decide themselves: shares of threads, how many jobs at once, what is submitted again or given up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rankdistill.export.errors import UserError
from rankdistill.sweep import launcher as launcher_
from rankdistill.sweep import submitit_launcher
from rankdistill.sweep.joblib_launcher import JoblibLauncher
from rankdistill.sweep.jobs import Job, Outcome
from rankdistill.sweep.submitit_launcher import SubmititLauncher


@pytest.mark.parametrize(
    ("cores", "n_jobs", "threads", "share"), [(8, 2, None, 4), (8, 3, None, 2), (2, 8, None, 1), (2, 8, 3, 3)]
)
def test_jobs_share_the_cores(monkeypatch, cores, n_jobs, threads, share):
    monkeypatch.setattr(launcher_, "available_cores", lambda: cores)
    assert JoblibLauncher(n_jobs, threads, tries=1).threads == share


def test_every_number_below_one_is_named():
    with pytest.raises(UserError) as told:
        JoblibLauncher(0, -1, tries=0).check()
    assert str(told.value).splitlines() == [
        f"hydra.launcher.{option}: allowed is a number >= 1" for option in ("n_jobs=0", "threads=-1", "tries=0")
    ]


class Submitted:
    """A submitted job, done at the second look; it has an outcome, or was lost."""

    def __init__(self, queue: Queue, outcome: Outcome | None) -> None:
        self.queue, self.outcome, self.looks, self.cancelled = queue, outcome, 0, False

    def done(self) -> bool:
        self.looks += 1
        if self.looks == 2:
            self.queue.going -= 1
        return self.looks >= 2

    def exception(self) -> Exception | None:
        return None if self.outcome else RuntimeError("first\nnode n7 is gone")

    def result(self) -> Outcome:
        return self.outcome

    def cancel(self, *, check: bool) -> None:
        self.cancelled = True


class Queue:
    """Takes the place of submitit's executor; each job's submissions go as planned."""

    def __init__(self, plan: dict[int, list[Outcome | None]]) -> None:
        self.plan, self.going, self.most, self.submitted = plan, 0, 0, []

    def submit(self, function, job: Job, threads: int, tries: int) -> Submitted:
        assert (function, threads, tries) == (submitit_launcher.run_job, 1, 3)
        self.going += 1
        self.most = max(self.most, self.going)
        self.submitted.append((job.number, it := Submitted(self, self.plan[job.number].pop(0))))
        return it


FINISHED = Outcome("finished", "", 1, "n1")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A function that gives the outcomes of jobs whose submissions go as planned, and the queue."""
    monkeypatch.setattr(submitit_launcher, "LOOK_EVERY", 0)
    launcher = SubmititLauncher(2, 1, 3, None, {})

    def start(*plan: list[Outcome | None]):
        queue = Queue(dict(enumerate(plan)))
        monkeypatch.setattr(launcher, "_executor", lambda: queue)
        return launcher.run([Job(number, tmp_path / str(number), [], Path()) for number in range(len(plan))]), queue

    return start


def test_no_more_jobs_are_submitted_than_allowed(run):
    outcomes, queue = run(*([FINISHED] for _ in range(5)))
    assert sorted(job.number for job, _ in outcomes) == list(range(5))
    assert queue.most == 2


def test_a_lost_job_is_submitted_again(run, caplog):
    caplog.set_level("INFO", submitit_launcher.log.name)
    outcomes, queue = run([None, None, FINISHED], [FINISHED])
    assert {job.number: outcome for job, outcome in outcomes} == {0: FINISHED, 1: FINISHED}
    assert [number for number, _ in queue.submitted].count(0) == 3
    assert caplog.messages == ["#0 was lost (node n7 is gone); submitting it again"] * 2


@pytest.mark.parametrize("status", ["running", "finished", None])
def test_a_job_that_is_lost_too_often_ends_as_its_folder_says(run, tmp_path, status):
    if status is not None:
        (tmp_path / "0").mkdir()
        (tmp_path / "0" / "run.json").write_text(json.dumps({"status": status}))
    outcomes, queue = run([None] * 9)
    ((_, outcome),) = outcomes
    assert outcome.status == ("finished" if status == "finished" else "killed")
    assert outcome.starts == len(queue.submitted) == 3


def test_a_sweep_that_is_stopped_leaves_nothing_queued(run):
    outcomes, queue = run([FINISHED], [None], [FINISHED])
    next(outcomes)
    outcomes.close()
    assert [it.cancelled for _, it in queue.submitted] == [it.looks < 2 for _, it in queue.submitted]
    assert any(it.cancelled for _, it in queue.submitted)
