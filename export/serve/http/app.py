"""The service's HTTP: routes to `Service`, and what its refusals look like."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rankdistill.export.serve.http.admin import add_admin
from rankdistill.export.serve.http.api import About, Api, Body, check_size, decode, read_body
from rankdistill.export.serve.http.auth import BearerTokens
from rankdistill.export.serve.http.cohere import V1, V2
from rankdistill.export.serve.http.disconnect import unless_gone
from rankdistill.export.serve.http.embed_api import EMBED_APIS
from rankdistill.export.serve.http.embed_endpoint import EmbedEndpoint, Line
from rankdistill.export.serve.http.error_handlers import add_refusals
from rankdistill.export.serve.http.methods import AnyMethod
from rankdistill.export.serve.http.metrics import Metrics
from rankdistill.export.serve.http.openapi import describe, operation
from rankdistill.export.serve.http.refusal import BACKEND, OVERLOADED, TIMEOUT, UNHEALTHY, VALIDATION, Refused
from rankdistill.export.serve.http.request_log import RequestLog
from rankdistill.export.serve.http.tei import RERANK, refuse
from rankdistill.export.serve.http.urgency_headers import read_urgency
from rankdistill.export.serve.scheduling.job import DeadlinePassed, QueueFull
from rankdistill.export.serve.service import Ranking, RankRequest, Service

APIS = (RERANK, V1, V2)
JSON = "application/json"
LEVEL = "x-rank-level"
logger = logging.getLogger("ranker")


def create_app(
    service: Service, tokens: Sequence[str] = (), admin_tokens: Sequence[str] = (), commands: Path | None = None
) -> FastAPI:
    """Return the ASGI application of a service, which it closes when it shuts down.

    Args:
        service: what ranks.
        tokens: bearer tokens, one of which a request must carry; none for an open service.
        admin_tokens: as `tokens`, for /admin; without any there is no /admin.
        commands: folder in which all workers find what /admin tells them (`commands`).
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start(commands)
        yield
        line.close()
        service.close()

    app = FastAPI(
        title="ranker",
        description="Ranks texts for a query with a distilled cross-encoder.",
        version=importlib.metadata.version("rankdistill"),
        lifespan=lifespan,
        redoc_url=None,  # /docs is enough
        redirect_slashes=False,  # behind a proxy that ends TLS a redirect would lead to plain http
    )
    metrics, log = Metrics(), RequestLog(service.settings.log)
    metrics.served(service.served)
    line = Line(service.settings.limits.concurrency)
    ways: list[_Endpoint | EmbedEndpoint] = [_Endpoint(api, service, metrics, log) for api in APIS]
    ways += [EmbedEndpoint(api, service, line, metrics, log) for api in EMBED_APIS]
    for endpoint in ways:
        api = endpoint.api
        app.add_api_route(
            api.path, endpoint.route(), methods=["POST"], response_model=None, summary=api.summary,
            openapi_extra=operation(api), name=api.path.strip("/"),
        )  # fmt: skip
    _add_reports(app, service, metrics)
    if admin_tokens and commands is not None:
        add_admin(app, service, commands)
    add_refusals(app, (*APIS, *EMBED_APIS))
    app.add_middleware(AnyMethod, routes=app.routes)
    app.add_middleware(BearerTokens, tokens=tokens, admin_tokens=admin_tokens)
    describe(app, (*APIS, *EMBED_APIS), bool(tokens))
    return app


