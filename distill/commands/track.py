"""The `distill-track` command: record in MLflow what ran earlier, or while its tracker was away."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from rankdistill.commands.console import ConsoleHandler
from rankdistill.export.commands.command_options import at_home as paths_at_home
from rankdistill.export.commands.output import printing_at_best
from rankdistill.export.errors import UserError
from rankdistill.options import MlflowTrack
from rankdistill.options.from_hydra import at_home
from rankdistill.options.tracker_uri import SQLITE
from rankdistill.tracking.recorder import jobs_of, log_run, log_sweep
from rankdistill.tracking.run_summary import read_json

app = typer.Typer(help="Record finished runs in MLflow.", add_completion=True)
Options = Mapping[str, str | bool | None]


@app.command()
@paths_at_home
def track(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN_OR_SWEEP...", help="Folders of runs and sweeps.")],
    uri: Annotated[
        str | None, typer.Option(help="The tracker; else as the run was asked, else mlflow.db of its runs.")
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Of MLflow; else as the run was asked, else its name.")] = None,
    model: Annotated[str | None, typer.Option(help="Registered model that each bundle becomes a version of.")] = None,
    bundle: Annotated[
        bool | None, typer.Option(help="Whether bundles are uploaded; else as the run was asked.")
    ] = None,
) -> None:
    """Record runs and sweeps in MLflow. A folder that is recorded already is updated."""
    logging.basicConfig(level=logging.INFO, handlers=[ConsoleHandler()])
    given = {"uri": uri, "experiment": experiment, "model": model, "bundle": bundle}
    recorded = [_record(folder, given) for folder in folders]
    if not all(recorded):
        raise typer.Exit(2)


def _record(folder: Path, given: Options) -> bool:
    """Record a run, or a sweep with its jobs; what cannot be is told and does not keep the others from it."""
    if (folder / "run.json").is_file():
        return _told(lambda: _record_run(folder, given, _sweep_of(folder)))
    jobs = jobs_of(folder)
    recorded = [_told(partial(_record_run, job, given, folder)) for job in jobs]
    return _told(lambda: _record_sweep(folder, jobs, given)) and all(recorded)


def _told(record: Callable[[], str]) -> bool:
    try:
        recorded = record()
    except UserError as error:
        typer.echo(str(error), err=True)
        return False
    with printing_at_best("it is recorded"):
        typer.echo(recorded)
    return True


def _record_run(folder: Path, given: Options, sweep: Path | None) -> str:
    if sweep is None and read_json(folder / "run.json").get("status") == "running":
        raise UserError(f"{folder} is not finished, or was killed; give its command again, it goes on where it was")
    chosen = choose(folder, given)
    return f"{folder}: run {log_run(folder, chosen, sweep)}, experiment {chosen.experiment}, {chosen.uri}"


def _record_sweep(folder: Path, jobs: list[Path], given: Options) -> str:
    if not jobs:
        raise UserError(f"{folder} is neither a run nor a sweep: it has no run.json, nor has a folder in it")
    chosen = choose(jobs[0], given)
    return f"{folder}: run {log_sweep(folder, chosen)}, experiment {chosen.experiment}, {chosen.uri}"


def _sweep_of(folder: Path) -> Path | None:
    """Return the sweep that a run is a job of: Hydra leaves a multirun.yaml above its jobs."""
    parent = folder.absolute().parent
    return parent if (parent / "multirun.yaml").is_file() else None


def choose(folder: Path, given: Options) -> MlflowTrack:
    """Return where a run is recorded: as given, else as its own configuration says, else beside its stages.

    Raises:
        UserError: if bundles shall be versions of a model and not be uploaded.
    """
    wanted: dict[str, Any] = {"bundle": True, "model": None} | _asked(folder)
    wanted |= {name: value for name, value in given.items() if value is not None}
    if wanted["model"] and not wanted["bundle"]:
        raise UserError(f"model {wanted['model']} is made of bundles; give --bundle")
    local = f"{SQLITE}{_runs_of(folder) / 'mlflow.db'}"
    return MlflowTrack(
        uri=at_home(wanted.get("uri") or os.environ.get("MLFLOW_TRACKING_URI") or local),
        experiment=wanted.get("experiment") or str(read_json(folder / "run.json").get("experiment")),
        model=wanted["model"],
        bundle=wanted["bundle"],
    )


def _asked(folder: Path) -> dict[str, Any]:
    """Return the options of track=mlflow that a run was made with, empty for another."""
    path = folder / "config.yaml"
    try:
        asked = yaml.safe_load(path.read_text(encoding="utf-8")).get("track") or {}
    except FileNotFoundError:
        return {}
    except (OSError, AttributeError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return dict(asked) if asked.get("kind") == "mlflow" else {}


def _runs_of(folder: Path) -> Path:
    """Return the folder of all runs, which has the stages, wherever the command is given and the run's folder is."""
    above = [*folder.absolute().parents, *folder.resolve().parents]
    with suppress(UserError, AttributeError, KeyError, TypeError, IndexError):
        above += [(folder / stage).resolve().parents[1] for stage in read_json(folder / "run.json")["stages"].values()]
    return next((parent for parent in above if (parent / "stages").is_dir()), Path("runs").absolute())
