"""The service without HTTP: who goes first, what is kept, what is dropped."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time

import numpy as np
import pytest

from rankdistill.export.runtime.plan import OneModel
from rankdistill.export.serve.caching.score_cache import Cached, ScoreCache
from rankdistill.export.serve.models.model_slot import Model
from rankdistill.export.serve.models.served_bundle import Served, ServedLevel
from rankdistill.export.serve.scheduling.job import DeadlinePassed
from rankdistill.export.serve.service import PRIORITIES, RankRequest, Service
from rankdistill.export.serve.settings import Queue, Settings
from tests.fake_ranker import FakeRanker, logit


def run(scenario, *, policy: str = "priority", cache: ScoreCache | None = None) -> object:
    ranker = FakeRanker()
    bare = OneModel(ranker)
    served = Served(ranker, (ServedLevel("fake", bare if cache is None else Cached(bare, cache), bare),))
    model = Model("fake", served, ranker.close)
    service = Service(model, dataclasses.replace(Settings(), queue=Queue(policy=policy)), 1, cache)
    try:
        return asyncio.run(scenario(service, ranker))
    finally:
        ranker.gate.set()
        service.close()


async def order_of(service: Service, ranker: FakeRanker, requests: dict[str, RankRequest]) -> list[str]:
    """Line requests up behind one that is held up; return in which order they are done."""
    ranker.gate.clear()
    done: list[str] = []

    async def ask(name: str, request: RankRequest) -> None:
        await service.rank(request)
        done.append(name)

    asked = [asyncio.ensure_future(ask("", RankRequest("held up", ["a"], PRIORITIES["high"])))]
    await asyncio.sleep(0.05)
    for name, request in requests.items():
        asked.append(asyncio.ensure_future(ask(name, request)))
        await asyncio.sleep(0.005)
    ranker.gate.set()
    await asyncio.gather(*asked)
    return done[1:]


@pytest.mark.parametrize(
    ("policy", "order"), [("priority", ["high", "normal", "low"]), ("fifo", ["low", "normal", "high"])]
)
def test_classes_go_first_by_the_policy(policy, order):
    requests = {name: RankRequest(name, ["a", "b"], PRIORITIES[name]) for name in ("low", "normal", "high")}
    assert run(lambda service, ranker: order_of(service, ranker, requests), policy=policy) == order


def test_within_a_class_an_active_users_request_is_worth_more():
    async def scenario(service, ranker):
        for number in range(50):
            await service.rank(RankRequest(f"before {number}", ["a"], user="active"))
        return await order_of(
            service,
            ranker,
            {"new": RankRequest("one", ["a"], user="new"), "active": RankRequest("two", ["a"], user="active")},
        )

    assert run(scenario) == ["active", "new"]


def test_a_pair_seen_before_is_not_scored_again_and_has_the_same_score():
    async def scenario(service, ranker):
        first = await service.rank(RankRequest("q", ["one", "three", "five!"]))
        again = await service.rank(RankRequest("q", ["five!", "new one", "one"]))
        return ranker.run, first, again

    cache = ScoreCache(100_000)
    scored, first, again = run(scenario, cache=cache)
    assert scored == 4
    assert (cache.hits, cache.misses) == (2, 4)
    expected = np.array([logit("q", text) for text in ("five!", "new one", "one")], dtype=np.float32)
    np.testing.assert_array_equal(again.answer.scores, expected)
    assert first.model == again.model


def test_a_deadline_ends_the_waiting_though_the_model_is_stuck():
    async def scenario(service, ranker):
        ranker.gate.clear()
        began = time.monotonic()
        with pytest.raises(DeadlinePassed):
            await service.rank(RankRequest("q", ["a", "b"], deadline=began + 0.05))
        return time.monotonic() - began

    assert run(scenario) == pytest.approx(0.05, abs=0.5)


def test_a_closed_service_says_so():
    async def scenario(service, ranker):
        service.close()
        with pytest.raises(RuntimeError, match="closed"):
            await service.rank(RankRequest("q", ["a"]))

    run(scenario)


def test_a_request_that_is_cancelled_while_a_shared_cache_is_asked_leaves_no_work():
    class Slow:
        """A shared cache that knows nothing and takes its time."""

        def get(self, digests):
            asked.set()
            time.sleep(0.1)
            return np.full(len(digests), np.nan, dtype=np.float32)

        def put(self, digests, scores): ...

        def close(self): ...

    async def scenario(service, ranker):
        ranker.gate.clear()
        ranking = asyncio.ensure_future(service.rank(RankRequest("q", [*"abcdefghijkl"])))
        while not asked.is_set():
            await asyncio.sleep(0.001)
        ranking.cancel()
        await asyncio.sleep(0.2)
        ranker.gate.set()
        while service.dispatcher.waiting:
            await asyncio.sleep(0.001)
        return ranker.run

    asked = threading.Event()
    assert run(scenario, cache=ScoreCache(100_000, Slow())) < 12
