"""The `distill` command: compose, convert to dataclasses, validate, run; nothing else."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from distill import pipeline, ranks, schema
from distill.errors import ConfigError
from distill.validate import validate
from export.errors import UserError
from export.measure.table import print_tradeoff

log = logging.getLogger(__name__)


class RunFailed(CompactHydraException):
    """Tells Hydra of a failure whose message is all that a user needs: it is printed without a traceback."""


def convert(composed: DictConfig) -> schema.Config:
    """Turn what Hydra composed into validated dataclasses.

    Raises:
        ConfigError: listing every option that is missing or cannot be.
    """
    missing = sorted(name for name in OmegaConf.missing_keys(composed) if not name.startswith("hydra"))
    if missing:
        raise ConfigError("\n".join(f"{name}: missing; give {name}=..." for name in missing))
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(config, schema.Config)
    if unknown := [*_unknown(config, "")]:
        raise ConfigError("\n".join(unknown))
    validate(config)
    return config


def _unknown(node: object, prefix: str) -> Iterator[str]:
    """Yield a line for each option that `+option=value` added and nothing reads."""
    known = {each.name for each in fields(node)} if is_dataclass(node) else set()
    for name, value in vars(node).items():
        if name not in known:
            yield f"{prefix}{name}={value}: no such option; there are {', '.join(sorted(known))}"
        for key, child in value.items() if isinstance(value, dict) else [("", value)]:
            if is_dataclass(child):
                yield from _unknown(child, f"{prefix}{name}.{key + '.' if key else ''}")


@hydra.main(version_base="1.3", config_path="pkg://distill.conf", config_name="config")
def _job(composed: DictConfig) -> float | None:
    try:
        folder = Path(HydraConfig.get().runtime.output_dir)
        tradeoff = pipeline.run(convert(composed), folder, list(HydraConfig.get().overrides.task))
        if not tradeoff:
            return None
        print_tradeoff(tradeoff, Console())
        for line in tradeoff.get("gate", {}).get("lines", ()):
            log.info("budget, %s: %s", line["verdict"], line["bound"])
        log.info("%s", folder / "report.html")
        return float([row["retention"] for row in tradeoff["rows"] if row["model"] == "student"][-1])
    except UserError as error:
        log.info("failed", exc_info=True)
        raise RunFailed(str(error)) from error
    except KeyboardInterrupt:
        raise RunFailed("stopped; the same command goes on where it was") from None
    except Exception as error:
        log_file = Path(HydraConfig.get().runtime.output_dir) / "distill.log"
        log.exception("failed")
        raise RunFailed(f"{type(error).__name__}: {error} (a fault of rankdistill; traceback in {log_file})") from error


def main() -> None:
    """Run the command line."""
    schema.register()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # threads that spin while they wait slow two runs on one machine down tenfold
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.captureWarnings(True)  # libraries' warnings go to the log file
    if not ranks.is_first():  # torchrun's later processes take part in training and write nothing of their own
        sys.argv += ["hydra.output_subdir=null", "hydra/job_logging=disabled", "hydra.run.dir=."]
    _job()
