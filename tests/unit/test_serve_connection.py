"""The service over sockets: requests as clients really send them, half-closed connections, clients that leave."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import uvicorn

from rankdistill.export.serve.http.app import create_app
from rankdistill.export.serve.server import configure
from rankdistill.export.serve.service import Service
from rankdistill.export.serve.settings import Limits, Settings
from tests.fake_ranker import FakeEmbedder, FakeRanker, body
from tests.unit.test_serve_app import model_of

SETTINGS = Settings(limits=Limits(body_bytes=300_000, text_characters=300_000, receive_s=5.0))
TEXTS = body(query="lamp", texts=["a red lamp", "tie", "x" * 40])
SOON_S, LONG_S = 0.5, 10.0


@dataclass
class Live:
    """A service that listens in this process."""

    address: tuple[str, int]
    ranker: FakeRanker
    embedder: FakeEmbedder
    service: Service


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def live(request) -> Iterator[Live]:
    ranker, embedder = FakeRanker(), FakeEmbedder()
    embedder.busy = False
    service = Service(model_of(ranker, embedder), SETTINGS, threads=1)
    config = configure(create_app(service), SETTINGS)
    config.loop = request.param
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield Live(listener.getsockname(), ranker, embedder, service)
        ranker.gate.set()
        server.should_exit = True
        thread.join()


@pytest.fixture(autouse=True)
def open_gate(live):
    yield
    live.ranker.gate.set()
    wait_until(lambda: not live.service.dispatcher.waiting)


def wait_until(holds) -> None:
    end = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def request(line: str, content: bytes = b"", *headers: str, host: str = "host: a") -> bytes:
    """Return a request as it goes over the wire; a body is JSON with its length unless headers say something else."""
    if content and not any(header.lower().startswith(("content-length", "transfer-enc")) for header in headers):
        headers = (*headers, f"content-length: {len(content)}")
    if content and not any(header.lower().startswith("content-type") for header in headers):
        headers = (*headers, "content-type: application/json")
    return "\r\n".join([line, host, *headers, "", ""]).encode("latin-1") + content


POST = request("POST /rerank HTTP/1.1", TEXTS)


def exchange(live: Live, *parts: bytes, half_close: bool = False, pause_s: float = 0.0) -> bytes:
    """Send parts, and return all that comes until the service closes, or says nothing more for a while."""
    with socket.create_connection(live.address, timeout=LONG_S) as client:
        for part in parts:
            client.sendall(part)
            time.sleep(pause_s)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        return read(client)


def read(client: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        while more := client.recv(65_536):
            received += more
            client.settimeout(SOON_S)
    return received


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def test_a_client_that_sends_no_more_gets_its_answer_and_then_the_connections_end(live):
    for line in ("GET /health HTTP/1.1", "GET /health HTTP/1.0"):
        answer = exchange(live, request(line), half_close=True)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("path", ["/rerank", "/embed"])
def test_a_client_that_sends_no_more_is_answered_however_long_the_answer_takes(live, path):
    content = TEXTS if path == "/rerank" else body(inputs=["a"])
    live.embedder.gate.clear()
    live.ranker.gate.clear()
    live.embedder.busy = True
    asked = request(f"POST {path} HTTP/1.1", content)
    with socket.create_connection(live.address, timeout=LONG_S) as client:
        client.sendall(asked)
        client.shutdown(socket.SHUT_WR)
        time.sleep(0.3)
        live.embedder.busy = False
        live.ranker.gate.set()
        answer = read(client)
        assert client.recv(1) == b""
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    whole = exchange(live, asked.replace(b"host: a", b"host: a\r\nconnection: close"))
    assert answer.partition(b"\r\n\r\n")[2] == whole.partition(b"\r\n\r\n")[2]


def test_pipelined_requests_are_all_answered_to_a_client_that_sends_no_more(live):
    answer = exchange(live, POST + POST + request("GET /nothing HTTP/1.1"), half_close=True)
    assert statuses(answer) == [200, 200, 404]


def test_a_long_body_is_answered_to_a_client_that_sends_no_more(live):
    asked = request("POST /rerank HTTP/1.1", body(query="lamp", texts=["x" * 200_000]))
    assert statuses(exchange(live, asked, half_close=True)) == [200]


def test_half_a_request_is_not_waited_for(live):
    began = time.monotonic()
    assert statuses(exchange(live, POST[:-5], half_close=True)) == []
    assert statuses(exchange(live, b"GET /hea", half_close=True)) == []
    assert time.monotonic() - began < SETTINGS.limits.receive_s


@pytest.mark.parametrize("after_s", [0.0, 0.2])
@pytest.mark.parametrize("first_half", [False, True])
def test_a_client_that_hangs_up_frees_its_work_also_if_it_said_before_that_it_sends_no_more(live, after_s, first_half):
    live.ranker.gate.clear()
    before = live.ranker.run
    with socket.create_connection(live.address) as client:
        client.sendall(POST)
        wait_until(lambda: live.service.dispatcher.waiting == 1)
        if first_half:
            client.shutdown(socket.SHUT_WR)
        time.sleep(after_s)
        assert live.service.dispatcher.waiting == 1
    time.sleep(0.3)
    live.ranker.gate.set()
    wait_until(lambda: not live.service.dispatcher.waiting)
    assert live.ranker.run - before < 3  # the pair that was begun, at most one more


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/info", "/metrics", "/openapi.json", "/health?a=b&c", "/%68ealth"]
)
def test_head_is_answered_as_get_is_but_without_a_body(live, path):
    got = exchange(live, request(f"GET {path} HTTP/1.1", b"", "connection: close"))
    answer = exchange(live, request(f"HEAD {path} HTTP/1.1", b"", "connection: close"))
    assert statuses(answer) == statuses(got) == [200]
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1


def test_a_connection_goes_on_after_head(live):
    answer = exchange(live, request("HEAD /info HTTP/1.1") + request("HEAD /nothing HTTP/1.1") + POST)
    assert statuses(answer) == [200, 404, 200]


CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(TEXTS), TEXTS)
ANSWERED = {
    "absolute": request("POST http://other.example/rerank HTTP/1.1", TEXTS),
    "query": request("POST /rerank?a=b HTTP/1.1", TEXTS),
    "percent": request("POST /%72er%61nk HTTP/1.1", TEXTS),
    "http 1.0": request("POST /rerank HTTP/1.0", TEXTS),
    "http 1.0 without a host": request("POST /rerank HTTP/1.0", TEXTS, host="x: y"),
    "close": request("POST /rerank HTTP/1.1", TEXTS, "Connection: close"),
    "chunked": request("POST /rerank HTTP/1.1", CHUNKED, "transfer-encoding: chunked"),
    "charset": request("POST /rerank HTTP/1.1", TEXTS, "content-type: application/json; charset=UTF-8"),
    "capitals": request("POST /rerank HTTP/1.1", TEXTS, "Content-Type: Application/JSON ;charset=utf-8"),
    "the same type twice": request("POST /rerank HTTP/1.1", TEXTS, *["content-type: application/json"] * 2),
    "byte-order mark": request("POST /rerank HTTP/1.1", b"\xef\xbb\xbf" + TEXTS),
    "upgrade": request("POST /rerank HTTP/1.1", TEXTS, "connection: upgrade", "upgrade: h2c"),
    "upgrade of a chunked body": request(
        "POST /rerank HTTP/1.1", CHUNKED, "transfer-encoding: chunked", "connection: Upgrade, HTTP2-Settings",
        "upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAABAAMAAABk",
    ),
    "websocket": request("GET /health HTTP/1.1", b"", "connection: upgrade", "upgrade: websocket"),
    "get with a body": request("GET /health HTTP/1.1", b"{}"),
    "head with a body": request("HEAD /health HTTP/1.1", b"{}"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERED)
def test_what_clients_may_send_is_answered(live, name):
    assert statuses(exchange(live, ANSWERED[name])) == [200]


TYPE = "content-type:"
REFUSED = {
    "slash at the end": (request("POST /rerank/ HTTP/1.1", TEXTS), 404),
    "slash at the end of health": (request("GET /health/ HTTP/1.1"), 404),
    "two slashes": (request("GET //health HTTP/1.1"), 404),
    "no path": (request("GET http://other.example HTTP/1.1"), 400),
    "odd path": (request("GET /%00%ff%0d%0a HTTP/1.1"), 404),
    "odd host": (request("GET /nothing HTTP/1.1", host="host: a/b?c#d"), 404),
    "raw bytes in the path": (b"GET /\xff\xe9 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "long path": (request(f"GET /{'x' * 60_000} HTTP/1.1"), 404),
    "longer path": (request(f"GET /{'x' * 70_000} HTTP/1.1"), 400),
    "no such method": (request("BREW /rerank HTTP/1.1"), 400),
    "connect": (request("CONNECT other.example:443 HTTP/1.1"), 400),
    "http 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "two types": (request("POST /rerank HTTP/1.1", TEXTS, f"{TYPE} application/json", f"{TYPE} text/plain"), 415),
    "no type": (request("POST /rerank HTTP/1.1", TEXTS, "content-type:"), 415),
    "two lengths": (request("POST /rerank HTTP/1.1", TEXTS, "content-length: 5", f"content-length: {len(TEXTS)}"), 400),
    "utf-16": (request("POST /rerank HTTP/1.1", TEXTS.decode().encode("utf-16")), 400),
    "mark alone": (request("POST /rerank HTTP/1.1", b"\xef\xbb\xbf"), 400),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_clients_may_not_send_is_refused_and_never_sent_elsewhere(live, name):
    asked, status = REFUSED[name]
    answer = exchange(live, asked)
    assert statuses(answer) == [status], answer[:500]
    assert b"\nlocation:" not in answer.lower()
    assert statuses(exchange(live, request("GET /health HTTP/1.1"))) == [200]


def test_a_client_that_waits_for_100_continue_gets_it_unless_it_is_refused(live):
    head, _, content = request("POST /rerank HTTP/1.1", TEXTS, "expect: 100-continue").partition(b"\r\n\r\n")
    for half_close in (False, True):
        answer = exchange(live, head + b"\r\n\r\n", content, half_close=half_close, pause_s=0.2)
        assert statuses(answer) == [100, 200]
    too_long = request(
        "POST /rerank HTTP/1.1",
        b"",
        "expect: 100-continue",
        "content-length: 9999999",
        "content-type: application/json",
    )
    assert statuses(exchange(live, too_long)) == [413]


@pytest.mark.parametrize(
    ("target", "status", "allow"),
    [("/rerank", 204, "OPTIONS, POST"), ("/health", 204, "GET, HEAD, OPTIONS"), ("*", 204, "GET, HEAD, OPTIONS, POST"),
     ("/nothing", 404, None)],
)  # fmt: skip
def test_options_says_what_a_path_takes_and_lets_no_other_sites_pages_in(live, target, status, allow):
    answer = exchange(
        live, request(f"OPTIONS {target} HTTP/1.1", b"", "origin: http://b", "access-control-request-method: POST")
    )
    assert statuses(answer) == [status]
    assert b"access-control" not in answer.lower()
    assert allow is None or f"allow: {allow}\r\n".encode() in answer.lower().replace(
        allow.lower().encode(), allow.encode()
    )
