"""A ranker without a model: its scores are a formula, and its work can be held up."""

from __future__ import annotations

import json
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from rankdistill.export.runtime.manifest import Manifest


class FakeRanker:
    """Scores a text `len(text) - len(query)`, in tenths.

    Attributes:
        gate: set: pairs are scored; cleared: threads wait before each.
        run: number of pairs scored so far.
        broken: raised instead of scoring, if there is one.
    """

    def __init__(self, max_length: int = 24) -> None:
        variant = SimpleNamespace(name="fake", precision="fp32", batch=1, batch_invariant=True)
        self.variant = variant
        content = {"name": "fake", "key": "0" * 16, "max_length": max_length, "input": {"shortener": None}, "files": {}}
        self.manifest = Manifest(Path("fake"), content, ())
        self.key = f"{content['key']}/{variant.name}"
        self.gate = threading.Event()
        self.gate.set()
        self.run = 0
        self.broken: BaseException | None = None

    def pairs(self, query: str, items: list[str]) -> FakePairs:
        return FakePairs(self, query, items)

    def close(self) -> None:
        self.gate.set()


class FakePairs:
    def __init__(self, ranker: FakeRanker, query: str, items: list[str]) -> None:
        self.ranker, self.query, self.items = ranker, query, items
        self.scores = np.empty(len(items), dtype=np.float32)
        self.tasks = [[row] for row in range(len(items))]
        self.tokens = [len(query.split()) + len(item.split()) + 3 for item in items]

    def run(self, rows: list[int]) -> None:
        self.ranker.gate.wait(20)
        if self.ranker.broken is not None:
            raise self.ranker.broken
        for row in rows:
            self.ranker.run += 1
            self.scores[row] = logit(self.query, self.items[row])


class FakeEmbedder:
    """Gives every text the same vector; while it is busy, when its gate is set.

    Attributes:
        begun: texts whose vectors were asked for.
        ended: texts whose vectors were made.
    """

    def __init__(self) -> None:
        self.width, self.busy, self.gate = 2, True, threading.Event()
        self.encoder = SimpleNamespace(max_length=24, lengths=lambda texts: [len(text) for text in texts])
        self.begun: list[str] = []
        self.ended: list[str] = []

    def embed(
        self, texts: list[str], dimensions: int | None = None, *, normalize: bool, unwanted: threading.Event
    ) -> np.ndarray:
        self.begun += texts
        while self.busy and not self.gate.wait(0.001):
            if unwanted.is_set():
                raise CancelledError
        self.ended += texts
        return np.ones((len(texts), self.width), dtype=np.float32)


def logit(query: str, item: str) -> float:
    """Return what the fake gives a pair."""
    return float("nan") if item == "nan" else (len(item) - len(query)) / 10


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()