class _Endpoint:
    """One API's way from a request to an answer."""

    def __init__(self, api: Api, service: Service, metrics: Metrics, log: RequestLog) -> None:
        self.api, self.service, self.metrics, self.log = api, service, metrics, log
        self._decoder = msgspec.json.Decoder(api.body)
        self._encode = msgspec.json.Encoder().encode

    def route(self) -> Callable[[Request], Awaitable[Response]]:
        """Return the route's function; FastAPI takes no methods of objects."""

        async def rerank(request: Request) -> Response:
            return await self._respond(request)

        return rerank

    async def _respond(self, request: Request) -> Response:
        began = time.perf_counter()
        waited_s, texts = 0.0, ("", [])  # type: tuple[float, tuple[str, list[str]]]
        try:
            body = await self._read(request)
            texts = (body.query, body.items())
            ranking = await self._rank(request, body, texts)
            answer, waited_s = ranking.answer, ranking.answer.waited_s
            content = self._encode(self.api.answer(body, answer.scores, About(ranking.model, ranking.tokens or 0)))
            response = Response(content, headers={LEVEL: ranking.level}, media_type=JSON)
            seconds = time.perf_counter() - began
            self.metrics.answered(len(texts[1]), seconds, waited_s, seconds - waited_s, answer.shared)
        except Refused as refused:
            self.metrics.refused(refused.kind)
            content = self._encode(self.api.refuse(refused))
            response = Response(content, refused.status, refused.headers, JSON)
        self.metrics.ended(self.service.dispatcher.waiting)
        self.metrics.cached(self.service.cache)
        self.metrics.served(self.service.served)
        self.log.write(self.api.path, response.status_code, time.perf_counter() - began, waited_s, texts)
        return response

    async def _read(self, request: Request) -> Body:
        if self.service.draining:
            raise _draining()
        limits = self.service.settings.limits
        body: Body = decode(self._decoder, await read_body(request, limits.body_bytes))
        check_size(body.query, body.items(), limits.texts, limits.text_characters)
        return body

    async def _rank(self, request: Request, body: Body, texts: tuple[str, list[str]]) -> Ranking:
        urgency = read_urgency(request.headers, self.service.settings.queue.deadline_ms)
        asked = RankRequest(*texts, urgency.priority, urgency.user, urgency.deadline, self.api.counts_tokens)
        self.metrics.began(self.service.dispatcher.waiting + 1)
        try:
            return await unless_gone(request, self._ranked(asked, body))
        except QueueFull as full:
            after = {"retry-after": str(math.ceil(full.retry_after))}
            raise Refused(429, OVERLOADED, "Model is overloaded", after) from full
        except DeadlinePassed as passed:
            raise Refused(504, TIMEOUT, str(passed)) from passed
        except asyncio.CancelledError as error:
            if not self.service.draining:
                raise
            raise _draining() from error  # the time for draining is over
        except Refused:
            raise
        except Exception as error:
            if self.service.draining:
                raise _draining() from error
            logger.exception("scoring failed")
            raise Refused(424, BACKEND, "Inference failed") from error

    async def _ranked(self, asked: RankRequest, body: Body) -> Ranking:
        if body.uncut():
            await self._refuse_cut((asked.query, list(asked.items)))
        return await self.service.rank(asked)

    async def _refuse_cut(self, texts: tuple[str, list[str]]) -> None:
        most, given = self.service.served.ranker.manifest.max_length, await self.service.longest(*texts)
        if given > most:
            raise Refused(413, VALIDATION, f"inputs must have at most {most} tokens. Given: {given}")


def _draining() -> Refused:
    return Refused(503, UNHEALTHY, "the service is going down", {"connection": "close", "retry-after": "1"})


def _add_reports(app: FastAPI, service: Service, metrics: Metrics) -> None:
    """Add what tells of the service itself."""
    down = refuse(_draining())
    refused = {"description": down["error"], "content": {JSON: {"example": down}}}

    @app.get("/health", summary="Whether the process answers", tags=["service"], response_class=Response)
    async def health() -> Response:
        return Response()

    @app.get(
        "/ready", summary="Whether requests are welcome", tags=["service"], response_class=Response,
        responses={503: refused},
    )  # fmt: skip
    async def ready() -> Response:
        return JSONResponse(down, 503) if service.draining else Response()

    @app.get("/info", summary="What is served", tags=["service"])
    async def info() -> dict[str, Any]:
        return _info(service)

    @app.get("/metrics", summary="Figures for Prometheus", tags=["service"], response_class=Response)
    async def figures() -> Response:
        metrics.ended(service.dispatcher.waiting)
        metrics.cached(service.cache)
        metrics.served(service.served)
        metrics.reloaded(service.reload.swaps, service.reload.rollbacks)
        return Response(metrics.page(), media_type=metrics.content_type)


def _info(service: Service) -> dict[str, Any]:
    """Return text-embeddings-inference's `Info`, and what this service has besides."""
    ranker, settings = service.served.ranker, service.settings
    manifest, variant = ranker.manifest, ranker.variant
    return {
        "model_id": service.served.name,
        "model_sha": manifest.content["key"],
        "model_dtype": variant.precision,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": settings.limits.concurrency,
        "max_input_length": manifest.max_length,
        "max_batch_tokens": manifest.max_length * variant.batch,
        "max_batch_requests": None,
        "max_client_batch_size": settings.limits.texts,
        "auto_truncate": True,
        "tokenization_workers": service.threads,
        "version": importlib.metadata.version("rankdistill"),
        "variant": variant.name,
        "threads": service.threads,
        "workers": settings.workers,
        "policy": settings.queue.policy,
        "levels": [level.name for level in service.served.levels],
    }
