"""The way from a request for vectors to an answer; vectors are made beside the scoring, one request after the other."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rankdistill.export.runtime.embedder import Embedder
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.serve.http.api import About, Api, check_size, decode, read_body
from rankdistill.export.serve.http.disconnect import unless_gone
from rankdistill.export.serve.http.metrics import Metrics
from rankdistill.export.serve.http.refusal import BACKEND, OVERLOADED, TIMEOUT, UNHEALTHY, VALIDATION, Refused
from rankdistill.export.serve.http.request_log import RequestLog
from rankdistill.export.serve.http.urgency_headers import read_urgency
from rankdistill.export.serve.service import Service

JSON = "application/json"
logger = logging.getLogger("ranker")


class Line:
    """Requests for vectors, worked on one after the other, each by all threads of the embedder.

    Args:
        capacity: requests that may wait or be worked on.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.waiting = capacity, 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="vectors")

    async def run(self, work: Callable[[threading.Event], Any], deadline: float | None) -> Any:
        """Return what `work` returns, called by the worker; what nobody waits for any more is not begun.

        Args:
            work: is given an event that is set when nobody waits for it any more.
            deadline: time.monotonic(); None for none.

        Raises:
            Refused: 429 if too many wait, 504 at the deadline.
        """
        if self.waiting >= self.capacity:
            raise Refused(429, OVERLOADED, "Model is overloaded", {"retry-after": "1"})
        self.waiting += 1
        unwanted = threading.Event()
        try:
            future = asyncio.get_running_loop().run_in_executor(self._worker, work, unwanted)
            return await asyncio.wait_for(future, None if deadline is None else deadline - time.monotonic())
        except TimeoutError as error:
            raise Refused(504, TIMEOUT, "the deadline passed before the vectors were there") from error
        finally:
            unwanted.set()
            self.waiting -= 1

    def close(self) -> None:
        """End the worker."""
        self._worker.shutdown(wait=False, cancel_futures=True)


class EmbedEndpoint:
    """One API's way from a request to an answer."""

    def __init__(self, api: Api, service: Service, line: Line, metrics: Metrics, log: RequestLog) -> None:
        self.api, self.service, self.line, self.metrics, self.log = api, service, line, metrics, log
        self._decoder = msgspec.json.Decoder(api.body)
        self._encode = msgspec.json.Encoder().encode

    def route(self) -> Callable[[Request], Awaitable[Response]]:
        """Return the route's function; FastAPI takes no methods of objects."""

        async def embed(request: Request) -> Response:
            return await self._respond(request)

        return embed

    async def _respond(self, request: Request) -> Response:
        began, texts = time.perf_counter(), []  # type: tuple[float, list[str]]
        try:
            body = await self._read(request)
            texts = body.texts()
            vectors, about = await self._embed(request, body)
            response = Response(self._encode(self.api.answer(body, vectors, about)), media_type=JSON)
            seconds = time.perf_counter() - began
            self.metrics.answered(len(texts), seconds, 0.0, seconds, False)
        except Refused as refused:
            self.metrics.refused(refused.kind)
            content = self._encode(self.api.refuse(refused))
            response = Response(content, refused.status, refused.headers, JSON)
        self.log.write(self.api.path, response.status_code, time.perf_counter() - began, 0.0, ("", texts))
        return response

    async def _read(self, request: Request) -> Any:
        if self.service.draining:
            raise Refused(503, UNHEALTHY, "the service is going down", {"connection": "close", "retry-after": "1"})
        limits = self.service.settings.limits
        body = decode(self._decoder, await read_body(request, limits.body_bytes))
        check_size("", body.texts(), limits.texts, limits.text_characters)
        return body

    async def _embed(self, request: Request, body: Any) -> tuple[Float32, About]:
        urgency = read_urgency(request.headers, self.service.settings.queue.deadline_ms)
        with self.service.slot.lease() as model:
            served = model.content
            embedder = served.embedder
            if embedder is None:
                raise Refused(424, BACKEND, "the bundle has no embedder")
            if body.dimensions is not None and body.dimensions > embedder.width:
                raise Refused(422, VALIDATION, f"dimensions: at most {embedder.width}. Given: {body.dimensions}")
            self.metrics.began(self.service.dispatcher.waiting + 1)
            try:
                work = self.line.run(partial(_vectors, embedder, body), urgency.deadline)
                vectors, tokens = await unless_gone(request, work)
            except Refused:
                raise
            except Exception as error:
                logger.exception("embedding failed")
                raise Refused(424, BACKEND, "Inference failed") from error
            return vectors, About(served.name, tokens)


def _vectors(embedder: Embedder, body: Any, unwanted: threading.Event) -> tuple[Float32, int]:
    """Return the vectors of a request, and the tokens that were read of it."""
    most = embedder.encoder.max_length
    lengths = embedder.encoder.lengths(body.texts())
    if body.uncut() and max(lengths) > most:
        raise Refused(413, VALIDATION, f"inputs must have at most {most} tokens. Given: {max(lengths)}")
    vectors = embedder.embed(body.texts(), body.dimensions, normalize=body.normalize, unwanted=unwanted)
    return vectors, sum(min(length, most) for length in lengths)
