"""Every option and its type, by nouns; only here is Hydra's ConfigStore known. `distill.validate` says what may be."""

from __future__ import annotations

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from distill.schema.data import BeirData, Data, EventsData, HubData, MovieLensData, SlateData
from distill.schema.loss import Kl, Labels, Loss, MarginMse, Term
from distill.schema.models import CrossEncoderTeacher, EncoderTeacher, Fit, Student, Teacher, Train
from distill.schema.outcome import Budget, Export, Int8, Measure, NoQuantize, Quantize
from distill.schema.sweep import GridSweeper, JoblibLauncher, OptunaSweeper, Prune, RayLauncher, SubmititLauncher
from distill.schema.track import MlflowTrack, NoTrack, Track

__all__ = [
    "BeirData",
    "Budget",
    "Config",
    "CrossEncoderTeacher",
    "Data",
    "EncoderTeacher",
    "EventsData",
    "Export",
    "Fit",
    "GridSweeper",
    "HubData",
    "Int8",
    "JoblibLauncher",
    "Kl",
    "Labels",
    "Loss",
    "MarginMse",
    "Measure",
    "MlflowTrack",
    "MovieLensData",
    "NoQuantize",
    "NoTrack",
    "OptunaSweeper",
    "Prune",
    "Quantize",
    "RayLauncher",
    "SlateData",
    "Student",
    "SubmititLauncher",
    "Teacher",
    "Term",
    "Track",
    "Train",
    "register",
]


@dataclass
class Config:
    """An experiment."""

    name: str = MISSING
    seed: int = 0
    runs: str = "runs"
    bundle: bool = True
    rivals: str | None = None
    data: Data = MISSING
    teacher: Teacher = MISSING
    student: Student = MISSING
    loss: Loss = MISSING
    train: Train = MISSING
    export: Export = field(default_factory=Export)
    quantize: Quantize = MISSING
    measure: Measure = MISSING
    budget: Budget = field(default_factory=Budget)
    track: Track = MISSING


NODES: dict[str, dict[str, type]] = {
    "schema": {"config": Config},
    "schema/data": {"events": EventsData, "movielens": MovieLensData, "beir": BeirData, "hub": HubData},
    "schema/teacher": {"encoder": EncoderTeacher, "cross_encoder": CrossEncoderTeacher},
    "schema/student": {"layers": Student},
    "schema/loss": {"weighted": Loss},
    "schema/term": {"margin_mse": MarginMse, "kl": Kl, "labels": Labels},
    "schema/train": {"train": Train},
    "schema/quantize": {"none": NoQuantize, "int8": Int8},
    "schema/measure": {"measure": Measure},
    "schema/budget": {"budget": Budget},
    "hydra/schema/launcher": {"joblib": JoblibLauncher, "submitit": SubmititLauncher, "ray": RayLauncher},
    "hydra/schema/sweeper": {"grid": GridSweeper, "optuna": OptunaSweeper},
    "schema/track": {"none": NoTrack, "mlflow": MlflowTrack},
}


def register() -> None:
    """Make the schema known to Hydra."""
    store = ConfigStore.instance()
    for group, nodes in NODES.items():
        for name, node in nodes.items():
            store.store(group=group, name=name, node=node, provider="rankdistill")
