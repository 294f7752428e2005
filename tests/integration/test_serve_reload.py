"""Models exchanged in a service that answers meanwhile, and a service that moves along a cascade's levels."""

from __future__ import annotations

import shutil
import threading
import time

import httpx
import numpy as np
import pytest

from export.runtime import Ranker
from tests.integration.commands import distill, newest_run, small
from tests.serving import serving

pytestmark = pytest.mark.integration

ADMIN = "an-admin-token-of-many-letters"
HEADERS = {"authorization": f"Bearer {ADMIN}"}
TEXTS = [f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("car", "lamp", "chair", "boat")]


@pytest.fixture(scope="module")
def other(tmp_path_factory, beir, encoder):
    """The bundle of the same experiment with another seed."""
    folder = tmp_path_factory.mktemp("other")
    done = distill(*small(beir, encoder), "seed=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return newest_run(folder) / "bundle"


class Traffic:
    """Asks without a pause and keeps what came back."""

    def __init__(self, url):
        self.url, self.failed, self.scores = url, [], []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _ask(self):
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self._stop.is_set():
                answer = client.post("/rerank", json={"query": "red car", "texts": TEXTS, "raw_scores": True})
                if answer.status_code == 200:
                    rows = sorted(answer.json(), key=lambda row: row["index"])
                    self.scores.append(np.array([row["score"] for row in rows], dtype=np.float32))
                else:
                    self.failed.append(answer.text)


def models(service):
    return httpx.get(f"{service.url}/admin/models", headers=HEADERS, timeout=30).json()


def until(holds, seconds=60.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.1)


def scores(bundle):
    with Ranker.load(bundle, threads=1) as ranker:
        return ranker.key, ranker.score_items("red car", TEXTS)


@pytest.mark.parametrize("mb", [0, 1])
def test_a_new_bundle_answers_and_gives_way_again_while_no_request_is_lost_or_mixed(bundle, other, tmp_path, mb):
    link = tmp_path / "current"
    link.symlink_to(bundle)
    (first, old), (second, new) = scores(bundle), scores(other)
    assert first != second
    assert not np.array_equal(old, new)
    reload = {
        "watch": str(link),
        "interval_s": 0.2,
        "share": 1.0,
        "requests": 3,
        "max_slowdown": 100.0,
        "min_overlap": 0.0,
    }
    with serving(
        bundle, folder=tmp_path, env={"RANKER_ADMIN_TOKENS": ADMIN}, reload=reload, cache={"mb": mb}
    ) as service:  # fmt: skip
        with Traffic(service.url) as traffic:
            replacement = tmp_path / "next"
            replacement.symlink_to(other)
            replacement.replace(link)
            until(lambda: models(service)["current"] == second)
            count = len(traffic.scores)
            until(lambda: len(traffic.scores) > count + 2)
            assert np.array_equal(traffic.scores[-1], new)
            assert httpx.post(f"{service.url}/admin/rollback", headers=HEADERS).status_code == 202
            until(lambda: models(service)["current"] == first)
            count = len(traffic.scores)
            until(lambda: len(traffic.scores) > count + 2)
        assert not traffic.failed
        assert all(np.array_equal(found, old) or np.array_equal(found, new) for found in traffic.scores)
        assert np.array_equal(traffic.scores[-1], old)
        assert models(service)["offers"][0]["accepted"]
        assert service.stop() == 0


def test_a_broken_bundle_is_never_served(bundle, other, tmp_path):
    first, _ = scores(bundle)
    with serving(bundle, folder=tmp_path, env={"RANKER_ADMIN_TOKENS": ADMIN}, reload={"share": 0.0}) as service:
        for number, damage in enumerate(("cut", "flipped", "gone")):
            broken = shutil.copytree(other, tmp_path / str(number))
            graph = next(broken.glob("onnx/*.onnx"))
            content = graph.read_bytes()
            if damage == "cut":
                graph.write_bytes(content[: len(content) // 2])
            elif damage == "flipped":
                graph.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
            else:
                graph.unlink()
            answer = httpx.post(f"{service.url}/admin/offer", headers=HEADERS, json={"bundle": str(broken)})
            assert answer.status_code == 202
            until(lambda number=number: len(models(service)["offers"]) == number + 1)
        found = models(service)
        assert found["current"] == first
        assert [offer["accepted"] for offer in found["offers"]] == [False] * 3
        assert all(graph.name in offer["reason"] for offer in found["offers"])


def test_admin_is_closed_without_its_token(bundle, tmp_path):
    with serving(bundle, folder=tmp_path, env={"RANKER_ADMIN_TOKENS": ADMIN}) as service:
        for path in ("/admin/models", "/admin", "/admin/nothing"):
            assert httpx.get(service.url + path).status_code == 401
        assert httpx.post(f"{service.url}/admin/rollback").status_code == 401
        assert httpx.post(f"{service.url}/admin/rollback", headers=HEADERS).status_code == 409
        assert service.post("/rerank", query="a", texts=["b"]).status_code == 200


def test_a_governor_wants_a_cascade(bundle, tmp_path):
    from tests.serving import start

    (tmp_path / "serve.yaml").write_text("governor: {p99_ms: 100}\n", encoding="utf-8")
    process = start(bundle, "--port", "0", "--config", str(tmp_path / "serve.yaml"))
    assert process.wait(60) == 2
    assert "governor.p99_ms=100" in process.stderr.read()
