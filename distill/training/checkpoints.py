"""What a training leaves for whoever goes on after a kill: the Trainer's checkpoints, and what evaluations found."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rankdistill import torchrun

log = logging.getLogger(__name__)

Float64 = npt.NDArray[np.float64]


def write_dev_values(folder: Path, step: int, values: Float64) -> None:
    """Keep an evaluation's nDCG@10, float64 [dev queries], beside the checkpoints, for a training that is killed."""
    if torchrun.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"dev-{step}.npy", values)


def read_dev_values(folder: Path, step: int) -> Float64:
    """Return what `write_dev_values` kept of a step, float64 [dev queries]."""
    return np.asarray(np.load(folder / f"dev-{step}.npy"), dtype=np.float64)


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest whole checkpoint and delete those that a kill tore; the Trainer writes its state file last."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            whole.append(path)
        except (OSError, ValueError):
            if torchrun.is_first():  # under torchrun every process looks
                shutil.rmtree(path)
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    if newest is not None:
        log.info("going on from %s", newest.name)
    return str(newest) if newest is not None else None
