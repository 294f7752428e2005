"""Recording finished runs in MLflow, from their folders alone: at their end, or any time later."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rankdistill.export.errors import UserError
from rankdistill.options import MlflowTrack, Track
from rankdistill.options.tracker_uri import without_password
from rankdistill.tracking.mlflow_client import Tracker, connect
from rankdistill.tracking.run_summary import Metric, Tracked, read_run

log = logging.getLogger(__name__)

STATUS = {"finished": "FINISHED", "failed": "FAILED"}  # MLflow's words; pruned and killed runs are KILLED
COUNTED = ("finished", "failed", "pruned")  # else a job was killed
PARENT = "mlflow.parentRunId"
PAGES = ("sweep.csv", "sweep.html")


def after_run(folder: Path, track: Track, sweep: Path | None) -> None:
    """Record a run that has just ended in whatever way; a tracker's trouble becomes a warning, never an error.

    Args:
        folder: of the run; one without run.json (a run that never began) is passed over.
        track: where runs are recorded.
        sweep: the sweep's folder if the run is a job of one.
    """
    if isinstance(track, MlflowTrack) and (folder / "run.json").is_file():
        _try(lambda: log_run(folder, track, sweep), folder, track)


def after_sweep(folder: Path, track: Track) -> None:
    """Record the end of a sweep as `after_run` does a run's."""
    if isinstance(track, MlflowTrack) and jobs_of(folder):
        _try(lambda: log_sweep(folder, track), folder, track)


def log_run(folder: Path, track: MlflowTrack, parent: Path | None) -> str:
    """Record a run: parameters, tags, table, learning curves, files, and the bundle as a model's version.

    A folder that was recorded before is updated.

    Args:
        folder: of a run that has ended.
        track: where.
        parent: folder of the sweep whose job it is; its MLflow run, made when missing, holds this one.

    Returns:
        The id of the MLflow run.

    Raises:
        UserError: if the folder is no run, or the tracker does not take it.
    """
    run = read_run(folder, job=parent is not None)
    with connect(track) as tracker:
        tags = run.tags | {"mlflow.note.content": run.note}
        if parent is not None:
            tags[PARENT] = _parent(tracker, parent, run.experiment, run.started)
        found = tracker.run_of(folder, run.name, run.started, tags, run.version)
        tracker.log(found, run.params, run.metrics, tags, run.started)
        bundle = run.bundle if track.bundle else None
        tracker.attach(found, run.files, bundle)
        if track.model is not None and bundle is not None:
            tracker.register(found, track.model, run.summary)
        elif track.model is not None and run.status == "finished":
            log.info("no bundle was kept: no version of the model %s", track.model)
        tracker.end(found, STATUS.get(run.status, "KILLED"), run.ended)
    return found


def log_sweep(folder: Path, track: MlflowTrack) -> str:
    """Close a sweep's MLflow run: how its jobs ended, and the page over all of them.

    Returns:
        The id of the MLflow run.

    Raises:
        UserError: if the folder has no jobs, or the tracker does not take it.
    """
    jobs, damaged = _read(jobs_of(folder))
    if not jobs:
        raise UserError(f"{folder} is no sweep: no folder in it has a run.json that can be read")
    counts = Counter(job.status if job.status in COUNTED else "killed" for job in jobs) + Counter(damaged=damaged)
    metrics = [Metric(f"jobs/{status}", counts[status]) for status in (*COUNTED, "killed", "damaged")]
    ended = max(job.ended for job in jobs)
    note = ", ".join(f"{count} {status}" for status, count in counts.items()) + f" of {counts.total()} jobs"
    with connect(track) as tracker:
        found = _parent(tracker, folder, jobs[0].experiment, min(job.started for job in jobs))
        tracker.log(found, {}, metrics, {"mlflow.note.content": note}, ended)
        tracker.attach(found, [folder / name for name in PAGES if (folder / name).is_file()])
        tracker.end(found, STATUS["finished" if counts["finished"] else "failed"], ended)
    return found


def jobs_of(folder: Path) -> list[Path]:
    """Return the folders of a sweep's jobs, in the order of their numbers."""
    jobs = [path.parent for path in folder.glob("*/run.json")]
    return sorted(jobs, key=lambda job: (int(job.name) if job.name.isdecimal() else -1, job.name))


def _read(jobs: list[Path]) -> tuple[list[Tracked], int]:
    """Return the jobs that can be read, and how many cannot."""
    found = []
    for job in jobs:
        with suppress(UserError):
            found.append(read_run(job, job=True))
    return found, len(jobs) - len(found)


def _parent(tracker: Tracker, folder: Path, experiment: str, started: int) -> str:
    tags = {"experiment": experiment, "folder": str(folder.absolute())}
    return tracker.run_of(folder, f"sweep {folder.name}", started, tags)


def _try(record: Callable[[], str], folder: Path, track: MlflowTrack) -> None:
    try:
        found = record()
    except Exception as error:  # whatever a tracker raises: the run is done and whole
        log.info("tracking failed", exc_info=True)
        log.warning("not recorded in MLflow: %s; once that is mended: distill-track %s", error, folder)
    else:
        log.info("recorded in MLflow: %s, experiment %s, run %s", without_password(track.uri), track.experiment, found)
