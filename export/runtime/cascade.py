"""Layered models: stages from cheap to dear, each passing on what the next one is worth asking about."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.bm25 import Bm25
from rankdistill.export.runtime.manifest import CASCADE, MANIFEST, NAME, STAGES, Manifest
from rankdistill.export.runtime.plan import Step, Steps, score
from rankdistill.export.runtime.ranker import KEEP_MB, Ranked, Ranker
from rankdistill.export.runtime.shortlist import Cut, Shortlist
from rankdistill.export.runtime.similarity_stage import Nearness
from rankdistill.export.runtime.untrusted.bounded_files import read_json
from rankdistill.export.runtime.untrusted.json_schema import Schema, Within, broken

# where a stage is: the bundle itself, a bundle in it, a catalogue's counts, the bundle's embedder
OWN, BUNDLE, BM25, EMBEDDED = "own", "bundle", "bm25", "embedder"
LEVEL_SCHEMA: Schema = {
    "name": re.compile(r"[!-~]{1,64}"),  # it stands in a header of HTTP
    "stages": [NAME],
    "cuts": [{"rank": Within(int, 1, 1 << 53), "margin": Within(float, 0, 1e9)}],
    "cpu_ms": Within(float, 0, 1e9),
    "ndcg@10": Within(float, 0, 1),
    "retention": Within(float, 0, 1e9),
}
SCHEMA: Schema = {
    "stages": [{"name": NAME, "kind": re.compile(f"{OWN}|{BUNDLE}|{BM25}|{EMBEDDED}"), "variant": (str, type(None))}],
    "levels": [LEVEL_SCHEMA],
    "default": str,
}

Scorer = Ranker | Bm25 | Nearness


@dataclass(frozen=True)
class Level:
    """A way through the stages, as it was measured where the bundle was made.

    Attributes:
        name: is told with every answer that it gave.
        stages: names of those that it uses, from cheap to dear.
        cuts: what each stage but the last passes on.
        cpu_ms: CPU time of a query.
        ndcg: mean nDCG@10 of the measured split.
        retention: its nDCG@10 over that of the dearest stage alone.
    """

    name: str
    stages: tuple[str, ...]
    cuts: tuple[Cut, ...]
    cpu_ms: float
    ndcg: float
    retention: float


class Cascade:
    """A plan (`plan.Plan`) of several stages: of the items that are left each scores all and passes some on.

    The scores are one float32 scale. What the last stage saw has that stage's raw logits, unchanged. Every other item
    lies below all of these, in the order of the stage that saw it last; its number tells that order and no more.

    Use as a context manager, or close it; levels of one cascade (`at`) share its models.

    Args:
        scorers: by the stages' names, from cheap to dear.
        levels: from the dearest to the cheapest.
        level: the one to take.

    Raises:
        BundleError: if there is no such level.
    """

    def __init__(self, scorers: Mapping[str, Scorer], levels: Sequence[Level], level: str) -> None:
        found = [each for each in levels if each.name == level]
        if not found:
            raise BundleError(f"the cascade has no level {level}; it has {', '.join(each.name for each in levels)}")
        self.level, self.scorers, self._levels = found[0], dict(scorers), tuple(levels)
        self._stages = [self.scorers[name] for name in self.level.stages]

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str],
        level: str | None = None,
        *,
        threads: int | None = None,
        keep_mb: float = KEEP_MB,
    ) -> Cascade:
        """Load a bundle's cascade with the models of all its levels.

        Args:
            bundle: the bundle's folder.
            level: name of a level; None for the one that holds the tolerance that was asked for.
            threads: that score at once, of every model; None for every core that this process may use.
            keep_mb: memory of every model for tokens, or vectors, of texts seen before, in 10^6 bytes; 0 keeps none.

        Raises:
            BundleError: if it is no bundle or has no cascade or level of that name, or a file is not the one that its
                manifest tells of.
            ModelError: if onnxruntime or tokenizers cannot load a model.
            ValueError: if threads < 1 or keep_mb < 0.
        """
        manifest = Manifest.read(Path(bundle))
        content = read_cascade(manifest)
        levels = [_level(fields) for fields in content["levels"]]
        scorers: dict[str, Scorer] = {}
        try:
            for stage in content["stages"]:
                if stage["kind"] == BM25:
                    scorers[stage["name"]] = Bm25.load(manifest.checked(f"{STAGES}/{stage['name']}.json"))
                elif stage["kind"] == EMBEDDED:
                    scorers[stage["name"]] = Nearness.load(
                        manifest.folder, stage["variant"], threads=threads, keep_mb=keep_mb
                    )
                else:
                    folder = stage_folder(manifest, stage)
                    scorers[stage["name"]] = Ranker.load(
                        folder, variant=stage["variant"], threads=threads, keep_mb=keep_mb
                    )
            return cls(scorers, levels, content["default"] if level is None else level)
        except BaseException:
            _close(scorers)
            raise

    @staticmethod
    def levels(bundle: str | os.PathLike[str]) -> list[Level]:
        """Return the levels of a bundle's cascade, from the dearest to the cheapest; no model is loaded.

        Raises:
            BundleError: if it is no bundle, or has no cascade.
        """
        return [_level(fields) for fields in read_cascade(Manifest.read(Path(bundle)))["levels"]]

    def at(self, level: str) -> Cascade:
        """Return another level of the same models.

        Raises:
            BundleError: if there is no such level.
        """
        return Cascade(self.scorers, self._levels, level)

    def steps(self, query: str, items: Sequence[str]) -> Steps:
        """See `Plan.steps`."""
        if isinstance(items, str):
            raise TypeError("items is one str; it is a sequence of them")
        shortlist = Shortlist(len(items))
        for stage, cut in itertools.zip_longest(self._stages, self.level.cuts):
            texts = [items[row] for row in shortlist.left.tolist()]
            scores = stage.scores(query, texts) if isinstance(stage, Bm25) else (yield Step(stage, query, texts))
            if cut is not None:
                shortlist.pass_on(scores, cut)
        return shortlist.scores(scores)

    def rank(self, query: str, items: Sequence[str], top_k: int | None = None) -> list[Ranked]:
        """Rank a query's items, best first; as `Ranker.rank`.

        Raises:
            TypeError: if a text is no str.
            ValueError: if top_k < 0.
            RuntimeError: if the cascade is closed.
        """
        if top_k is not None and top_k < 0:
            raise ValueError(f"top_k={top_k}: at least 0")
        scores = score(self, query, items)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(index), float(scores[index])) for index in order]

    def close(self) -> None:
        """Close the models, for every level of them; closing twice does nothing."""
        _close(self.scorers)

    def __enter__(self) -> Cascade:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_cascade(manifest: Manifest) -> Mapping[str, Any]:
    """Return a bundle's cascade.json.

    Raises:
        BundleError: if there is none, or it is not the file of the manifest, or not what such a file holds.
    """
    if CASCADE not in manifest.content["files"]:
        raise BundleError(f"{manifest.folder} has no {CASCADE}: it was made with cascade=none")
    path = manifest.checked(CASCADE)
    content = read_json(path)
    problem = next(broken(content, SCHEMA, ""), None) or next(_contradictions(content), None)
    if problem:
        raise BundleError(f"{path}: {problem}")
    return dict(content)


def stage_folder(manifest: Manifest, stage: Mapping[str, Any]) -> Path:
    """Return the bundle of a stage that is a model, its manifest compared with that of the bundle around it.

    Raises:
        BundleError: if it is not the one that the manifest tells of.
    """
    if stage["kind"] == OWN:
        return manifest.folder
    name = f"{STAGES}/{stage['name']}/{MANIFEST}"
    if name not in manifest.content["files"]:
        raise BundleError(f"{manifest.folder / name} is not among the files of {MANIFEST}")
    return manifest.checked(name).parent


def _contradictions(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a file in which each value by itself is right."""
    stages = [stage["name"] for stage in content["stages"]]
    names, costs = ([level[field] for level in content["levels"]] for field in ("name", "cpu_ms"))
    if len(stages) < 2 or len(set(stages)) < len(stages):
        yield f"stages are {stages}; a cascade has at least two, of different names"
    if len(set(names)) < len(names) or content["default"] not in names:
        yield f"levels are {names}, default is {content['default']:.80}; different names they must have, it one of them"
    if sorted(costs, reverse=True) != costs or not all(math.isfinite(cost) for cost in costs):
        yield f"levels cost {costs} ms; from the dearest to the cheapest they must stand"
    for level in content["levels"]:
        used = level["stages"]
        if not used or used != [name for name in stages if name in used]:
            yield f"the level {level['name']} uses {used}; stages are {stages}, in this order"
        if len(level["cuts"]) != len(used) - 1:
            yield f"the level {level['name']} has {len(level['cuts'])} cuts for {len(used)} stages"


def _level(fields: Mapping[str, Any]) -> Level:
    cuts = tuple(Cut(cut["rank"], float(cut["margin"])) for cut in fields["cuts"])
    measured = (float(fields[name]) for name in ("cpu_ms", "ndcg@10", "retention"))
    return Level(fields["name"], tuple(fields["stages"]), cuts, *measured)


def _close(scorers: Mapping[str, Scorer]) -> None:
    for scorer in scorers.values():
        if not isinstance(scorer, Bm25):
            scorer.close()
