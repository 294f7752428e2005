"""Clients that hang up: nothing more is done for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from export.serve.refusal import GONE, Refused

Answer = TypeVar("Answer")


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
