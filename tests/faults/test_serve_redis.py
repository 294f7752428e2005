"""Two services that share a Redis over HTTP, and go on without it."""

from __future__ import annotations

import time

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rankdistill import Ranker
from tests.redis_server import RedisServer
from tests.serving import serving

pytestmark = pytest.mark.faults

THINGS = [f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("car", "lamp", "chair", "boat")]


@pytest.fixture
def server(tmp_path):
    server = RedisServer(tmp_path)
    yield server.start()
    server.kill()


def figures(url: str) -> dict[str, float]:
    """Return what /metrics tells of the shared cache."""
    page = httpx.get(f"{url}/metrics").text
    prefix = "ranker_shared_cache_"
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return {s.name.removeprefix(prefix): s.value for s in samples if s.name.startswith(prefix)}


def until(holds, seconds=30.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.05)


def scores(service, query):
    answer = service.post("/rerank", query=query, texts=THINGS, raw_scores=True)
    assert answer.status_code == 200, answer.text
    found = np.empty(len(THINGS), dtype=np.float32)
    for row in answer.json():
        found[row["index"]] = row["score"]
    return found


def test_what_one_service_scored_another_one_knows_and_both_do_without_a_redis_that_is_killed(bundle, server, tmp_path):
    cache = {"mb": 1, "redis": server.url, "timeout_ms": 2000}
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with (
        serving(bundle, folder=tmp_path / "one", cache=cache) as one,
        serving(bundle, folder=tmp_path / "other", cache=cache) as other,
        Ranker.load(bundle) as ranker,
    ):
        truth = {query: ranker.score_items(query, THINGS) for query in ("a red car", "warm", "lamp", "old boat")}
        np.testing.assert_array_equal(scores(one, "a red car"), truth["a red car"])
        until(lambda: server.client().dbsize() == len(THINGS))
        np.testing.assert_array_equal(scores(other, "a red car"), truth["a red car"])
        assert figures(other.url) == {
            "hits_total": len(THINGS), "misses_total": 0, "failures_total": 0, "dropped_total": 0, "up": 1,
        }  # fmt: skip

        server.kill()
        np.testing.assert_array_equal(scores(one, "warm"), truth["warm"])
        np.testing.assert_array_equal(scores(other, "warm"), truth["warm"])
        down = figures(one.url)
        assert down["failures_total"] > 0
        assert down["up"] == 0
        assert down["misses_total"] == 2 * len(THINGS)

        server.start()
        number = iter(range(1_000_000))
        until(lambda: scores(one, f"new {next(number)}") is not None and figures(one.url)["up"] == 1)
        np.testing.assert_array_equal(scores(one, "old boat"), truth["old boat"])
        before = figures(other.url)["hits_total"]
        until(lambda: scores(other, f"other {next(number)}") is not None and figures(other.url)["up"] == 1)
        np.testing.assert_array_equal(scores(other, "old boat"), truth["old boat"])
        assert figures(other.url)["hits_total"] == before + len(THINGS)
