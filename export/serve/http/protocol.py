"""HTTP connections that cannot be held for nothing: uvicorn's protocol with limits that it does not have.

uvicorn gives up idle connections between requests alone. Here a request must come in whole in `receive_s`, which the
first one has from the connection's beginning, and an answer must be taken in that time; headers are bounded, and so
are connections. A client that sends no more gets its answer. One that asks for another protocol too, as Java's does
for HTTP/2, is answered in this one; httptools would take its body for the other.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rankdistill.export.serve.http.disconnect import HalfClosed
from rankdistill.export.serve.settings import Limits

MOST_HEAD = 65_536  # bytes of a request's first line and headers


class _Parser(httptools.HttpRequestParser):
    """A parser that tells its protocol of what it takes for another one."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        """Parse a part."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._protocol.stay(data[upgrade.args[0] :])


class BoundedProtocol(HttpToolsProtocol):
    """A connection. Subclasses set `limits`."""

    limits = Limits()
    _coming: asyncio.TimerHandle | None = None  # gives up a request that is late
    _going: asyncio.TimerHandle | None = None  # gives up an answer that is not taken
    _head: int | None = None  # bytes of headers so far, while they come
    _whole = True  # whether no request is half there
    _ended = False  # whether the client sends no more
    _again = False  # whether headers are parsed that were there before

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless too many are there already."""
        super().connection_made(transport)
        self.parser = _Parser(self)
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

    def stay(self, rest: bytes) -> None:
        """Go on with HTTP/1.1 after headers that ask for another protocol.

        Args:
            rest: what followed them.
        """
        length = [b": ".join(each) for each in self.headers if each[0] in (b"content-length", b"transfer-encoding")]
        self.parser, self._again = _Parser(self), True
        self.parser.feed_data(b"\r\n".join([b"POST / HTTP/1.1", *length, b"", b""]))
        self._again = False
        self.parser.feed_data(rest)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Go on if a whole request waits for its answer: its client sends no more, or has gone."""
        if self._ended or not self._whole or self.cycle is None or self.cycle.response_complete:
            return self._ended
        self._ended, self.cycle.keep_alive = True, False
        self._feel()
        return True

    def on_response_complete(self) -> None:
        """Go on with the next request, if it is there already."""
        super().on_response_complete()
        self._feel()

    def on_message_begin(self) -> None:
        """Begin a request."""
        if not self._again:
            super().on_message_begin()
            self._whole, self._head = False, 0

    def on_url(self, url: bytes) -> None:
        """Take a part of a request's first line."""
        if not self._again:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        if not self._again:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin a request's body."""
        if not self._again:
            self._head = None
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request."""
        if not self.parser.should_upgrade():  # else its body follows
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

    def _feel(self) -> None:
        """Find out whether a client that sends no more has gone; `cycle` is its last request, `pipeline` others."""
        if self._ended and not (self.pipeline or self.cycle.response_started):
            self.cycle.transport = HalfClosed(self.transport, self.loop)  # type: ignore[assignment]

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
