"""The `distill` command: compose, convert to dataclasses, validate, run; nothing else."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from distill import pipeline, ranks, schema, tracking
from distill.errors import ConfigError
from distill.options import to_dataclasses, unknown_options
from distill.pruning import Pruned
from distill.run import record_end
from distill.sweep import plugins
from distill.validate import validate
from export.errors import UserError
from export.measure.cascade_table import print_cascade
from export.measure.recommendation import recommendation_of
from export.measure.retrieval_table import print_retrieval
from export.measure.table import NOTHING, finding, print_tradeoff, shown, shown_interval

log = logging.getLogger(__name__)


class RunFailed(CompactHydraException):
    """Tells Hydra of a failure whose message is all that a user needs: it is printed without a traceback."""


def convert(composed: DictConfig) -> schema.Config:
    """Turn what Hydra composed into validated dataclasses.

    Raises:
        ConfigError: listing every option that is missing or cannot be.
    """
    config = to_dataclasses(composed)
    assert isinstance(config, schema.Config)
    if unknown := [*unknown_options(config, "")]:
        raise ConfigError("\n".join(unknown))
    validate(config)
    return config


@hydra.main(version_base="1.3", config_path="pkg://distill.conf", config_name="config")
def _job(composed: DictConfig) -> float | None:
    hydra_config = HydraConfig.get()
    folder, overrides = Path(hydra_config.runtime.output_dir), list(hydra_config.overrides.task)
    config = None
    try:
        config = convert(composed)
        return _report(pipeline.run(config, folder, overrides), folder)
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
        told = f"{type(error).__name__}: {error} (a fault of rankdistill; traceback in {log_file})"
        _end(folder, overrides, "failed", told)
        raise RunFailed(told) from error
    finally:
        if config is not None and ranks.is_first() and not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            sweep = Path(str(hydra_config.sweep.dir)).absolute()
            tracking.after_run(folder, config.track, sweep if sweep in folder.absolute().parents else None)


def _report(tradeoff: dict[str, Any], folder: Path) -> float | None:
    """Print what a run found; returns the student's retention, None in torchrun's later processes."""
    if not tradeoff:
        return None
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
        found = NOTHING if measured is None else shown(measured, "amount")
        found += "" if low in (None, measured) else f" {shown_interval([low, high], 'amount')}"
        log.info("budget, %s: %s (%s)", line["verdict"], line["bound"], found)
    log.info("%s", folder / "report.html")
    return float([row["retention"] for row in tradeoff["rows"] if row["model"] == "student"][-1])


def _end(folder: Path, overrides: list[str], status: str, error: str) -> None:
    if ranks.is_first():
        with suppress(OSError):  # a full disk may be what ended the run
            record_end(folder, overrides, status, error)


def main() -> None:
    """Run the command line."""
    schema.register()
    plugins.register()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # threads that spin while they wait slow two runs on one machine down tenfold
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.captureWarnings(True)  # libraries' warnings go to the log file
    if not ranks.is_first():  # torchrun's later processes take part in training and write nothing of their own
        sys.argv += ["hydra.output_subdir=null", "hydra/job_logging=disabled", "hydra.run.dir=."]
    try:
        _job()
    except BrokenPipeError:  # distill --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where it was")
