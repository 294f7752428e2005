"""Where runs are recorded."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from rankdistill.options.ranges import option


@dataclass
class Track:
    """Where runs are recorded besides their folder; shapes no stage."""

    kind: str = MISSING


@dataclass
class NoTrack(Track):
    """Nowhere."""

    kind: str = "none"


EXPERIMENT_NAME = (lambda name: name.strip() and len(name) <= 500, "a name of at most 500 characters")
MODEL_NAME = (lambda name: name is None or (name.strip() and not {"/", ":"} & set(name)), "a name without / and :")


@dataclass
class MlflowTrack(Track):
    """MLflow."""

    kind: str = "mlflow"
    uri: str = MISSING
    experiment: str = option(MISSING, EXPERIMENT_NAME)
    model: str | None = option(None, MODEL_NAME)
    bundle: bool = True
