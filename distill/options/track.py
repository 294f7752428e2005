"""Where runs are recorded."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class Track:
    """Where runs are recorded besides their folder; shapes no stage."""

    kind: str = MISSING


@dataclass
class NoTrack(Track):
    """Nowhere."""

    kind: str = "none"


@dataclass
class MlflowTrack(Track):
    """MLflow."""

    kind: str = "mlflow"
    uri: str = MISSING
    experiment: str = MISSING
    model: str | None = None
    bundle: bool = True
