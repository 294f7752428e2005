"""The service over HTTP, on a ranker whose scores are a formula: what answers say, what is refused and how."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import math
from collections.abc import Awaitable, Callable

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from rankdistill.export.runtime.plan import OneModel
from rankdistill.export.serve.http.app import create_app
from rankdistill.export.serve.models.model_slot import Model
from rankdistill.export.serve.models.served_bundle import Served, ServedLevel
from rankdistill.export.serve.service import Service
from rankdistill.export.serve.settings import Limits, Log, Queue, Settings
from tests.fake_ranker import FakeEmbedder, FakeRanker, body, logit

JSON = {"content-type": "application/json"}
SMALL = Settings(limits=Limits(body_bytes=2_000, texts=5, text_characters=100, concurrency=2))
TEXTS = ["red car", "a lamp that is warm", "tie", "tie", "x" * 60]
TEI = body(query="lamp", texts=TEXTS)
COHERE = body(model="m", query="lamp", documents=TEXTS)
PATHS = {"/rerank": TEI, "/v1/rerank": COHERE, "/v2/rerank": COHERE}
Scenario = Callable[[httpx.AsyncClient, FakeRanker, Service], Awaitable[object]]


def model_of(ranker: FakeRanker, embedder: FakeEmbedder | None = None) -> Model[Served]:
    plan = OneModel(ranker)
    return Model("fake", Served(ranker, (ServedLevel("fake", plan, plan),), embedder=embedder), ranker.close)


def run(scenario: Scenario, configured: Settings = SMALL, tokens: tuple[str, ...] = ()) -> object:
    """Run a scenario against a service of its own."""
    ranker = FakeRanker()
    service = Service(model_of(ranker), configured, threads=1)

    async def main() -> object:
        transport = httpx.ASGITransport(create_app(service, tokens))
        async with httpx.AsyncClient(transport=transport, base_url="http://ranker") as client:
            return await scenario(client, ranker, service)

    try:
        return asyncio.run(main())
    finally:
        ranker.gate.set()
        service.close()


def post(path: str, content: bytes, headers: dict[str, str] | None = None, **options: object) -> httpx.Response:
    async def scenario(client, ranker, service):
        return await client.post(path, content=content, headers=JSON | (headers or {}))

    return run(scenario, **options)


def expected(texts: list[str], raw: bool = False) -> list[tuple[int, float]]:
    """Rank by the formula: best first, of equal scores the earlier text."""
    scores = [logit("lamp", text) for text in texts]
    order = sorted(range(len(texts)), key=lambda row: (-scores[row], row))
    return [(row, scores[row] if raw else 1 / (1 + math.exp(-scores[row]))) for row in order]


def test_tei_texts_come_best_first_with_the_sigmoid_of_their_logits():
    answer = post("/rerank", TEI)
    assert answer.status_code == 200
    assert [set(rank) for rank in answer.json()] == [{"index", "score"}] * 5
    for rank, (index, score) in zip(answer.json(), expected(TEXTS), strict=True):
        assert rank["index"] == index
        assert rank["score"] == pytest.approx(score, rel=1e-6)


def test_tei_raw_scores_and_texts_are_given_when_asked_for():
    answer = post("/rerank", body(query="lamp", texts=TEXTS, raw_scores=True, return_text=True)).json()
    assert [(rank["index"], rank["text"]) for rank in answer] == [(i, TEXTS[i]) for i, _ in expected(TEXTS)]
    assert [rank["score"] for rank in answer] == pytest.approx([score for _, score in expected(TEXTS, raw=True)])


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_cohere_documents_are_texts_or_objects_and_cut_to_the_first_n(path):
    documents = [text if row % 2 else {"text": text} for row, text in enumerate(TEXTS)]
    answer = post(path, body(query="lamp", documents=documents, top_n=2, return_documents=True)).json()
    assert answer["model"] == "fake"
    assert answer["meta"]["billed_units"] == {"search_units": 1}
    best = expected(TEXTS)[:2]
    assert [(r["index"], r["document"]["text"]) for r in answer["results"]] == [(i, TEXTS[i]) for i, _ in best]
    assert [r["relevance_score"] for r in answer["results"]] == pytest.approx([score for _, score in best])


def test_documents_are_returned_unasked_by_v1_as_jina_does_and_not_by_v2():
    assert "document" in post("/v1/rerank", COHERE).json()["results"][0]
    assert (
        "document"
        not in post("/v1/rerank", body(query="q", documents=["a"], return_documents=False)).json()["results"][0]
    )
    assert "document" not in post("/v2/rerank", COHERE).json()["results"][0]


def test_v1_counts_the_tokens_of_all_pairs_as_jina_does():
    usage = post("/v1/rerank", COHERE).json()["usage"]
    assert usage["total_tokens"] == sum(1 + len(text.split()) + 3 for text in TEXTS)


def test_extreme_logits_have_a_finite_sigmoid():
    wide = dataclasses.replace(SMALL, limits=Limits(text_characters=100_000))
    answer = post("/rerank", body(query="q" * 20_000, texts=["a", "b" * 60_000]), configured=wide).json()
    assert [rank["score"] for rank in answer] == [1.0, 0.0]


NONSENSE = [
    (b"", 400), (b"{", 400), (b"\xff\xfe", 400), (b"[" * 1000, 422), (b'{"query":NaN}', 400), (b"null", 422),
    (b'{"query":"a","texts":["\\ud800"],"documents":["\\ud800"]}', 400),
    (b'{"query":"\xed\xa0\x80","texts":["a"],"documents":["a"]}', 400),
    (b'{"x":' + b"[" * 900 + b"]" * 900 + b',"query":"a","texts":"a","documents":"a"}', 422),
    (b"{}", 422), (body(query=1, texts=["a"], documents=["a"]), 422), (body(query="a", texts=[], documents=[]), 422),
    (body(query="a", texts="b", documents="b"), 422), (body(query="a", texts=[None], documents=[None]), 422),
    (body(query="a", texts=["a"], raw_scores="yes", documents=["a"], top_n=0), 422),
    (body(query="a", texts=["a"], truncation_direction="left", documents=["a"], top_n=1.5), 422),
    (b'{"query":"a","texts":["a"],"raw_scores":1,"documents":["a"],"top_n":1e999}', 422),
    (body(query="a", texts=["a"] * 6, documents=["a"] * 6), 413),
    (body(query="q" * 101, texts=["a"], documents=["a"]), 413),
    (body(query="a", texts=["t" * 101], documents=["t" * 101]), 413), (b" " * 2_001, 413),
    (body(query="a", texts=["nan"], documents=["nan"]), 424),
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("content", "status"), NONSENSE)
def test_nonsense_is_refused_with_its_status_in_the_apis_own_shape(path, content, status):
    answer = post(path, content)
    assert answer.status_code == status, answer.text
    told = answer.json()
    names = {"/rerank": {"error", "error_type"}, "/v1/rerank": {"message", "detail"}, "/v2/rerank": {"message"}}
    assert set(told) == names[path]
    assert all(isinstance(value, str) and value for value in told.values())


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["text", "image"]), inner, max_size=3),
    max_leaves=8,
)
FIELDS = "query texts raw_scores return_text truncation_direction documents top_n return_documents rank_fields".split()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=st.dictionaries(st.sampled_from(FIELDS), ANY), noise=st.binary(max_size=6), where=st.integers(0, 400))
def test_whatever_comes_is_answered_or_refused_but_never_breaks_the_service(content, noise, where):
    text = json.dumps({"query": "a", "texts": ["a"], "documents": ["a"]} | content).encode()
    text = text[:where] + noise + text[where:]

    async def scenario(client, ranker, service):
        for path in PATHS:
            answer = await client.post(path, content=text, headers=JSON)
            assert answer.status_code in (200, 400, 413, 422, 424)
            answer.json()

    run(scenario)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_said_to_be_json_is_refused_since_other_sites_pages_can_send_it(kind):
    assert post("/rerank", TEI, {"content-type": kind}).status_code == 415


def test_a_body_that_is_too_long_is_refused_before_it_is_there():
    async def endless():
        for _ in range(1_000_000):
            sent.append(1)
            yield b" " * 500

    async def scenario(client, ranker, service):
        announced = await client.post("/rerank", content=b"", headers=JSON | {"content-length": "3000000"})
        return announced, await client.post("/rerank", content=endless(), headers=JSON)

    sent: list[int] = []
    announced, chunked = run(scenario)
    assert (announced.status_code, chunked.status_code) == (413, 413)
    assert chunked.headers["connection"] == "close"
    assert len(sent) <= 6


@pytest.mark.parametrize(
    "headers", [{"X-Priority": "urgent"}, {"X-Deadline-Ms": "0"}, {"X-Deadline-Ms": "1e3"}, {"X-User": "u" * 257}]
)
def test_headers_that_say_something_else_are_refused(headers):
    assert post("/rerank", TEI, headers).status_code == 400


def test_a_full_queue_answers_429_and_when_to_come_back():
    async def scenario(client, ranker, service):
        ranker.gate.clear()
        waiting = [
            asyncio.ensure_future(client.post("/rerank", content=body(query=q, texts=["a"]), headers=JSON))
            for q in "ab"
        ]
        while service.dispatcher.waiting < 2:
            await asyncio.sleep(0.001)
        third = await client.post("/rerank", content=TEI, headers=JSON)
        ranker.gate.set()
        return third, [(await each).status_code for each in waiting]

    refused, others = run(scenario)
    assert (refused.status_code, refused.json()["error_type"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert others == [200, 200]


@pytest.mark.parametrize("default", [None, 60])
def test_a_deadline_is_kept_and_the_work_dropped(default):
    async def scenario(client, ranker, service):
        ranker.gate.clear()
        headers = JSON if default else JSON | {"X-Deadline-Ms": "60"}
        answer = await client.post("/rerank", content=TEI, headers=headers)
        ranker.gate.set()
        await _idle(service)
        return answer, ranker.run

    answer, scored = run(scenario, dataclasses.replace(SMALL, queue=Queue(deadline_ms=default)))
    assert (answer.status_code, answer.json()["error_type"]) == (504, "timeout")
    assert scored < len(TEXTS)


async def ask_and_leave(app: Callable[..., Awaitable[None]], path: str, content: bytes, gone: asyncio.Event) -> None:
    """Send a request over a connection that its client closes when `gone` is set."""
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "http_version": "1.1", "headers": [(b"content-type", b"application/json")], "scheme": "http", "root_path": "",
    }  # fmt: skip
    messages = iter([{"type": "http.request", "body": content}])

    async def receive():
        for message in messages:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    await app(scope, receive, send)


def test_a_client_that_hangs_up_frees_its_work():
    ranker = FakeRanker()
    service = Service(model_of(ranker), SMALL, threads=1)
    gone = asyncio.Event()

    async def scenario():
        ranker.gate.clear()
        answering = asyncio.ensure_future(ask_and_leave(create_app(service), "/rerank", TEI, gone))
        while not service.dispatcher.waiting:
            await asyncio.sleep(0.001)
        gone.set()
        await answering
        ranker.gate.set()
        await _idle(service)

    asyncio.run(scenario())
    service.close()
    assert ranker.run < len(TEXTS)


@pytest.mark.parametrize(("path", "field"), [("/embed", "inputs"), ("/v1/embeddings", "input")])
def test_clients_that_hang_up_free_the_vectors_that_are_made_and_those_that_wait(path, field):
    embedder = FakeEmbedder()
    service = Service(model_of(FakeRanker(), embedder), SMALL, threads=1)

    async def scenario():
        app, gone = create_app(service), asyncio.Event()
        leaving = [asyncio.ensure_future(ask_and_leave(app, path, body(**{field: [t]}), gone)) for t in ("a", "b")]
        for _ in range(2_000):
            if embedder.begun:
                break
            await asyncio.sleep(0.001)
        gone.set()
        await asyncio.wait_for(asyncio.gather(*leaving), 10)
        embedder.busy = False
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ranker") as client:
            return await client.post(path, content=body(**{field: ["c"]}), headers=JSON)

    try:
        assert asyncio.run(scenario()).status_code == 200
    finally:
        embedder.gate.set()
        service.close()
    assert (embedder.begun, embedder.ended) == (["a", "c"], ["c"])


async def _idle(service: Service) -> None:
    for _ in range(2_000):
        if not service.dispatcher.waiting:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("work that nobody waits for was not dropped")


def test_a_model_that_fails_answers_424_and_says_nothing_of_its_inside():
    async def scenario(client, ranker, service):
        ranker.broken = RuntimeError("secret")
        failed = await client.post("/rerank", content=TEI, headers=JSON)
        ranker.broken = None
        return failed, await client.post("/rerank", content=TEI, headers=JSON)

    failed, after = run(scenario)
    assert (failed.status_code, failed.json()) == (424, {"error": "Inference failed", "error_type": "backend"})
    assert after.status_code == 200


def test_a_service_that_goes_down_is_healthy_but_not_ready_and_takes_nothing_new():
    async def scenario(client, ranker, service):
        before = (await client.get("/ready")).status_code
        service.drain()
        after = [(await client.get(path)).status_code for path in ("/health", "/ready")]
        return before, after, (await client.post("/rerank", content=TEI, headers=JSON)).status_code

    assert run(scenario) == (200, [200, 503], 503)


TOKENS = ("a-token-of-some-length", "another-token-of-some")


@pytest.mark.parametrize("path", [*PATHS, "/info", "/metrics", "/docs", "/openapi.json", "/nowhere"])
def test_without_a_token_nothing_but_probes_is_answered(path):
    async def scenario(client, ranker, service):
        given = [
            None,
            "",
            "Bearer ",
            f"Basic {TOKENS[0]}",
            f"Bearer {TOKENS[0]}x",
            f"Bearer {TOKENS[0][:-1]}",
            "Bearer é",
        ]
        for value in given:
            headers = JSON | ({} if value is None else {"Authorization": value.encode("latin-1")})
            answer = await client.request(
                "POST" if path in PATHS else "GET", path, content=PATHS.get(path), headers=headers
            )
            assert answer.status_code == 401, value
            assert answer.headers["www-authenticate"] == "Bearer"
        assert [(await client.get(probe)).status_code for probe in ("/health", "/ready")] == [200, 200]

    run(scenario, tokens=TOKENS)


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_any_of_the_tokens_opens(token, scheme):
    assert post("/rerank", TEI, {"Authorization": f"{scheme} {token}"}, tokens=TOKENS).status_code == 200


def test_metrics_have_teis_names_and_count_what_happened():
    async def scenario(client, ranker, service):
        for content in (TEI, TEI, b"{"):
            await client.post("/rerank", content=content, headers=JSON)
        return await client.get("/metrics")

    page = run(scenario).text
    assert len([*text_string_to_metric_families(page)]) >= 9
    samples = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert samples['te_request_count{method="batch"}'] == samples['te_request_success{method="batch"}'] == "2.0"
    assert samples['te_request_failure{err="validation"}'] == "1.0"
    for name in ("te_request_duration", "te_request_queue_duration", "te_request_inference_duration"):
        assert samples[f"{name}_count"] == samples[f'{name}_bucket{{le="+Inf"}}'] == "2.0"
    assert samples["te_queue_size"] == "0.0"
    assert samples["ranker_texts_total"] == f"{2 * len(TEXTS)}.0"


@pytest.mark.parametrize(
    ("log", "lines", "shown"),
    [(Log(), 0, False), (Log(requests=True), 1, False), (Log(requests=True, texts=True), 1, True)],
)
def test_texts_are_in_the_log_only_if_they_are_asked_for(caplog, log, lines, shown):
    logging.getLogger("ranker.requests").setLevel(logging.INFO)
    with caplog.at_level(logging.DEBUG):
        post("/rerank", TEI, {"X-User": "somebody"}, configured=dataclasses.replace(SMALL, log=log))
    written = [record.getMessage() for record in caplog.records if record.name == "ranker.requests"]
    assert len(written) == lines
    assert (TEXTS[1] in caplog.text) == shown
    for line in written:
        told = json.loads(line)
        assert (told["path"], told["status"], told["texts"]) == ("/rerank", 200, len(TEXTS))


def test_info_has_what_teis_clients_read():
    async def scenario(client, ranker, service):
        return (await client.get("/info")).json()

    info = run(scenario)
    assert (info["model_id"], info["max_input_length"], info["max_client_batch_size"]) == ("fake", 24, 5)
    assert set(info["model_type"]) == {"reranker"}


def test_the_description_says_what_is_checked():
    async def scenario(client, ranker, service):
        return (await client.get("/openapi.json")).json(), (await client.get("/docs")).status_code

    content, docs = run(scenario)
    assert docs == 200
    request = content["components"]["schemas"]["RerankRequest"]
    assert request["required"] == ["query", "texts"]
    assert request["properties"]["texts"]["minItems"] == 1
    for path, example in PATHS.items():
        described = content["paths"][path]["post"]
        assert set(described["responses"]) >= {"200", "400", "413", "415", "422", "424", "429", "504"}
        shown = described["requestBody"]["content"]["application/json"]["examples"]["items"]["value"]
        assert post(path, json.dumps(shown).encode()).status_code == post(path, example).status_code == 200


SHAPES = {"/v1/": {"message", "detail"}, "/v2/": {"message"}, "/": {"error", "error_type"}}


def shape_of(path: str) -> set[str]:
    """Return the names that a refusal has there, where no other API has the path."""
    return next(names for prefix, names in SHAPES.items() if path.startswith(prefix))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/rerank", 405), ("GET", "/v1/rerank", 405), ("PUT", "/v2/rerank", 405), ("POST", "/health", 405)]
    + [("GET", path, 404) for path in ("/nothing", "/v1/nothing", "/v2/nothing", "/rerank/more")],
)  # fmt: skip
def test_a_wrong_path_or_method_is_refused_in_the_shape_of_the_api_it_was_meant_for(method, path, status):
    async def scenario(client, ranker, service):
        return await client.request(method, path)

    answer = run(scenario)
    assert answer.status_code == status
    told = answer.json()
    assert set(told) == shape_of(path)
    assert all(isinstance(value, str) and value for value in told.values())
    if status == 405:
        assert answer.headers["allow"] == ("GET, HEAD, OPTIONS" if path == "/health" else "OPTIONS, POST")


def test_head_of_ready_says_that_the_service_goes_down():
    async def scenario(client, ranker, service):
        service.drain()
        return [await client.head(path) for path in ("/health", "/ready")]

    health, ready = run(scenario)
    assert (health.status_code, ready.status_code) == (200, 503)
    assert health.content == ready.content == b""


ENDPOINTS = [*PATHS, "/embed", "/v1/embeddings"]


@pytest.mark.parametrize("path", [*ENDPOINTS, "/health", "/ready", "/info", "/metrics", "/docs", "/admin/models"])
def test_a_slash_at_the_end_is_refused_in_the_apis_shape_and_leads_nowhere(path, tmp_path):
    async def ask():
        service = Service(model_of(FakeRanker()), SMALL, threads=1)
        app = create_app(service, (), TOKENS, tmp_path)
        admin = {"authorization": f"Bearer {TOKENS[0]}"}
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ranker") as client:
                asked = [await client.request(m, path + "/", headers=admin) for m in ("GET", "HEAD", "POST")]
                head = await client.head(path, headers=admin)
                return asked, head, await client.options(path, headers=admin)
        finally:
            service.close()

    asked, head, options = asyncio.run(ask())
    assert [answer.status_code for answer in asked] == [404] * 3
    assert not any("location" in answer.headers for answer in asked)
    assert f"there is {path}, without a slash at its end" in asked[0].text
    names = {"message", "code", "type"} if path == "/v1/embeddings" else shape_of(path)
    assert set(asked[0].json()) == names
    assert head.status_code == (405 if path in ENDPOINTS else 200)
    assert head.content == b""
    assert (options.status_code, options.content) == (204, b"")
    assert options.headers["allow"] == ("OPTIONS, POST" if path in ENDPOINTS else "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/info", "/admin/models", "/nothing", "//health", "/%68ealth/", "/admin"])
def test_no_method_goes_round_the_tokens(method, path, tmp_path):
    async def ask():
        service = Service(model_of(FakeRanker()), SMALL, threads=1)
        app = create_app(service, TOKENS, TOKENS, tmp_path)
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ranker") as client:
                return await client.request(method, f"http://ranker{path}"), await client.request(method, "/health")
        finally:
            service.close()

    refused, health = asyncio.run(ask())
    assert refused.status_code == 401
    assert health.status_code == (200 if method == "HEAD" else 204)


def test_behind_a_prefix_of_rays_probes_are_open_and_refusals_the_apis_own():
    async def ask():
        service = Service(model_of(FakeRanker()), SMALL, threads=1)
        transport = httpx.ASGITransport(create_app(service, TOKENS), root_path="/ranker")
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://ranker") as client:
                own = {"authorization": f"Bearer {TOKENS[0]}"}
                open_ = [(await client.get(f"/ranker{path}")).status_code for path in ("/health", "/ready", "/info")]
                return open_, (await client.get("/ranker/v2/rerank", headers=own)).json()
        finally:
            service.close()

    open_, refused = asyncio.run(ask())
    assert open_ == [200, 200, 401]
    assert set(refused) == {"message"}


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_a_fault_of_the_service_itself_is_told_in_the_apis_shape(path):
    async def ask():
        service = Service(model_of(FakeRanker()), SMALL, threads=1)
        transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
        service.settings = None
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://ranker") as client:
                return await client.post(path, content=PATHS[path], headers=JSON)
        finally:
            service.settings = SMALL
            service.close()

    answer = asyncio.run(ask())
    assert answer.status_code == 500
    names = {"/rerank": {"error", "error_type"}, "/v1/rerank": {"message", "detail"}, "/v2/rerank": {"message"}}
    assert set(answer.json()) == names[path]


def test_every_answer_says_what_served_it_and_metrics_how_long_that_was_on():
    async def scenario(client, ranker, service):
        answer = await client.post("/rerank", content=TEI, headers=JSON)
        await asyncio.sleep(0.02)
        page = (await client.get("/metrics")).text
        return answer.headers["x-rank-level"], page, (await client.get("/info")).json()["levels"]

    level, page, levels = run(scenario)
    assert level == "fake"  # without a cascade, the graph
    assert levels == ["fake"]
    seconds = {
        sample.labels["level"]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "ranker_level_seconds_total"
    }
    assert set(seconds) == {"fake"}
    assert seconds["fake"] >= 0.02
