"""HTTP connections that cannot be held for nothing: uvicorn's protocol with limits that it does not have.

uvicorn gives up idle connections between requests alone. Here a request must come in whole in `receive_s`, which the
first one has from the connection's beginning, and an answer must be taken in that time; headers are bounded, and so
are connections.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from export.serve.settings import Limits

MOST_HEAD = 65_536  # bytes of a request's first line and headers


class BoundedProtocol(HttpToolsProtocol):
    """A connection. Subclasses set `limits`."""

    limits = Limits()
    _timer: asyncio.TimerHandle | None = None
    _head: int | None = None  # bytes of headers so far, while they come
    _whole = True  # whether no request is half there

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless too many are there already."""
        super().connection_made(transport)
        self._within(self.limits.receive_s)
        if len(self.connections) > self.limits.connections:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        if self._timer is None and self._waits_for_client():
            self._within(self.limits.receive_s)
        if self._head is not None:
            self._head += len(data)
            if self._head > MOST_HEAD:
                self.send_400_response("The request's headers are too long.")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._whole, self._head = False, 0

    def on_headers_complete(self) -> None:
        """Begin a request's body."""
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request."""
        self._whole = True
        self._in_time()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Wait for a client that does not take its answer."""
        super().pause_writing()
        self._within(self.limits.receive_s)

    def resume_writing(self) -> None:
        """Go on: it was taken."""
        super().resume_writing()
        self._in_time()

    def _waits_for_client(self) -> bool:
        """Return whether a request is half there, or its very beginning may come and uvicorn has no timer for it."""
        between = self.cycle is None or self.cycle.response_complete
        return not self._whole or (between and self.timeout_keep_alive_task is None)

    def _within(self, seconds: float) -> None:
        self._in_time()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _in_time(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bounded(limits: Limits) -> type[BoundedProtocol]:
    """Return the protocol with these limits; uvicorn makes one for each connection."""
    return type("Protocol", (BoundedProtocol,), {"limits": limits})
