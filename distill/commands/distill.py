"""The `distill` command: compose, convert to dataclasses, validate, run; nothing else."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from rankdistill import options, torchrun
from rankdistill.errors import ConfigError
from rankdistill.export.commands.output import mute, printing_at_best
from rankdistill.export.errors import UserError
from rankdistill.export.full_disk import write_problem
from rankdistill.export.report.cascade_table import print_cascade
from rankdistill.export.report.recommendation import recommendation_of
from rankdistill.export.report.retrieval_table import print_retrieval
from rankdistill.export.report.tradeoff_table import NOTHING, finding, print_tradeoff, shown, shown_interval
from rankdistill.options.from_hydra import at_home, to_dataclasses, unknown_options
from rankdistill.pipeline import experiment
from rankdistill.pipeline.run_folder import record_end
from rankdistill.pipeline.validation import validate
from rankdistill.sweep import plugins
from rankdistill.sweep.launcher import quoted
from rankdistill.tracking import recorder
from rankdistill.training.median_stopping import Pruned

log = logging.getLogger(__name__)

LEAST_ROOM = 1 << 16  # bytes: the log and the configuration
HOME = re.compile(r"^(?P<before>[^=~]*=)(?P<quote>['\"]?)(?P<path>~(?=[/'\"]|$)[^,\[\]{}]*?)(?=(?P=quote)$)")


class RunFailed(CompactHydraException):
    """Tells Hydra of a failure whose message is all that a user needs: it is printed without a traceback."""


class Folders(Callback):
    """Looks, before Hydra makes a run's or a sweep's folder, whether it can be written."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Make the folder of a run, or end the command in one line."""
        self._make(str(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Make the folder of a sweep, or end the command in one line."""
        self._make(str(config.hydra.sweep.dir))

    def _make(self, folder: str) -> None:
        if not torchrun.is_first():
            return
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(LEAST_ROOM))
        except (OSError, ValueError) as error:  # Hydra takes an exception of a callback for a warning
            reason = getattr(error, "strerror", None) or str(error)
            sys.exit(f"{folder} cannot be written: {reason}; give another runs=FOLDER or hydra.run.dir=FOLDER")


def at_home_all(arguments: Sequence[str]) -> list[str]:
    """Return a command line with `~` expanded where a value begins with it: Hydra's own folders are read before ours.

    Raises:
        ConfigError: if there is no home folder, or an argument has bytes that are no UTF-8.
    """
    for each in arguments:
        if not each.isascii() and each != each.encode(errors="replace").decode():
            raise ConfigError(f"{os.fsencode(each)!r}: no UTF-8; give a link to it that has another name")
    return [HOME.sub(_expanded, each) for each in arguments]


def _expanded(found: re.Match[str]) -> str:
    before, quote, path = found["before"], found["quote"], at_home(found["path"])
    if quote == "" and not before.startswith("-"):
        return before + quoted(Path(path))
    return before + quote + path


def convert(composed: DictConfig) -> options.Config:
    """Turn what Hydra composed into validated dataclasses.

    Raises:
        ConfigError: listing every option that is missing or cannot be.
    """
    config = to_dataclasses(composed)
    assert isinstance(config, options.Config)
    if unknown := [*unknown_options(config, "")]:
        raise ConfigError("\n".join(unknown))
    validate(config)
    return config


@hydra.main(version_base="1.3", config_path="pkg://rankdistill.conf", config_name="config")
def _job(composed: DictConfig) -> float | None:
    hydra_config = HydraConfig.get()
    folder, overrides = Path(hydra_config.runtime.output_dir), list(hydra_config.overrides.task)
    config = None
    try:
        config = convert(composed)
        return _told(experiment.run(config, folder, overrides), folder)
    except Pruned as error:
        log.info("%s", error)
        _end(folder, overrides, "pruned", str(error))
        return None
    except UserError as error:
        log.info("failed", exc_info=True)
        _end(folder, overrides, "failed", str(error))
        raise RunFailed(str(error)) from error
    except Exception as error:
        log_file = folder / "distill.log"
        log.exception("failed")
        fault = f"{type(error).__name__}: {error} (a fault of rankdistill; traceback in {log_file})"
        told = write_problem(error, [folder, *([] if config is None else [Path(config.runs)])]) or fault
        _end(folder, overrides, "failed", told)
        raise RunFailed(told) from error
    finally:
        if config is not None and torchrun.is_first() and not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            sweep = Path(str(hydra_config.sweep.dir)).absolute()
            recorder.after_run(folder, config.track, sweep if sweep in folder.absolute().parents else None)


def _told(tradeoff: dict[str, Any], folder: Path) -> float | None:
    """Report a finished run, whose status no trouble in printing changes; returns the student's retention."""
    with printing_at_best(f"{folder / 'report.html'} has it"):
        _report(tradeoff, folder)
    return _retention(tradeoff)


def _retention(tradeoff: dict[str, Any]) -> float | None:
    """Return the student's, None in torchrun's later processes."""
    if not tradeoff:
        return None
    return float([row["retention"] for row in tradeoff["rows"] if row["model"] == "student"][-1])


def _report(tradeoff: dict[str, Any], folder: Path) -> None:
    """Print what a run found; torchrun's later processes have nothing to print."""
    if not tradeoff:
        return
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # the sweep's end has the table
        log.info("%s", recommendation_of(tradeoff).sentence)
        log.info("%s", finding(tradeoff))
    else:
        print_tradeoff(tradeoff, Console())
        if "cascade" in tradeoff:
            print_cascade(tradeoff["cascade"], Console())
        if "embedder" in tradeoff:
            print_retrieval(tradeoff["embedder"], Console())
    for line in tradeoff.get("gate", {}).get("lines", ()):
        measured, low, high = line["measured"], line["low"], line["high"]
        found = (line["note"] or NOTHING) if measured is None else shown(measured, "amount")
        found += "" if low in (None, measured) else f" {shown_interval([low, high], 'amount')}"
        log.info("budget, %s: %s (%s)", line["verdict"], line["bound"], found)
    log.info("%s", folder / "report.html")


def _end(folder: Path, overrides: list[str], status: str, error: str) -> None:
    if torchrun.is_first():
        with suppress(OSError):  # a full disk may be what ended the run
            record_end(folder, overrides, status, error)


def main() -> None:
    """Run the command line."""
    options.register()
    plugins.register()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # threads that spin while they wait slow two runs on one machine down tenfold
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.captureWarnings(True)  # libraries' warnings go to the log file
    logging.raiseExceptions = False  # a log that cannot be written (a full disk) ends no work and tells no traceback
    if not torchrun.is_first():  # torchrun's later processes take part in training and write nothing of their own
        sys.argv += ["hydra.output_subdir=null", "hydra/job_logging=disabled", "hydra.run.dir=."]
    try:
        sys.argv[1:] = at_home_all(sys.argv[1:])
    except ConfigError as error:
        sys.exit(str(error))
    try:
        _job()
    except BrokenPipeError:  # distill --help | head
        mute()
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where it was")
