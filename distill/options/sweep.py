"""How many runs are chosen and launched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class JoblibLauncher:
    """Several jobs at once on this machine."""

    _target_: str = "hydra_plugins.rankdistill.JoblibLauncher"
    n_jobs: int = 2
    threads: int | None = None
    tries: int = 3


@dataclass
class SubmititLauncher:
    """Jobs through submitit."""

    _target_: str = "hydra_plugins.rankdistill.SubmititLauncher"
    n_jobs: int = 8
    threads: int | None = None
    tries: int = 3
    cluster: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class RayLauncher:
    """Jobs on a Ray cluster."""

    _target_: str = "hydra_plugins.rankdistill.RayLauncher"
    n_jobs: int = 8
    threads: int | None = 1
    tries: int = 3
    address: str | None = None


@dataclass
class GridSweeper:
    """Every combination of the values given."""

    _target_: str = "hydra_plugins.rankdistill.GridSweeper"
    params: dict[str, str] | None = None


@dataclass
class Prune:
    """When a search gives a student up."""

    least: int = 5
    margin: float = 0.01


@dataclass
class OptunaSweeper:
    """A search with Optuna."""

    _target_: str = "hydra_plugins.rankdistill.OptunaSweeper"
    n_trials: int = 30
    n_jobs: int = 1
    sampler: str = "tpe"
    seed: int | None = 0
    study: str = MISSING
    storage: str = MISSING
    objectives: dict[str, str] = field(default_factory=dict)
    prune: Prune | None = None
    params: dict[str, str] | None = None
