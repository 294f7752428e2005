"""The service without HTTP: what answers, the threads that score, what is kept, and what a request is worth."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rankdistill.export.errors import UserError
from rankdistill.export.runtime.cascade import Cascade
from rankdistill.export.runtime.manifest import MANIFEST
from rankdistill.export.runtime.threads import available_cores
from rankdistill.export.runtime.untrusted.bounded_files import hash_file
from rankdistill.export.serve.caching.frequent_requests import Head
from rankdistill.export.serve.caching.score_cache import Cached, ScoreCache, warm
from rankdistill.export.serve.models.bundle_sources import open_source
from rankdistill.export.serve.models.loading import close_served, load_served, open_cache
from rankdistill.export.serve.models.model_slot import Model, Slot
from rankdistill.export.serve.models.reload import Reload
from rankdistill.export.serve.models.served_bundle import Served, ServedLevel
from rankdistill.export.serve.models.trial import TrialBudget
from rankdistill.export.serve.scheduling.dispatcher import Dispatcher
from rankdistill.export.serve.scheduling.job import Answer, DeadlinePassed, QueueFull
from rankdistill.export.serve.scheduling.request_worth import Worth
from rankdistill.export.serve.settings import Reloading, Settings
from rankdistill.export.serve.worker_commands import Commands

PRIORITIES = {"high": 0, "normal": 1, "low": 2}
logger = logging.getLogger("ranker")
FORGIVEN_S = 2.0  # for threads to end what they are in the midst of, when everything closes
SUBMITTERS = 8  # threads that ask a shared cache, so that the event loop never waits for it


@dataclass(frozen=True, slots=True)
class RankRequest:
    """Items to be scored for a query, and how pressing that is.

    Attributes:
        query: text of the query.
        items: texts of the items.
        priority: 0, 1 or 2 (`PRIORITIES`).
        user: who asks; None if unknown.
        deadline: time.monotonic() after which nobody wants the answer; None for never.
        counted: whether its tokens are to be counted.
    """

    query: str
    items: Sequence[str]
    priority: int = PRIORITIES["normal"]
    user: str | None = None
    deadline: float | None = None
    counted: bool = False


class Ranking(NamedTuple):
    """What a request got.

    Attributes:
        answer: its scores are raw logits, float32 [items], shared with equal requests: not to be changed.
        model: name of what answered.
        level: of its cascade; without one, the graph.
        tokens: that it read of the request, if they were asked for.
    """

    answer: Answer
    model: str
    level: str
    tokens: int | None


class Service:
    """Ranks requests of one event loop. Close it in the end.

    Args:
        model: what answers first.
        settings: of the queue, the limits, and of new bundles.
        threads: that score.
        cache: that the model uses; None for none.

    Raises:
        UserError: if the file of frequent requests is none.
    """

    def __init__(self, model: Model[Served], settings: Settings, threads: int, cache: ScoreCache | None = None) -> None:
        self.slot, self.settings, self.threads, self.cache = Slot(model), settings, threads, cache
        self.draining = False
        self.dispatcher = Dispatcher(
            threads, policy=settings.queue.policy, capacity=settings.limits.concurrency, age=settings.queue.age_s
        )
        self._worth = Worth() if settings.queue.policy == "priority" else None  # no other policy asks for it
        self._waits = cache is not None and cache.shared is not None
        self._submitters = ThreadPoolExecutor(SUBMITTERS, thread_name_prefix="submit")
        self._head = Head() if cache is not None else None
        self._closing = threading.Event()
        self.reload = Reload(
            self.slot, self.dispatcher, self._load, self._warm, _budget(settings.reload), settings.reload.share,
            Path(settings.reload.key) if settings.reload.key else None,
        )  # fmt: skip
        if self._head is not None and settings.cache.head is not None:
            self._head.load(Path(settings.cache.head))

    @classmethod
    def load(cls, bundle: Path, settings: Settings) -> Service:
        """Load a bundle into this process, which is one of `settings.workers`.

        Raises:
            UserError: if it cannot be served, or the cache cannot be had.
        """
        threads = max(1, (settings.threads or available_cores()) // settings.workers)
        cache = open_cache(settings.cache)
        return cls(load_model(bundle, settings, threads, cache), settings, threads, cache)

    def start(self, commands: Path | None = None) -> None:
        """Begin what goes on beside requests: warming the cache, looking for new bundles.

        Args:
            commands: folder in which all workers find what they are told (`commands`); None if nobody tells.
        """
        if self._head is not None and self.settings.cache.head is not None:
            threading.Thread(target=self._warm, args=(self.slot.current,), name="warm", daemon=True).start()
        options = self.settings.reload
        source = None if options.watch is None else open_source(options.watch, self.served.ranker.manifest.folder)
        if source is not None or commands is not None:
            self.reload.watch(source, options.interval_s, None if commands is None else Commands(commands))

    @property
    def served(self) -> Served:
        """What answers requests that begin now."""
        return self.slot.current.content

    async def rank(self, request: RankRequest) -> Ranking:
        """Score a request; cancelled, its work is dropped. It ends with the model that it began with.

        Raises:
            QueueFull: if as many requests wait as may.
            DeadlinePassed: at its deadline.
            RuntimeError: if the service is closed.
        """
        began = time.monotonic()
        with self.slot.lease() as model:
            served = model.content
            place = served.begin(self.dispatcher.backlog_s)
            level = served.levels[place]
            try:
                answer = await self._scored(level, request)
            except DeadlinePassed:
                served.end(place, began, None)
                raise
            except (QueueFull, asyncio.CancelledError):
                raise
            except Exception as error:
                if not self.draining:
                    self.reload.failed(model, error)
                raise
            served.end(place, began, answer)
            if np.isfinite(answer.scores).all():
                self.reload.answered(model, request.query, request.items, answer)
            else:
                self.reload.failed(model, ValueError("scores that are no numbers"))
            tokens = None
            if request.counted:  # apart from the loop: where scores were kept and tokens were not, all are made again
                tokens = await asyncio.get_running_loop().run_in_executor(self._submitters, _tokens, served, request)
            return Ranking(answer, served.name, level.name, tokens)

    async def _scored(self, level: ServedLevel, request: RankRequest) -> Answer:
        future = asyncio.wrap_future(await self._submit(level, request))
        if request.deadline is None:
            return await future
        try:
            return await asyncio.wait_for(future, request.deadline - time.monotonic())
        except TimeoutError as error:  # the dispatcher looks at a deadline when a request's turn has come
            raise DeadlinePassed("the deadline passed before the scores were there") from error

    async def _submit(self, level: ServedLevel, request: RankRequest) -> Future[Answer]:
        if not self._waits:
            return self._submit_here(level, request)
        loop = asyncio.get_running_loop()
        submitted = loop.run_in_executor(self._submitters, self._submit_here, level, request)
        try:
            return await asyncio.shield(submitted)
        except asyncio.CancelledError:
            submitted.add_done_callback(_drop)  # a thread cannot be stopped: what it lines up is dropped
            raise

    def _submit_here(self, level: ServedLevel, request: RankRequest) -> Future[Answer]:
        query, items, worth = request.query, request.items, 0.0
        characters = len(query) * len(items) + sum(map(len, items))
        if self._head is not None:
            self._head.saw(query, items, characters)
        if self._worth is not None:
            worth = self._worth.of(query, request.user, characters)
            self._worth.saw(query, request.user)
        return self.dispatcher.submit(
            level.plan, query, items, priority=request.priority, worth=worth, deadline=request.deadline,
            begins_slowly=level.begins_slowly,
        )  # fmt: skip

    async def longest(self, query: str, items: Sequence[str]) -> int:
        """Return the tokens, special ones included, of a request's longest pair before anything is cut off."""
        with self.slot.lease() as model:
            longest = model.content.ranker.longest
            return await asyncio.get_running_loop().run_in_executor(self._submitters, longest, query, items)

    def drain(self) -> None:
        """Say that no more requests are wanted; those in flight are finished."""
        self.draining = True

    def close(self) -> None:
        """End the threads and give back the models; what is still in flight fails."""
        self.draining = True
        self._closing.set()
        self.reload.close()
        self._submitters.shutdown(wait=False, cancel_futures=True)
        self.dispatcher.close(FORGIVEN_S)
        self.slot.close()
        if self.cache is not None and self.cache.shared is not None:
            self.cache.shared.close()
        if self._head is not None and self.settings.cache.head is not None:
            try:
                self._head.save(Path(self.settings.cache.head))
            except UserError as error:
                logger.warning("cache.head: %s", error)

    def _load(self, bundle: Path) -> Model[Served]:
        model = load_model(bundle, self.settings, self.threads, self.cache)
        before = self.served.governor
        if before is not None and model.content.governor is not None:
            model.content.governor.begin_at(before.setting.name)
        return model

    def _warm(self, model: Model[Served]) -> None:
        """Score the most frequent requests by the level that will answer them, so that the cache knows them."""
        if self._head is None or not self.settings.reload.warm:
            return
        governor = model.content.governor
        plan = model.content.levels[0 if governor is None else governor.settings.index(governor.setting)].plan
        if isinstance(plan, Cached):
            done = warm(plan, self._head.top(self.settings.reload.warm), self.dispatcher.submit, self._closing)
            logger.info("%s is warm: %d requests", model.name, done)


def load_model(bundle: Path, settings: Settings, threads: int, cache: ScoreCache | None) -> Model[Served]:
    """Load a bundle to be leased by requests; as `load_served`."""
    served = load_served(bundle, settings, threads, cache)
    name = served.ranker.key
    if isinstance(served.bare, Cascade):  # which is more than its student
        name = f"{name}+{hash_file(bundle / MANIFEST)[:8]}"
    return Model(name, served, partial(close_served, served))


def _budget(options: Reloading) -> TrialBudget:
    return TrialBudget(options.requests, options.max_slowdown, options.min_overlap, options.max_errors, options.seconds)


def _tokens(served: Served, request: RankRequest) -> int:
    return sum(served.ranker.pairs(request.query, request.items).tokens)


def _drop(submitted: asyncio.Future[Future[Answer]]) -> None:
    if not submitted.cancelled() and submitted.exception() is None:
        submitted.result().cancel()
