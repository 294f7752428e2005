"""From a bundle's folder to what answers requests."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from rankdistill.export.errors import UserError
from rankdistill.export.runtime.bm25 import Bm25
from rankdistill.export.runtime.cascade import Cascade
from rankdistill.export.runtime.embedder import Embedder
from rankdistill.export.runtime.manifest import CASCADE, EMBEDDER, Manifest
from rankdistill.export.runtime.plan import OneModel, Plan
from rankdistill.export.runtime.ranker import Ranker
from rankdistill.export.serve.caching.redis_scores import SharedScores
from rankdistill.export.serve.caching.score_cache import Cached, ScoreCache
from rankdistill.export.serve.models.governor import Governor, Setting
from rankdistill.export.serve.models.served_bundle import Served, ServedLevel
from rankdistill.export.serve.settings import Cache, Settings

logger = logging.getLogger("ranker")


def load_served(bundle: Path, settings: Settings, threads: int, cache: ScoreCache | None) -> Served:
    """Load a bundle: its cascade if it has one, else its model.

    Args:
        bundle: its folder.
        settings: `variant` and `level` choose the graph, or the way through the cascade; `governor` lets it move.
        threads: that will score.
        cache: of scores; None for none.

    Raises:
        BundleError, ModelError: if it is no bundle, or cannot be loaded; if it has no such variant or level.
        UserError: if a variant is asked for of a cascade, or a governor of a bundle without one.
    """
    manifest = Manifest.read(bundle)
    served = _load_rankers(bundle, manifest, settings, threads, cache)
    if manifest.doubt is not None:
        logger.warning("%s: %s", bundle, manifest.doubt)
    if EMBEDDER not in manifest.content["files"]:
        return served
    return replace(served, embedder=Embedder.load(bundle, threads=threads))


def _load_rankers(
    bundle: Path, manifest: Manifest, settings: Settings, threads: int, cache: ScoreCache | None
) -> Served:
    if CASCADE in manifest.content["files"] or settings.level is not None:
        if settings.variant is not None:
            raise UserError(f"variant={settings.variant}: a cascade names the graphs of its stages; choose a level")
        if settings.states is not None:
            raise UserError(f"states={settings.states}: states are of a student alone; {bundle} has a cascade")
        return _served_cascade(Cascade.load(bundle, settings.level, threads=1), manifest, settings, threads, cache)
    if settings.governor.p99_ms is not None:
        raise UserError(f"governor.p99_ms={settings.governor.p99_ms}: {bundle} has no cascade to move along")
    # the dispatcher's threads score
    ranker = Ranker.load(bundle, variant=settings.variant, threads=1, states=settings.states)
    return Served(ranker, (_level(ranker.variant.name, OneModel(ranker), cache),))


def _served_cascade(
    cascade: Cascade, manifest: Manifest, settings: Settings, threads: int, cache: ScoreCache | None
) -> Served:
    own = next(
        each for each in cascade.scorers.values()
        if isinstance(each, Ranker) and each.manifest.folder == manifest.folder
    )  # fmt: skip
    if settings.governor.p99_ms is None:
        return Served(own, (_level(cascade.level.name, cascade, cache),))
    levels = Cascade.levels(manifest.folder)
    try:
        governor = Governor(
            [Setting(level.name, level.retention, level.cpu_ms / 1000) for level in levels],
            threads=threads, target_s=settings.governor.p99_ms / 1000, floor=settings.governor.floor,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"governor: {error}") from error
    plans = [(setting.name, cascade.at(setting.name)) for setting in governor.settings]
    return Served(own, tuple(_level(name, plan, cache) for name, plan in plans), governor)


def open_cache(settings: Cache) -> ScoreCache | None:
    """Return the cache of this process; None if it is off.

    Raises:
        UserError: if a library that it needs is not installed.
    """
    if not settings.mb:
        return None
    shared = None
    if settings.redis is not None:
        shared = SharedScores(settings.redis, settings.ttl_s, settings.timeout_ms)
    return ScoreCache(int(settings.mb * 1e6), shared)


def close_served(served: Served) -> None:
    """Give back the models of a bundle."""
    if isinstance(served.bare, Cascade):
        served.bare.close()  # for every level
    served.ranker.close()
    if served.embedder is not None:
        served.embedder.close()


def _level(name: str, bare: Plan, cache: ScoreCache | None) -> ServedLevel:
    counts_terms = isinstance(bare, Cascade) and isinstance(bare.scorers[bare.level.stages[0]], Bm25)
    return ServedLevel(name, bare if cache is None else Cached(bare, cache), bare, counts_terms)
