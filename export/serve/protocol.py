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
    _coming: asyncio.TimerHandle | None = None  # gives up a request that is late
    _going: asyncio.TimerHandle | None = None  # gives up an answer that is not taken
    _head: int | None = None  # bytes of headers so far, while they come
    _whole = True  # whether no request is half there

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless too many are there already."""
        super().connection_made(transport)
        self._coming = self._give_up_later()
        if len(self.connections) > self.limits.connections:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._came()
        self._went()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        if self._coming is None and self._waits_for_client():
            self._coming = self._give_up_later()
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
        self._came()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Wait for a client that does not take its answer."""
        super().pause_writing()
        self._went()
        self._going = self._give_up_later()

    def resume_writing(self) -> None:
        """Go on: it was taken."""
        super().resume_writing()
        self._went()

    def _waits_for_client(self) -> bool:
        """Return whether a request is half there, or its very beginning may come and uvicorn has no timer for it."""
        between = self.cycle is None or self.cycle.response_complete
        return not self._whole or (between and self.timeout_keep_alive_task is None)

    def _give_up_later(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self.limits.receive_s, self.transport.abort)

    def _came(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
            self._coming = None

    def _went(self) -> None:
        if self._going is not None:
            self._going.cancel()
            self._going = None


def bounded(limits: Limits) -> type[BoundedProtocol]:
    """Return the protocol with these limits; uvicorn makes one for each connection."""
    return type("Protocol", (BoundedProtocol,), {"limits": limits})
