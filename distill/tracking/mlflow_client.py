"""An MLflow store, through its client alone: nothing global of MLflow is set, so a caller keeps its own runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from filelock import FileLock, Timeout

from rankdistill.errors import TrackerError
from rankdistill.export.errors import UserError
from rankdistill.export.files import write_atomic
from rankdistill.options import MlflowTrack
from rankdistill.options.tracker_uri import ARTIFACTS, database, uri_problem, without_password
from rankdistill.tracking.run_summary import Metric

if TYPE_CHECKING:
    from mlflow import MlflowClient

ID = ".mlflow-id"  # in a run's and a sweep's folder: what its MLflow run is found by, in whichever store
ID_TAG = "rankdistill.id"
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000  # what MLflow takes in one request
LONGEST_REASON = 300  # characters
LONGEST_WAIT = 300  # seconds for other processes of this machine that write to the same database
QUIET = {
    "MLFLOW_CONFIGURE_LOGGING": "false",  # else it prints about its tables; so its words go to the run's log
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # a server that is away must not hold a finished run for the minutes that MLflow would try
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


@contextmanager
def connect(track: MlflowTrack) -> Iterator[Tracker]:
    """Give the tracker; a local database is this process's own meanwhile, as SQLite has one writer.

    Raises:
        TrackerError: in one line, whatever MLflow raised.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        if allowed := uri_problem(track.uri):
            raise TrackerError(f"uri {without_password(track.uri)}: allowed is {allowed}")
        file = database(track.uri)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock", timeout=LONGEST_WAIT) if file is not None else nullcontext():
            from mlflow import MlflowClient

            yield Tracker(MlflowClient(track.uri), track, file)
    except UserError:
        raise
    except Exception as error:  # of MLflow, SQLAlchemy, requests, a cloud's client
        raise TrackerError(f"{without_password(track.uri)}: {_reason(error)}") from error


class Tracker:
    """Writes runs to one experiment.

    Args:
        client: of MLflow.
        track: the experiment, the registered model, whether bundles are uploaded.
        file: of a local database; its experiments keep their files beside it.
    """

    def __init__(self, client: MlflowClient, track: MlflowTrack, file: Path | None) -> None:
        self._client, self.track, self._file = client, track, file
        self._experiment = self._find_experiment() or self._make_experiment()

    def _find_experiment(self) -> str | None:
        found = self._client.get_experiment_by_name(self.track.experiment)
        return str(found.experiment_id) if found is not None else None

    def _make_experiment(self) -> str:
        location = (self._file.parent / ARTIFACTS).as_uri() if self._file is not None else None
        try:
            return str(self._client.create_experiment(self.track.experiment, location))
        except Exception:
            if found := self._find_experiment():  # another process was there first
                return found
            raise

    def run_of(self, folder: Path, name: str, started: int, tags: Mapping[str, str], version: str = "") -> str:
        """Return the id of a folder's MLflow run, made at the first time.

        Args:
            folder: of a run or a sweep; a file in it remembers what its MLflow run is tagged with.
            name: shown for the run.
            started: milliseconds since 1970.
            tags: given to a new run.
            version: of the folder's configuration: MLflow's parameters never change, another one is another run.
        """
        with FileLock(folder / f"{ID}.lock"):
            identity = f"{_identity(folder)}{version}"
            query = f"tags.`{ID_TAG}` = '{identity}'"
            found = self._client.search_runs([self._experiment], query, max_results=1)
            if found:
                return str(found[0].info.run_id)
            tags = {
                **_without_empty(tags),
                ID_TAG: identity,
                "mlflow.source.name": "distill",
                "mlflow.source.type": "LOCAL",
            }
            made = self._client.create_run(self._experiment, start_time=started, tags=tags, run_name=name)
            return str(made.info.run_id)

    def log(
        self, run: str, params: Mapping[str, str], metrics: Sequence[Metric], tags: Mapping[str, str], at: int
    ) -> None:
        """Write parameters, metrics and tags; the same ones again change nothing.

        Args:
            run: id of the MLflow run.
            params: by name.
            metrics: all of them.
            tags: by name; an empty one is taken away.
            at: time of the metrics, milliseconds since 1970.
        """
        from mlflow.entities import Metric as Point
        from mlflow.entities import Param, RunTag

        points = [Point(each.name, each.value, at, each.step) for each in metrics]
        options = [Param(name, value) for name, value in params.items()]
        for start in range(0, len(options), PARAMS_AT_ONCE):
            self._client.log_batch(run, params=options[start : start + PARAMS_AT_ONCE])
        for start in range(0, len(points), METRICS_AT_ONCE):
            self._client.log_batch(run, metrics=points[start : start + METRICS_AT_ONCE])
        self._client.log_batch(run, tags=[RunTag(name, value) for name, value in _without_empty(tags).items()])
        for name in self._client.get_run(run).data.tags.keys() & (tags.keys() - _without_empty(tags).keys()):
            self._client.delete_tag(run, name)

    def attach(self, run: str, files: Sequence[Path], bundle: Path | None = None) -> None:
        """Upload files, and a bundle's folder as `bundle`."""
        for path in files:
            self._client.log_artifact(run, str(path))
        if bundle is not None:
            self._client.log_artifacts(run, str(bundle), "bundle")

    def register(self, run: str, model: str, tags: Mapping[str, str]) -> None:
        """Make a run's uploaded bundle a version of a registered model, once."""
        versions = [each for each in self._client.search_model_versions(f"run_id='{run}'") if each.name == model]
        if versions:
            for name, value in tags.items():
                self._client.set_model_version_tag(model, versions[0].version, name, value)
            return
        self._make_model(model)
        source = f"{self._client.get_run(run).info.artifact_uri}/bundle"
        self._client.create_model_version(model, source, run_id=run, tags=dict(tags))

    def end(self, run: str, status: str, ended: int) -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run, status, ended)

    def _make_model(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _without_empty(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if value}


def _identity(folder: Path) -> str:
    path = folder / ID
    if not path.is_file():
        write_atomic(path, uuid4().hex)
    return path.read_text(encoding="utf-8").strip()


def _reason(error: Exception) -> str:
    """Return the innermost reason in one line: a refused connection arrives wrapped four times over."""
    if isinstance(error, Timeout):
        return f"other processes wrote to it for more than {LONGEST_WAIT} s"
    text = " ".join(str(error).split()) or type(error).__name__
    if refused := re.search(r"Caused by \w+\((.*)\)", text):
        text = refused[1].rpartition(": ")[2].strip("'\") ")
    return text[:LONGEST_REASON]
