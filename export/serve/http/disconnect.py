"""Clients that hang up: nothing more is done for them. Those that only send no more still get their answers.

Both look the same at first: the end of what they send. But a client that has gone refuses what it is sent. So the first
byte of the answer, which is the same for all answers, is sent at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from rankdistill.export.serve.http.refusal import GONE, Refused

Answer = TypeVar("Answer")
FIRST = b"H"  # of "HTTP/1.1", with which every answer begins
LOOK_S = 0.05  # between two looks at whether the client refused it


async def unless_gone(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Return what the work returns; it is cancelled if the client hangs up, or nobody waits for this any more.

    Args:
        request: whose body was read.
        work: on its answer.

    Raises:
        Refused: 499 if the client hung up.
    """
    answering = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())  # after the body nothing comes but the client's leaving
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise Refused(499, GONE, "the client closed the connection")
        return answering.result()
    finally:
        answering.cancel()
        leaving.cancel()


class HalfClosed:
    """The transport of a connection whose client sends no more; it is given up once the client is found to have gone.

    Args:
        transport: no part of the answer was written to it yet.
        loop: of the connection.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._written = FIRST
        transport.write(FIRST)
        self._look_later()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write a part of the answer; of the first one, what is not there yet."""
        self._transport.write(data.removeprefix(self._written))
        self._written = b""

    def _look_later(self) -> None:
        self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        if self._transport.is_closing():
            return
        if self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
        else:
            self._look_later()
