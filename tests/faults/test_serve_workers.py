"""Several processes on one port: one that is killed is replaced, and none is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from rankdistill import Ranker
from tests.faults.bundles import edit, seal
from tests.processes import command_line
from tests.serving import serving

pytestmark = pytest.mark.faults

ADMIN = "an-admin-token-of-many-letters"
REQUEST = {"query": "red car", "texts": ["blue car", "lamp"]}


def workers_of(parent: int) -> set[int]:
    """Return the pids of a service's workers: multiprocessing has another child, which tracks resources."""
    children = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return {pid for pid in children if b"spawn_main" in command_line(pid)}


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        if holds():
            return True
        time.sleep(0.05)
    return False


def answered(url: str, count: int) -> int:
    """Ask some times, each over a connection of its own; return how often there was an answer."""
    return sum(httpx.post(f"{url}/rerank", json=REQUEST, timeout=30).status_code == 200 for _ in range(count))


def count(url: str) -> float:
    page = httpx.get(f"{url}/metrics").text
    return float(next(line for line in page.splitlines() if line.startswith("te_request_success{")).split()[-1])


def test_a_killed_worker_is_replaced_and_the_others_answer_meanwhile(bundle):
    with serving(bundle, "--workers", "2", "--threads", "2") as service:
        before = workers_of(service.process.pid)
        assert len(before) == 2
        assert answered(service.url, 20) == 20
        assert count(service.url) == 20  # of both, whichever is asked

        os.kill(min(before), signal.SIGKILL)
        assert answered(service.url, 20) == 20
        assert within(20, lambda: len(workers_of(service.process.pid) - before) == 1)
        new = workers_of(service.process.pid) - before

        os.kill(max(before), signal.SIGKILL)  # now only the new one is left to answer
        assert answered(service.url, 5) == 5
        assert within(20, lambda: len(workers_of(service.process.pid) - before - new) == 1)
        assert count(service.url) == 45  # what the dead have counted stays
        assert service.stop() == 0


def test_a_worker_that_replaces_a_killed_one_begins_with_what_was_swapped_in(bundle, tmp_path):
    old, new = (Ranker.load(bundle, variant=name) for name in (None, "fp32"))
    copy = tmp_path / "bundle"  # the same model, by its fp32 graph on every processor, under another key
    shutil.copytree(bundle, copy)

    def fp32_first(content):
        content["variants"].sort(key=lambda variant: variant["name"] != "fp32")
        content["key"] = content["key"][::-1]

    edit(copy / "manifest.json", fp32_first)
    seal(copy)
    truths = [ranker.score_items(REQUEST["query"], REQUEST["texts"]) for ranker in (old, new)]
    assert not np.array_equal(*truths)

    def found(url):
        answer = httpx.post(f"{url}/rerank", json=REQUEST | {"raw_scores": True}, timeout=30)
        rows = sorted(answer.json(), key=lambda row: row["index"])
        return np.array([row["score"] for row in rows], dtype=np.float32)

    settings = {"reload": {"share": 0.0}, "cache": {"mb": 0}}
    environment = {"RANKER_ADMIN_TOKENS": ADMIN}
    with serving(bundle, "--workers", "2", folder=tmp_path, env=environment, **settings) as service:
        assert np.array_equal(found(service.url), truths[0])
        offered = httpx.post(
            f"{service.url}/admin/offer", headers={"authorization": f"Bearer {ADMIN}"}, json={"bundle": str(copy)}
        )
        assert offered.status_code == 202
        assert within(60, lambda: all(np.array_equal(found(service.url), truths[1]) for _ in range(20)))
        before = workers_of(service.process.pid)
        for pid in before:  # so that none is left that was told
            os.kill(pid, signal.SIGKILL)
        assert within(30, lambda: len(workers_of(service.process.pid) - before) == 2)
        assert all(np.array_equal(found(service.url), truths[1]) for _ in range(20))
        assert service.stop() == 0


def test_workers_do_not_outlive_their_parent(bundle):
    with serving(bundle, "--workers", "2") as service:
        workers = workers_of(service.process.pid)
        service.process.kill()
        assert within(20, lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(bundle, sig):
    with serving(bundle, "--workers", "2") as service:
        workers = workers_of(service.process.pid)
        service.process.send_signal(sig)
        assert service.process.wait(30) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_worker_that_cannot_begin_ends_the_service(bundle, tmp_path):
    graph = next(bundle.glob("onnx/model.onnx"))
    copy = tmp_path / "bundle"
    os.system(f"cp -r {bundle} {copy}")
    (copy / graph.relative_to(bundle)).write_bytes(b"damaged")
    with pytest.raises(AssertionError) as error, serving(copy, "--workers", "2", "--variant", "fp32"):
        pass
    told = str(error.value)
    assert "is not the file of its manifest" in told
    assert "ranker: a worker could not begin; its message is above" in told
    assert "Traceback" not in told
