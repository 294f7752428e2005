"""Replicas find each other's scores; without the server, or with a slow one, everything goes on."""

import logging
import threading
import time

import numpy as np
import pytest

from rankdistill.export.errors import UserError
from rankdistill.export.runtime.processor import kernels
from rankdistill.export.serve.caching.redis_scores import FIRST_S, LONGEST_S, MOST_WAITING, Breaker, SharedScores
from rankdistill.export.serve.caching.score_cache import PAGE_BYTES, ScoreCache
from tests.redis_server import RedisServer, free_port

PREFIX = b"rankdistill:%s:" % kernels().encode()
KEYS = [bytes([number]) * 32 for number in range(40)]
SCORES = np.linspace(-3, 3, 40, dtype=np.float32)


@pytest.fixture
def server(tmp_path):
    server = RedisServer(tmp_path)
    yield server.start()
    server.kill()


@pytest.fixture
def connect():
    opened = []

    def connect(url, ttl_s=60, timeout_ms=2000, **options):  # the machine may be busy
        opened.append(SharedScores(url, ttl_s, timeout_ms, **options))
        return opened[-1]

    yield connect
    for shared in opened:
        shared.close()


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_replica_finds_what_another_one_put(server, connect):
    one, other = connect(server.url), connect(server.url)
    one.put(KEYS[:30], SCORES[:30])
    client = server.client()
    until(lambda: client.dbsize() == 30)
    found = other.get(KEYS)
    assert (found[:30] == SCORES[:30]).all()
    assert np.isnan(found[30:]).all()
    assert (other.hits, other.misses, other.failures, other.well) == (30, 10, 0, True)
    assert other.get([]).shape == (0,)
    assert all(name.startswith(PREFIX) for name in client.keys())  # noqa: SIM118 - no dict
    assert 0 < client.ttl(PREFIX + KEYS[0]) <= 60


def test_processors_with_other_kernels_do_not_find_each_others_scores_which_may_differ_in_rounding(server, connect):
    avx2 = {"architecture": "x86_64", "flags": ["avx2"], "onnxruntime": "1.32.0"}
    vnni = avx2 | {"flags": ["avx2", "avx512f", "avx512_vnni"]}
    kinds = [kernels(**avx2), kernels(**vnni), kernels(**avx2 | {"onnxruntime": "1.33.0"})]
    assert len({*kinds, kernels(**avx2 | {"architecture": "arm64"})}) == 4
    assert kernels() == kernels()
    one, same, *others = (connect(server.url, kind=kind) for kind in (kinds[0], *kinds))
    one.put(KEYS, SCORES)
    until(lambda: server.client().dbsize() == 40)
    assert (same.get(KEYS) == SCORES).all()
    assert all(np.isnan(other.get(KEYS)).all() for other in others)


def test_a_request_takes_one_round_trip_to_read_and_one_to_write(server, connect):
    shared, client = connect(server.url), server.client()
    shared.get(KEYS)
    shared.put(KEYS, SCORES)
    until(lambda: client.dbsize() == 40)
    calls = {name: stats["calls"] for name, stats in client.info("commandstats").items()}
    assert calls["cmdstat_mget"] == 1
    assert calls["cmdstat_set"] == 40
    assert client.info("stats")["total_reads_processed"] < 20  # of 40 commands that came one by one it would be more


def test_nan_is_not_written_and_foreign_values_are_not_read(server, connect):
    shared, client = connect(server.url), server.client()
    client.set(PREFIX + KEYS[0], b"not a score")
    client.rpush(PREFIX + KEYS[3], "a list")
    shared.put(KEYS[1:3], np.array([np.nan, 2.0], dtype=np.float32))
    until(lambda: client.dbsize() == 3)
    found = shared.get(KEYS[:4])
    assert np.isnan(found[[0, 1, 3]]).all()
    assert found[2] == 2


def test_without_a_server_requests_go_on_and_the_log_says_it_once(tmp_path, connect, caplog):
    server = RedisServer(tmp_path)
    shared = connect(server.url.replace("//", "//user:secret@"))
    with caplog.at_level(logging.WARNING):
        begun = time.monotonic()
        for _ in range(100):
            assert np.isnan(shared.get(KEYS)).all()
        assert time.monotonic() - begun < FIRST_S
    assert len(caplog.records) == 1
    assert f"reading shared scores from 127.0.0.1:{server.port}" in caplog.text
    assert "secret" not in caplog.text
    assert (shared.failures, shared.well) == (1, False)
    assert shared.misses == 100 * len(KEYS)


def test_a_server_that_hangs_is_waited_for_once_and_found_again(server, connect):
    shared = connect(server.url, timeout_ms=1000)
    shared.put(KEYS, SCORES)
    until(lambda: np.array_equal(shared.get(KEYS), SCORES))
    server.hold_up()
    begun = time.monotonic()
    for _ in range(50):
        assert np.isnan(shared.get(KEYS)).all()
    assert 0.9 < time.monotonic() - begun < 3.5  # once, and nothing is tried again
    assert not shared.well
    server.go_on()
    until(lambda: np.array_equal(shared.get(KEYS), SCORES))
    assert shared.well


