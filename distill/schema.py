"""Every option and its type; the only place that knows Hydra's ConfigStore. What values may be: `distill.validate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class Data:
    """A data set; each kind adds its own options."""

    kind: str = MISSING
    licence: str | None = None  # a note for those who receive the bundle; shapes nothing
    seed: int = 0  # of the split and the candidates, apart from the training's seed


@dataclass
class SlateData(Data):
    """Candidate lists made of events: a user's past is the query, what came next are the candidates."""

    history: float = 0.8
    liked_titles: int = 6
    max_positives: int = 10
    max_disliked: int = 10
    candidates: int = 50
    dev_users: int = 200
    test_users: int = 200


@dataclass
class EventsData(SlateData):
    """A folder with events.tsv, items.jsonl and, if there, users.jsonl."""

    kind: str = "events"
    path: str = MISSING
    name: str | None = None


@dataclass
class MovieLensData(SlateData):
    """MovieLens-100K; without a path it is downloaded from the package index."""

    kind: str = "movielens"
    path: str | None = None


@dataclass
class BeirData(Data):
    """A folder in BEIR layout."""

    kind: str = "beir"
    path: str = MISSING
    name: str | None = None
    relevant: int = 1
    candidates: int = 50
    dev_fraction: float = 0.1


@dataclass
class HubData(Data):
    """A data set that `datasets.load_dataset` knows, by name or local path."""

    kind: str = "hub"
    path: str = MISSING
    subset: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    name: str | None = None
    relevant: int = 1
    dev_fraction: float = 0.1
    max_queries: int | None = None


@dataclass
class Fit:
    """How long and how fast a model is trained."""

    epochs: float = 1.0
    max_pairs: int | None = None
    learning_rate: float = 1e-4
    head_rate: float = 1.0  # times learning_rate, for pooler and classifier
    warmup: float = 0.1
    weight_decay: float = 0.01
    group_size: int = 8
    batch_groups: int = 4
    evaluations: int = 3
    keep: str = "best"
    dev_queries: int | None = 100


@dataclass
class Teacher:
    """A BERT by name on the hub, folder, or `package:NAME/FOLDER` in an installed package."""

    kind: str = MISSING
    model: str = MISSING
    sha256: str | None = None
    max_length: int = 128
    licence: str | None = None  # a note for those who receive the bundle; shapes nothing


@dataclass
class EncoderTeacher(Teacher):
    """A plain encoder, fine-tuned on the labels."""

    kind: str = "encoder"
    fit: Fit = field(default_factory=Fit)


@dataclass
class CrossEncoderTeacher(Teacher):
    """A reranker that is tuned already, used as it is."""

    kind: str = "cross_encoder"


@dataclass
class Student:
    """A BERT made of some of the teacher's layers."""

    layers: Any = MISSING
    hidden_size: int = MISSING
    max_length: int = MISSING
    fit: Fit = field(default_factory=Fit)


@dataclass
class Term:
    """One loss of the weighted sum."""

    weight: float = 1.0


@dataclass
class MarginMse(Term):
    """Margin-MSE on the teacher's scores."""


@dataclass
class Kl(Term):
    """Listwise KL from the teacher's scores."""

    temperature: float = 1.0


@dataclass
class Labels(Term):
    """Softmax cross-entropy on the graded labels."""


@dataclass
class Loss:
    """The weighted sum that a student is trained on, by name of its terms."""

    terms: dict[str, Term] = field(default_factory=dict)


@dataclass
class Train:
    """How the machine is used in training and scoring with PyTorch."""

    precision: str = "auto"
    attention: str = "auto"
    freeze_embeddings: bool = True
    dropout: float = 0.0
    accumulate: int = 1
    score_batch: int = 64
    report_to: list[str] = field(default_factory=list)


@dataclass
class Export:
    """How the ONNX graph is made."""

    cls_only: bool = True
    opset: int = 18


@dataclass
class Quantize:
    """How weights and activations become 8 bits."""

    kind: str = MISSING


@dataclass
class NoQuantize(Quantize):
    """No quantization; the table has no int8 rows."""

    kind: str = "none"


@dataclass
class Int8(Quantize):
    """Dynamic int8: s8 weights, u8 activations whose range is found at run time."""

    kind: str = "int8"
    per_channel: bool = False
    reduce_range: bool = False


@dataclass
class Measure:
    """What the table is measured on and how long."""

    split: str = "test"
    threads: int | None = None
    latency_queries: int = 30
    warmup_queries: int = 3
    rounds: int = 2
    parity_queries: int = 20
    confidence: float = 0.95
    resamples: int = 10000


@dataclass
class Budget:
    """What a student is held to; `export.measure.budget` says what a bound can be."""

    require: list[str] = field(default_factory=list)
    confidence: float = 0.95
    time_limit: float = 120.0


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
