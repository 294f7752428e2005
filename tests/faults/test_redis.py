"""The shared cache's server is killed and started again under requests: every answer is right and in time."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from rankdistill.export.runtime.plan import OneModel
from rankdistill.export.serve.caching.redis_scores import SharedScores
from rankdistill.export.serve.caching.score_cache import PAGE_BYTES, Cached, ScoreCache
from rankdistill.export.serve.scheduling.dispatcher import Dispatcher
from tests.redis_server import RedisServer

pytestmark = pytest.mark.faults
KILLS = 4


class Ranker:
    """Scores an item by its own number and the query's."""

    variant = SimpleNamespace(batch_invariant=False, batch=1)

    def __init__(self, key, factor):
        self.key, self.factor = key, factor

    def truth(self, query, items):
        return np.array([self.factor * int(query) + int(item) for item in items], dtype=np.float32)

    def pairs(self, query, items):
        scores = np.empty(len(items), dtype=np.float32)

        def run(rows):
            scores[rows] = self.truth(query, [items[row] for row in rows])

        return SimpleNamespace(scores=scores, tasks=[[row] for row in range(len(items))], run=run)


def replica(server, rankers):
    """A process's cache, too small for the requests below, so that the shared one is asked again and again."""
    shared = SharedScores(server.url, ttl_s=60, timeout_ms=200)
    cache = ScoreCache(4 * PAGE_BYTES, shared)
    return SimpleNamespace(shared=shared, plans=[Cached(OneModel(ranker), cache) for ranker in rankers])


def test_a_server_that_is_killed_and_started_again_costs_no_answer(tmp_path):
    server = RedisServer(tmp_path).start()
    rankers = [Ranker("a", 1000), Ranker("b", 2000)]
    replicas = [replica(server, rankers) for _ in range(2)]
    dispatcher, end = Dispatcher(2, capacity=10_000), threading.Event()
    wrong, longest, answered = [], [0.0], [0]

    def ask(seed):
        rng = np.random.default_rng(seed)
        while not end.is_set():
            plan = replicas[seed % 2].plans[rng.integers(2)]
            query, items = str(rng.integers(30)), [str(number) for number in rng.permutation(40)]
            begun = time.monotonic()
            scores = dispatcher.submit(plan, query, items).result(30).scores
            longest[0] = max(longest[0], time.monotonic() - begun)
            answered[0] += 1
            if not np.array_equal(scores, plan.plan.ranker.truth(query, items)):
                wrong.append((plan.key, query, items))

    askers = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(KILLS):
            time.sleep(0.5)
            server.kill()
            time.sleep(0.7)
            server.start()
        hits = [each.shared.hits for each in replicas]
        deadline = time.monotonic() + 10
        while any(each.shared.hits <= before for each, before in zip(replicas, hits, strict=True)):
            assert time.monotonic() < deadline, "the server is not asked again"
            time.sleep(0.05)
    finally:
        end.set()
        for asker in askers:
            asker.join(30)
        dispatcher.close(5)
        for each in replicas:
            each.shared.close()
        server.kill()
    assert wrong == []
    assert answered[0] > 100
    assert longest[0] < 5.0
    assert 0 < sum(each.shared.failures for each in replicas) < 40 * KILLS  # not one for each request
    assert not any(asker.is_alive() for asker in askers)
