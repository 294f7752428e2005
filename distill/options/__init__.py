"""Every option and its type, by nouns; only here is Hydra's ConfigStore known. `ranges` says what each may be.

Imports errors.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from rankdistill.options.cascade import Cascade, LayeredCascade, NoCascade
from rankdistill.options.data import BeirData, Data, EventsData, HubData, MovieLensData, SlateData
from rankdistill.options.embed import DistilledEmbed, Embed, NoEmbed, PcaEmbed
from rankdistill.options.loss import (
    TERMS,
    AdrMse,
    Attention,
    Embedding,
    Hidden,
    Kl,
    Labels,
    LambdaLoss,
    Loss,
    MarginMse,
    Mse,
    RankNet,
    Relations,
    StateTerm,
    Term,
)
from rankdistill.options.models import (
    CrossEncoderTeacher,
    EncoderTeacher,
    Fit,
    Input,
    Student,
    Teacher,
    Train,
    Vocabulary,
)
from rankdistill.options.outcome import (
    Budget,
    Export,
    FusedInt8,
    Int8,
    Measure,
    NoQuantize,
    Quantize,
    SearchedInt8,
    Weight8,
)
from rankdistill.options.ranges import MOST_SEED, option, within
from rankdistill.options.sweep import GridSweeper, JoblibLauncher, OptunaSweeper, Prune, RayLauncher, SubmititLauncher
from rankdistill.options.track import MlflowTrack, NoTrack, Track
from rankdistill.options.unlabelled import (
    Augment,
    BaselinesWarm,
    Draw,
    DrawnAugment,
    NoAugment,
    NoWarm,
    SimilarityWarm,
    Warm,
)
from rankdistill.options.update import (
    AllUpdate,
    DriftSignal,
    Events,
    Follow,
    HeadUpdate,
    LoraUpdate,
    TopLayersUpdate,
    Update,
    Updating,
)

__all__ = [
    "AdrMse",
    "AllUpdate",
    "Attention",
    "Augment",
    "BaselinesWarm",
    "BeirData",
    "Budget",
    "Cascade",
    "Config",
    "CrossEncoderTeacher",
    "Data",
    "DistilledEmbed",
    "Draw",
    "DrawnAugment",
    "DriftSignal",
    "Embed",
    "Embedding",
    "EncoderTeacher",
    "Events",
    "EventsData",
    "Export",
    "Fit",
    "Follow",
    "FusedInt8",
    "GridSweeper",
    "HeadUpdate",
    "Hidden",
    "HubData",
    "Input",
    "Int8",
    "JoblibLauncher",
    "Kl",
    "Labels",
    "LambdaLoss",
    "LayeredCascade",
    "LoraUpdate",
    "Loss",
    "MarginMse",
    "Measure",
    "MlflowTrack",
    "MovieLensData",
    "Mse",
    "NoAugment",
    "NoCascade",
    "NoEmbed",
    "NoQuantize",
    "NoTrack",
    "NoWarm",
    "OptunaSweeper",
    "PcaEmbed",
    "Prune",
    "Quantize",
    "RankNet",
    "RayLauncher",
    "Relations",
    "SearchedInt8",
    "SimilarityWarm",
    "SlateData",
    "StateTerm",
    "Student",
    "SubmititLauncher",
    "Teacher",
    "Term",
    "TopLayersUpdate",
    "Track",
    "Train",
    "Update",
    "Updating",
    "Vocabulary",
    "Warm",
    "Weight8",
    "register",
]

FOLDER_NAME = (lambda name: bool(name) and "/" not in name and name not in (".", ".."), "a folder's name")
NOT_THE_STORE = (lambda name: name != "stages", "another name: runs/stages is the store")


@dataclass
class Config:
    """An experiment."""

    name: str = option(MISSING, FOLDER_NAME, NOT_THE_STORE)
    seed: int = option(0, within(0, MOST_SEED))
    runs: str = "runs"
    bundle: bool = True
    rivals: str | None = None
    data: Data = MISSING
    teacher: Teacher = MISSING
    warm: Warm = MISSING
    augment: Augment = MISSING
    student: Student = MISSING
    loss: Loss = MISSING
    train: Train = MISSING
    export: Export = field(default_factory=Export)
    quantize: Quantize = MISSING
    cascade: Cascade = MISSING
    embed: Embed = MISSING
    measure: Measure = MISSING
    budget: Budget = field(default_factory=Budget)
    track: Track = MISSING


NODES: dict[str, dict[str, type]] = {
    "schema": {"config": Config, "updating": Updating},
    "schema/data": {"events": EventsData, "movielens": MovieLensData, "beir": BeirData, "hub": HubData},
    "schema/teacher": {"encoder": EncoderTeacher, "cross_encoder": CrossEncoderTeacher},
    "schema/warm": {"none": NoWarm, "similarity": SimilarityWarm, "baselines": BaselinesWarm},
    "schema/augment": {"none": NoAugment, "drawn": DrawnAugment},
    "schema/student": {"layers": Student},
    "schema/loss": {"weighted": Loss},
    "schema/term": {**TERMS},
    "schema/train": {"train": Train},
    "schema/update": {"head": HeadUpdate, "top_k_layers": TopLayersUpdate, "lora": LoraUpdate, "all": AllUpdate},
    "schema/quantize": {
        "none": NoQuantize,
        "int8": Int8,
        "int8_fused": FusedInt8,
        "weight8": Weight8,
        "search": SearchedInt8,
    },
    "schema/cascade": {"none": NoCascade, "layered": LayeredCascade},
    "schema/embed": {"none": NoEmbed, "pca": PcaEmbed, "distilled": DistilledEmbed},
    "schema/measure": {"measure": Measure},
    "schema/budget": {"budget": Budget},
    "hydra/schema/launcher": {"joblib": JoblibLauncher, "submitit": SubmititLauncher, "ray": RayLauncher},
    "hydra/schema/sweeper": {"grid": GridSweeper, "optuna": OptunaSweeper},
    "schema/track": {"none": NoTrack, "mlflow": MlflowTrack},
}


def register() -> None:
    """Make the schema known to Hydra, and `${home:PATH}`, a path with `~` expanded."""
    OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)
    store = ConfigStore.instance()
    for group, nodes in NODES.items():
        for name, node in nodes.items():
            store.store(group=group, name=name, node=node, provider="rankdistill")
