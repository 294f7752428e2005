"""kill -9 in a sweep: of a job, of who waits for it, of the launcher, of a search; the table is that of a calm one."""

from __future__ import annotations

import os
import signal

import pytest

from rankdistill.export.runtime.threads import available_cores
from tests.integration import sweeps
from tests.integration.commands import TIMED, begin_with, distill
from tests.integration.sweeps import BOTH, newest, quality, record, sweep

pytestmark = pytest.mark.faults

JOBLIB = ["hydra/launcher=joblib", f"hydra.launcher.threads={available_cores()}"]


@pytest.fixture
def calm(beir, encoder):
    """An undisturbed sweep."""
    return sweeps.broken_grid(beir, encoder)[0]


@pytest.fixture
def storm(calm, tmp_path):
    """A folder whose sweeps have only the students to train."""
    return begin_with(calm, tmp_path, without="student")


def at_work(calm, storm, layers):
    """Whether a student's training is under way."""
    return (storm / "runs/stages" / f"work-{sweeps.student(calm, layers)}").is_dir()


def test_a_killed_job_is_begun_again(calm, storm, beir, encoder):
    with sweeps.started(sweep(beir, encoder, BOTH, *JOBLIB), storm) as process:
        sweeps.until(lambda: at_work(calm, storm, 2), process, storm)
        os.kill(sweeps.job(storm, 1), signal.SIGKILL)
        assert process.wait(sweeps.PATIENCE) == 0, (storm / "said").read_text()
    said = (storm / "said").read_text()
    assert "#1 finished on " in said
    assert said.count(", begun 2 times") == 1
    console = (newest(storm) / "1" / "console.log").read_text()
    assert console.count("killed by signal 9 (start 1 of 3)\n") == 1
    assert quality(newest(storm)) == quality(newest(calm))
    assert not list(storm.glob("runs/stages/work-*"))


def test_a_sweep_whose_launcher_was_killed_takes_its_jobs_along_and_finishes_when_it_is_begun_again(
    calm, storm, beir, encoder
):
    arguments = sweep(beir, encoder, BOTH, *JOBLIB)
    with sweeps.started(arguments, storm) as process:
        sweeps.until(lambda: at_work(calm, storm, 1) or at_work(calm, storm, 2), process, storm)
        jobs = [sweeps.job(storm, number) for number in (0, 1)]
        with sweeps.watched([each for each in jobs if each is not None]) as ended:
            process.kill()
            process.wait()
            assert ended()
    first = newest(storm)
    assert not (first / "sweep.csv").exists()
    assert "running" in [record(path.parent)["status"] for path in first.glob("*/run.json")]
    done = distill(*arguments, cwd=storm)
    assert done.returncode == 0, done.stderr
    assert newest(storm) != first
    assert quality(newest(storm)) == quality(newest(calm))


def test_a_job_whose_node_is_lost_is_submitted_again(calm, storm, beir, encoder):
    launcher = ["hydra/launcher=submitit", "hydra.launcher.cluster=local", JOBLIB[1]]
    with sweeps.started(sweep(beir, encoder, BOTH, *launcher), storm) as process:
        sweeps.until(lambda: at_work(calm, storm, 2), process, storm)
        work = sweeps.job(storm, 1)
        with sweeps.watched([work]) as ended:
            os.kill(sweeps.parent(work), signal.SIGKILL)
            assert ended()
        assert process.wait(sweeps.PATIENCE) == 0, (storm / "said").read_text()
    said = (storm / "said").read_text()
    assert "#1 was lost (" in said
    assert "submitting it again" in said
    assert "#1 finished on " in said
    assert quality(newest(storm)) == quality(newest(calm))


def test_a_killed_search_takes_up_its_trial(calm, storm, beir, encoder):
    search = sweep(
        beir, encoder, BOTH, *TIMED, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "measure.split=test"
    )
    with sweeps.started(search, storm) as process:
        sweeps.until(lambda: at_work(calm, storm, 1) or at_work(calm, storm, 2), process, storm)
        process.kill()
        process.wait()
    layers = next(each for each in record(newest(storm) / "0")["overrides"] if each.startswith("student.layers="))
    done = distill(*search, cwd=storm)
    assert done.returncode == 0, done.stderr
    assert "trials of a killed process that are done again: 1" in done.stderr
    assert "study small: trial 1 (0 of 1 are done)" in done.stderr
    (run,) = newest(storm).glob("[0-9]")
    assert run.name == "1"
    assert record(run)["status"] == "finished"
    assert layers in record(run)["overrides"]
    expected = [row for row in quality(newest(calm)) if f"student.layers={row['student.layers']}" == layers]
    assert [row | {"student.layers": ""} for row in quality(newest(storm))] == [
        row | {"student.layers": ""} for row in expected
    ]
