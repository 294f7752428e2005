"""The bundle on Ray Serve: the same answers, from as many replicas as are asked for, while one of them is killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from rankdistill import Ranker
from rankdistill.export.errors import UserError
from rankdistill.export.serve.ray_app import NAME, app
from tests.processes import command_lines

pytestmark = pytest.mark.integration

APP = f"ranker-{os.getpid()}"
TOKEN = "a-token-of-many-letters"
HEADERS = {"authorization": f"Bearer {TOKEN}"}
THINGS = [f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("car", "lamp", "chair", "boat")]
DOCS = Path(__file__).parents[2] / "docs/serving.md"


@pytest.fixture(scope="module")
def ray_serve(bundle):
    """Ray and its proxy on this machine; yields the proxy's address."""
    ray = pytest.importorskip("ray")
    from ray import serve

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets' paths are short
    environment = {"env_vars": {"RANKER_TOKENS": TOKEN, "PYTHONPATH": str(DOCS.parents[1])}}
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error",
        _temp_dir=place, runtime_env=environment,
    )  # fmt: skip
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)


def deploy(monkeypatch, bundle, **arguments):
    from ray import serve

    monkeypatch.setenv("RANKER_TOKENS", TOKEN)
    serve.run(app({"bundle": str(bundle), **arguments}), name=APP, route_prefix="/")


def scores(url, query, **options):
    body = {"query": query, "texts": THINGS, "raw_scores": True}
    answer = httpx.post(f"{url}/rerank", json=body, headers=HEADERS, timeout=60, **options)
    assert answer.status_code == 200, answer.text
    found = np.empty(len(THINGS), dtype=np.float32)
    for row in answer.json():
        found[row["index"]] = row["score"]
    return found


def replicas():
    """Return the pids of this process's replicas, by the titles that Ray gives them."""
    title = f"ray::ServeReplica:{APP}:{NAME}".encode()
    return {pid for pid, line in command_lines() if line.startswith(title)}


def test_replicas_answer_as_the_runtime_does_and_one_that_is_killed_is_replaced(ray_serve, bundle, monkeypatch):
    deploy(monkeypatch, bundle, replicas=2, settings={"limits": {"texts": 50}, "cache": {"mb": 1}})
    with Ranker.load(bundle) as ranker:
        truth = {f"{number} lamp": ranker.score_items(f"{number} lamp", THINGS) for number in range(30)}
    with ThreadPoolExecutor(4) as pool:
        for query, found in zip(truth, pool.map(lambda query: scores(ray_serve, query), truth), strict=True):
            np.testing.assert_array_equal(found, truth[query])

    own = {"headers": HEADERS, "timeout": 60}
    assert httpx.post(f"{ray_serve}/rerank", json={"query": "a", "texts": ["b"]}, timeout=60).status_code == 401
    assert httpx.post(f"{ray_serve}/rerank", json={"query": "a", "texts": ["b"] * 51}, **own).status_code == 413
    assert httpx.get(f"{ray_serve}/v2/nothing", **own).json() == {"message": "there is no /v2/nothing"}
    answer = httpx.post(f"{ray_serve}/v2/rerank", json={"query": "a", "documents": THINGS, "top_n": 3}, **own)
    assert len(answer.json()["results"]) == 3
    assert answer.headers["x-rank-level"] == httpx.get(f"{ray_serve}/info", **own).json()["variant"]
    assert httpx.get(f"{ray_serve}/info", **own).json()["threads"] == 1

    before = replicas()
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    end = time.monotonic() + 120
    while len(alive := replicas()) < 2 or min(before) in alive:
        assert time.monotonic() < end, "it is not replaced"
        time.sleep(0.5)
    for query, expected in truth.items():
        np.testing.assert_array_equal(scores(ray_serve, query), expected)


def test_a_client_that_hangs_up_frees_its_work(ray_serve, bundle, monkeypatch):
    deploy(monkeypatch, bundle, settings={"limits": {"texts": 100_000}})
    texts = [f"red car {number}" for number in range(90_000)]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{ray_serve}/rerank", json={"query": "lamp", "texts": texts}, headers=HEADERS, timeout=2)
    end = time.monotonic() + 20
    while "te_queue_size 0.0" not in (page := httpx.get(f"{ray_serve}/metrics", headers=HEADERS, timeout=60).text):
        assert time.monotonic() < end, page
        time.sleep(0.2)
    assert 'te_request_success{method="batch"} 0.0' in page  # it was dropped, not finished


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "no tokens"),
        ({"bundel": "x"}, "bundel: no such argument"),
        ({"open": "maybe"}, "open=maybe"),
        ({"open": "true", "replicas": "0"}, "replicas=0"),
        ({"open": "true", "settings": {"port": 80}}, "port=80"),
        ({"open": "true", "settings": {"queue": {"policy": "lifo"}}}, "queue.policy"),
        ({"open": "true", "bundle": "/nowhere"}, "/nowhere"),
    ],
)
def test_what_cannot_be_served_is_told_before_it_is_deployed(bundle, monkeypatch, arguments, said):
    monkeypatch.delenv("RANKER_TOKENS", raising=False)
    with pytest.raises(UserError, match=said):
        app({"bundle": str(bundle), **arguments})


def test_the_configuration_of_the_documentation_is_one_of_this_application(bundle, monkeypatch):
    from ray.serve.schema import ServeDeploySchema

    block = DOCS.read_text(encoding="utf-8").partition("```yaml\n# ray.yaml")[2].partition("```")[0]
    schema = ServeDeploySchema.model_validate(yaml.safe_load(block))
    (application,) = schema.applications
    assert application.import_path == "rankdistill.export.serve.ray_app:app"
    assert [deployment.name for deployment in application.deployments] == [NAME]
    monkeypatch.setenv("RANKER_TOKENS", TOKEN)
    assert app(application.args | {"bundle": str(bundle)}).__class__.__name__ == "Application"
