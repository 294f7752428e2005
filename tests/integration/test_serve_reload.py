"""Models exchanged in a service that answers meanwhile, and a service that moves along a cascade's levels."""

from __future__ import annotations

import http.server
import io
import json
import re
import shutil
import tarfile
import threading
import time

import httpx
import numpy as np
import onnx
import pytest
from onnx import helper

from rankdistill import Ranker
from tests.faults.bundles import seal
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


def slower(bundle, folder):
    """Copy a bundle and let its graphs do much besides, to the same scores."""
    copy = shutil.copytree(bundle, folder)
    for path in copy.glob("onnx/*.onnx"):
        model = onnx.load(path)
        zero = helper.make_tensor("slow_zero", onnx.TensorProto.FLOAT, [1], [0.0])
        size = helper.make_tensor("slow_size", onnx.TensorProto.INT64, [2], [500, 500])
        last = model.graph.node[-1]
        assert list(last.output) == ["logits"]
        last.output[0] = "slow_logits"
        nodes = [
            helper.make_node("Cast", ["attention_mask"], ["slow_mask"], to=onnx.TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["slow_mask"], ["slow_one"], keepdims=0),
            helper.make_node("Mul", ["slow_one", "slow_zero"], ["slow_nothing"]),
            helper.make_node("Expand", ["slow_nothing", "slow_size"], ["slow_0"]),
            *(helper.make_node("MatMul", [f"slow_{n}", "slow_0"], [f"slow_{n + 1}"]) for n in range(4)),
            helper.make_node("ReduceMax", ["slow_4"], ["slow_end"], keepdims=0),
            helper.make_node("Add", ["slow_logits", "slow_end"], ["logits"]),
        ]
        model.graph.initializer.extend([zero, size])
        model.graph.node.extend(nodes)
        onnx.save(model, path)
    seal(copy, lambda content: content.update(key=content["key"][::-1]))
    return copy


def test_a_slower_bundle_is_tried_and_never_let_in(bundle, tmp_path):
    (first, truth), (second, same) = scores(bundle), scores(slow := slower(bundle, tmp_path / "slow"))
    np.testing.assert_array_equal(same, truth)
    assert first != second
    reload = {"share": 1.0, "requests": 20, "max_slowdown": 2.0}
    with serving(
        bundle, folder=tmp_path, env={"RANKER_ADMIN_TOKENS": ADMIN}, reload=reload, cache={"mb": 0}
    ) as service:  # fmt: skip
        with Traffic(service.url) as traffic:
            offered = httpx.post(f"{service.url}/admin/offer", headers=HEADERS, json={"bundle": str(slow)})
            assert offered.status_code == 202
            until(lambda: models(service)["offers"], 120)
        (offer,) = models(service)["offers"]
        assert not offer["accepted"]
        assert "slower than 2 times" in offer["reason"]
        assert models(service)["current"] == first
        assert not traffic.failed
        assert all(np.array_equal(found, truth) for found in traffic.scores)


class Archives(http.server.BaseHTTPRequestHandler):
    """Gives the server's `archive` with its ETag; 304 where it is known, 503 while there is none."""

    def do_GET(self):
        archive = self.server.archive
        self.server.asked += 1
        etag = None if archive is None else f'"{hash(archive):x}"'
        same = etag is not None and self.headers["If-None-Match"] == etag
        self.send_response(503 if archive is None else 304 if same else 200)
        if archive is not None:
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(0 if archive is None or same else len(archive)))
        self.end_headers()
        if archive is not None and not same:
            self.wfile.write(archive[: self.server.cut])

    def log_message(self, *_): ...


@pytest.fixture
def address():
    """A server that gives an archive: its `archive`, `cut` (None: whole), and how often it was `asked`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Archives)
    server.archive, server.cut, server.asked = None, None, 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def archived(bundle):
    """Return a bundle as a tar archive."""
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w:gz") as tar:
            tar.add(bundle, arcname="bundle")
        return file.getvalue()


def test_a_bundle_of_a_watched_address_is_fetched_checked_tried_and_answers(bundle, other, address, tmp_path):
    (first, old), (second, new) = scores(bundle), scores(other)
    broken = shutil.copytree(other, tmp_path / "broken")
    graph = next(broken.glob("onnx/*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-100])
    reload = {
        "watch": f"http://127.0.0.1:{address.server_port}/bundle.tar.gz",
        "interval_s": 0.2, "share": 1.0, "requests": 3, "max_slowdown": 100.0, "min_overlap": 0.0,
    }  # fmt: skip
    places = {"TMPDIR": str(tmp_path)}  # where what was fetched is unpacked
    with serving(bundle, folder=tmp_path, env={"RANKER_ADMIN_TOKENS": ADMIN} | places, reload=reload) as service:
        with Traffic(service.url) as traffic:
            until(lambda: address.asked > 3)  # nothing there yet
            address.archive = archived(broken)
            until(lambda: models(service)["offers"])
            assert not models(service)["offers"][-1]["accepted"]
            assert graph.name in models(service)["offers"][-1]["reason"]

            address.cut, address.archive = 1000, archived(other)  # the connection ends in its midst, again and again
            asked = address.asked
            until(lambda: address.asked > asked + 3)
            assert models(service)["current"] == first

            address.cut = None
            until(lambda: models(service)["current"] == second)
            count = len(traffic.scores)
            until(lambda: len(traffic.scores) > count + 2)
        assert not traffic.failed
        assert all(np.array_equal(found, old) or np.array_equal(found, new) for found in traffic.scores)
        assert np.array_equal(traffic.scores[-1], new)
        assert len(models(service)["offers"]) == 2
        assert service.stop() == 0
    assert list(tmp_path.glob("ranker-bundles-*")) == []  # given back


def hits(service):
    page = httpx.get(f"{service.url}/metrics").text
    return {
        name: float(re.search(rf"^ranker_cache_{name}_total (\S+)", page, re.MULTILINE)[1])
        for name in ("hits", "misses")
    }


def test_the_most_frequent_requests_are_known_from_the_start_and_after_a_swap(bundle, other, tmp_path):
    head = tmp_path / "head.jsonl"
    options = {"cache": {"mb": 1, "head": str(head)}, "reload": {"share": 0.0}}
    often, seldom = ([f"{word} {text}" for text in TEXTS] for word in ("often", "seldom"))
    with serving(bundle, folder=tmp_path, **options) as service:
        for texts in (often, often, seldom):
            assert service.post("/rerank", query="red car", texts=texts).status_code == 200
        service.stop()
    rows = [json.loads(line) for line in head.read_text(encoding="utf-8").splitlines()]
    assert [row["items"] for row in rows] == [often, seldom]

    with serving(bundle, folder=tmp_path, env={"RANKER_ADMIN_TOKENS": ADMIN}, **options) as service:
        until(lambda: any("is warm: 2 requests" in line for line in service.lines))
        before = hits(service)
        assert service.post("/rerank", query="red car", texts=often).status_code == 200
        assert hits(service) == {"hits": before["hits"] + len(often), "misses": before["misses"]}

        httpx.post(f"{service.url}/admin/offer", headers=HEADERS, json={"bundle": str(other)}).raise_for_status()
        until(lambda: models(service)["current"] == scores(other)[0])
        before = hits(service)
        for texts in (often, seldom):
            assert service.post("/rerank", query="red car", texts=texts).status_code == 200
        assert hits(service) == {"hits": before["hits"] + 2 * len(TEXTS), "misses": before["misses"]}
