"""`ranker serve` as a process: clients of the three APIs as they are, and how it begins, holds and ends."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cohere
import httpx
import numpy as np
import pytest

from rankdistill import Ranker
from tests.conftest import THINGS, WORDS
from tests.serving import serving, start

pytestmark = pytest.mark.integration

QUERY = "red car"
TEXTS = ["blue car", "a red red car", "lamp", "", "红色 台灯 🚀"]
TOKEN = "a-token-of-sixteen"


@pytest.fixture(scope="module")
def served(bundle):
    with serving(bundle, "--threads", "2") as service:
        yield service


@pytest.fixture(scope="module")
def logits(bundle):
    with Ranker.load(bundle, threads=1) as ranker:
        yield ranker.score_items


def test_tei_answers_what_the_ranker_scores(served, logits):
    answer = served.post("/rerank", query=QUERY, texts=TEXTS, raw_scores=True, return_text=True)
    assert answer.headers["content-type"] == "application/json"
    scores = logits(QUERY, TEXTS)
    ranks = answer.json()
    assert [rank["index"] for rank in ranks] == np.argsort(-scores, kind="stable").tolist()
    for rank in ranks:
        assert np.float32(rank["score"]) == scores[rank["index"]]
        assert rank["text"] == TEXTS[rank["index"]]


def test_coheres_own_client_works_unchanged(served, logits):
    client = cohere.ClientV2(api_key="any", base_url=served.url)
    answer = client.rerank(model="rerank-v3.5", query=QUERY, documents=TEXTS, top_n=3)
    scores = 1 / (1 + np.exp(-logits(QUERY, TEXTS).astype(float)))
    assert [result.index for result in answer.results] == np.argsort(-scores, kind="stable")[:3].tolist()
    assert [r.relevance_score for r in answer.results] == pytest.approx([scores[r.index] for r in answer.results])
    assert answer.id
    assert answer.meta.billed_units.search_units == 1


def test_coheres_first_api_works_with_its_own_client(served):
    client = cohere.Client(api_key="any", base_url=served.url)
    answer = client.rerank(model="m", query=QUERY, documents=[{"text": text} for text in TEXTS], return_documents=True)
    assert {result.index: result.document.text for result in answer.results} == dict(enumerate(TEXTS))


def test_coheres_client_understands_refusals(served):
    client = cohere.ClientV2(api_key="any", base_url=served.url)
    with pytest.raises(cohere.UnprocessableEntityError) as error:
        client.rerank(model="m", query=QUERY, documents=[])
    assert "documents" in error.value.body["message"]


def test_jinas_requests_are_answered_as_jina_does(served):
    answer = served.post(
        "/v1/rerank", model="jina-reranker-v2-base-multilingual", query=QUERY, documents=TEXTS, top_n=2
    )
    content = answer.json()
    assert len(content["results"]) == 2
    for result in content["results"]:
        assert result["document"] == {"text": TEXTS[result["index"]]}
    assert content["usage"]["total_tokens"] > len(TEXTS) * 4


def test_a_text_that_would_be_cut_is_refused_if_the_client_wants_that(served):
    long = " ".join(["red"] * 22)  # 24 tokens are read of a pair, three of them special
    fits = served.post("/rerank", query="red", texts=[" ".join(["red"] * 20)], truncate=False)
    cut = served.post("/rerank", query="red", texts=["red", long], truncate=False)
    assert fits.status_code == 200
    assert (cut.status_code, cut.json()["error"]) == (413, "inputs must have at most 24 tokens. Given: 26")
    assert served.post("/rerank", query="red", texts=["red", long]).status_code == 200


def test_many_clients_at_once_get_each_their_own_scores(served, logits):
    rng = np.random.default_rng(0)
    requests = [
        (" ".join(rng.choice(WORDS, 2)), [" ".join(rng.choice(WORDS + THINGS, 3)) for _ in range(20)])
        for _ in range(40)
    ]

    def ask(request):
        return served.post("/rerank", query=request[0], texts=request[1], raw_scores=True).json()

    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(ask, requests)]
    for (query, texts), answer in zip(requests, answers, strict=True):
        scores = logits(query, texts)
        assert all(np.float32(rank["score"]) == scores[rank["index"]] for rank in answer)


def test_a_body_that_is_too_long_is_refused_while_it_comes(served):
    def chunks():
        for _ in range(200):
            yield b" " * 100_000

    headers = {"content-type": "application/json"}
    assert httpx.post(served.url + "/rerank", content=chunks(), headers=headers, timeout=30).status_code == 413
    assert httpx.post(served.url + "/rerank", content=b" " * 5_000_000, headers=headers).status_code == 413
    assert served.post("/rerank", query=QUERY, texts=TEXTS).status_code == 200


def test_a_token_is_wanted_of_clients_and_not_of_probes(bundle):
    with serving(bundle, "--host", "0.0.0.0", env={"RANKER_TOKENS": TOKEN}) as service:
        url = service.url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(url + "/ready").status_code == 200
        assert httpx.post(url + "/rerank", json={"query": "a", "texts": ["b"]}).status_code == 401
        client = cohere.ClientV2(api_key=TOKEN, base_url=url)
        assert client.rerank(model="m", query=QUERY, documents=TEXTS).results
        with pytest.raises(cohere.UnauthorizedError):
            cohere.ClientV2(api_key=TOKEN + "x", base_url=url).rerank(model="m", query=QUERY, documents=TEXTS)
        assert not any(TOKEN in line for line in service.lines)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "0.0.0.0"], "host=0.0.0.0 is open to other machines"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml: No such file"),
        (["--variant", "none"], "has no variant none"),
        (["--host", "no.such.host.invalid"], "host=no.such.host.invalid"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(bundle, arguments, told):
    process = start(bundle, "--port", "0", *arguments)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told in errors
    assert "Traceback" not in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken_is_told_in_a_line(bundle, workers):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(bundle, "--port", str(port), "--workers", workers)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors == f"ranker: host=127.0.0.1, port={port}: Address already in use\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_lets_requests_end_takes_no_others_and_ends_with_0(bundle, tmp_path, workers):
    limits = {"texts": 20_000}
    with serving(bundle, "--threads", "1", folder=tmp_path, limits=limits, workers=workers) as service:
        texts = [f"red car {number}" for number in range(10_000)]
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(service.post, "/rerank", query=QUERY, texts=texts)
            time.sleep(0.3)
            assert not answer.done()
            assert service.stop() == 0
            assert len(answer.result().json()) == len(texts)
    with pytest.raises(httpx.ConnectError):
        httpx.get(service.url + "/health")
    assert not any("Traceback" in line for line in service.lines)


def test_what_is_not_done_when_the_time_for_draining_is_over_is_refused(bundle, tmp_path):
    with serving(bundle, "--threads", "1", folder=tmp_path, limits={"texts": 100_000}, drain_s=1) as service:
        texts = [f"red car {number}" for number in range(90_000)]
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(service.post, "/rerank", query=QUERY, texts=texts)
            time.sleep(0.5)
            began = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - began < 10
            assert answer.result().status_code == 503


def test_slow_and_half_open_clients_lose_their_connections_and_hold_up_nobody(bundle, tmp_path):
    limits = {"receive_s": 1.0, "connections": 150}
    with serving(bundle, folder=tmp_path, limits=limits) as service:
        address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
        beginnings = [
            b"", b"POST /rerank HTTP/1.1\r\nHos", b"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-length: 99\r\n"
            b"content-type: application/json\r\n\r\n{", b"\x00\x01nonsense\r\n\r\n", b"\r\n",
        ]  # fmt: skip
        slow = []
        for number in range(120):
            client = socket.create_connection(address)
            client.sendall(beginnings[number % len(beginnings)])
            slow.append(client)
        used = socket.create_connection(address)
        used.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        assert used.recv(4096).startswith(b"HTTP/1.1 200")
        used.sendall(b"\r\n")  # no beginning of a request, but more than an idle client sends
        began = time.monotonic()
        assert service.post("/rerank", query=QUERY, texts=TEXTS).status_code == 200
        assert time.monotonic() - began < 1
        for client in [*slow, used]:
            client.settimeout(5)
            with client, contextlib.suppress(ConnectionResetError):
                while client.recv(4096):
                    pass


def test_endless_headers_are_cut_off(bundle, tmp_path):
    with serving(bundle, folder=tmp_path, limits={"receive_s": 1.0}) as service:
        address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
        with socket.create_connection(address) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nx: ")
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                client.sendall(b"x" * 65_536_000)
        assert httpx.get(service.url + "/health").status_code == 200


def test_a_full_disk_under_the_log_holds_up_nobody(bundle, tmp_path):
    (tmp_path / "serve.yaml").write_text("log: {requests: true, texts: true}\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "rankdistill.export.commands.main", "serve", bundle, "--port", str(port)]
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        process = subprocess.Popen(
            [*command, "--config", tmp_path / "serve.yaml"], stderr=full,
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        )  # fmt: skip
    try:
        _wait_for(f"http://127.0.0.1:{port}/ready")
        for _ in range(50):
            answer = httpx.post(f"http://127.0.0.1:{port}/rerank", json={"query": "a", "texts": ["b"]})
            assert answer.status_code == 200
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_requests_are_logged_as_json_lines_when_asked(bundle, tmp_path):
    with serving(bundle, folder=tmp_path, log={"requests": True}) as service:
        service.post("/rerank", query="a secret query", texts=["a secret text"])
        service.stop()
        lines = "".join(service.lines)
    assert '"path": "/rerank", "status": 200' in lines
    assert "secret" not in lines


def _wait_for(url: str) -> None:
    stop = threading.Event()
    for _ in range(200):
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            stop.wait(0.1)
    raise AssertionError(f"{url} does not answer")