def test_a_server_whose_memory_is_full_is_still_read(server, connect):
    shared, client = connect(server.url), server.client()
    shared.put(KEYS[:20], SCORES[:20])
    until(lambda: client.dbsize() == 20)
    client.config_set("maxmemory", 1)
    shared.put(KEYS[20:], SCORES[20:])
    until(lambda: shared.failures == 1)
    assert (shared.get(KEYS)[:20] == SCORES[:20]).all()
    assert not shared.well


def test_what_cannot_be_written_in_time_is_dropped(server, connect):
    shared = connect(server.url, timeout_ms=5000)
    server.hold_up()
    begun = time.monotonic()
    for _ in range(MOST_WAITING + 10):
        shared.put(KEYS, SCORES)
    assert time.monotonic() - begun < 2.0
    assert 9 <= shared.dropped <= 10  # the writer may hold one
    server.go_on()


def test_a_cache_asks_it_for_what_it_lacks_and_keeps_the_answer(server, connect):
    one, other = (ScoreCache(100 * PAGE_BYTES, connect(server.url)) for _ in range(2))
    items = [f"item {number}" for number in range(40)]
    one.put("model", "query", items, SCORES)
    client = server.client()
    until(lambda: client.dbsize() == 40)
    assert (other.get("model", "query", items) == SCORES).all()
    assert (other.hits, other.misses) == (40, 0)
    server.kill()
    assert (other.get("model", "query", items) == SCORES).all()
    assert np.isnan(other.get("another model", "query", items)).all()


def test_another_models_scores_are_never_found(server, connect):
    one, other = (ScoreCache(100 * PAGE_BYTES, connect(server.url)) for _ in range(2))
    one.put("old", "query", ["item"], SCORES[:1])
    client = server.client()
    until(lambda: client.dbsize() == 1)
    assert np.isnan(other.get("new", "query", ["item"])).all()


def test_a_url_that_leads_nowhere_is_refused_without_telling_its_password():
    for url in ("redis://user:secret@host:port", "http://user:secret@host", "redis://user:secret@host:1/0?db=x"):
        with pytest.raises(UserError, match="shared cache's URL cannot be read") as error:
            SharedScores(url, 60, 20)
        assert "secret" not in str(error.value)
    with pytest.raises(ValueError, match="ttl_s=0, timeout_ms=20: at least 1"):
        SharedScores(f"redis://127.0.0.1:{free_port()}", 0, 20)


def test_a_missing_library_is_told_with_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"redis not installed; run: pip install 'rankdistill\[redis\]'"):
        SharedScores("redis://127.0.0.1", 60, 20)


class Clock:
    time = 0.0

    def __call__(self):
        return self.time


def fail():
    raise OSError("gone")


def test_each_failed_trial_doubles_the_pause_and_success_ends_it(caplog):
    clock, tried = Clock(), []
    breaker = Breaker("server", (OSError,), clock)
    while clock.time < 200:
        failures = breaker.failures
        breaker.call(fail)
        if breaker.failures > failures:
            tried.append(clock.time)
        clock.time += 0.125
    pauses = np.diff(tried).tolist()
    expected = [FIRST_S * 2**number for number in range(20)]
    assert pauses == [min(pause, LONGEST_S) for pause in expected][: len(pauses)]
    assert len(pauses) > 8
    clock.time += LONGEST_S
    assert breaker.call(lambda: "found") == "found"
    assert breaker.well
    assert [record.getMessage() for record in caplog.records] == [
        "server: OSError: gone; requests do without",
        "server: back",
    ]
    breaker.call(fail)  # a new failure begins anew
    clock.time += FIRST_S
    assert breaker.call(lambda: 1) == 1


def test_one_call_alone_tries_while_the_others_do_without():
    clock = Clock()
    breaker = Breaker("server", (OSError,), clock)
    breaker.call(fail)
    clock.time += FIRST_S
    inside, leave, answers = threading.Event(), threading.Event(), []

    def slow():
        inside.set()
        assert leave.wait(10)
        return "found"

    trial = threading.Thread(target=lambda: answers.append(breaker.call(slow)))
    trial.start()
    assert inside.wait(10)
    assert breaker.call(lambda: "too early") is None
    leave.set()
    trial.join()
    assert answers == ["found"]
    assert breaker.call(lambda: "well") == "well"


def test_calls_that_fail_together_are_one_failure_of_the_server():
    clock = Clock()
    breaker, together = Breaker("server", (OSError,), clock), threading.Barrier(5)

    def both():
        together.wait(10)
        fail()

    threads = [threading.Thread(target=breaker.call, args=(both,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.failures == 5
    clock.time += FIRST_S  # not doubled
    assert breaker.call(lambda: 1) == 1


def test_a_mistake_of_the_programs_own_is_not_the_servers():
    breaker = Breaker("server", (OSError,))
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 // 0)
    assert breaker.well
