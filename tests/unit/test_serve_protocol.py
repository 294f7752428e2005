"""Connections whose client sends, or takes its answer, too slowly."""

from __future__ import annotations

import asyncio

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from rankdistill.export.serve.http.protocol import bounded
from rankdistill.export.serve.settings import Limits

WHOLE = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"
HALF = b"GET /health HTTP/1.1\r\nhos"
RECEIVE_S = 0.05


class FakeTransport(asyncio.Transport):
    """A connection that only says whether it was given up."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def write(self, data: bytes) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def never(scope, receive, send):
    await asyncio.Event().wait()


def given_up(*steps) -> bool:
    """Return whether a connection is given up, a while after these steps: bytes that come, or methods' names."""

    async def main() -> bool:
        state, transport = ServerState(), FakeTransport()
        protocol = bounded(Limits(receive_s=RECEIVE_S))(Config(never, log_config=None), state, {})
        protocol.connection_made(transport)
        for step in steps:
            protocol.data_received(step) if isinstance(step, bytes) else getattr(protocol, step)()
        await asyncio.sleep(4 * RECEIVE_S)
        for task in state.tasks:
            task.cancel()
        return transport.aborted

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((), True),
        ((HALF,), True),
        ((WHOLE,), False),
        ((WHOLE, "pause_writing"), True),
        ((WHOLE, "pause_writing", "resume_writing"), False),
        ((WHOLE, "pause_writing", WHOLE), True),  # the next request does not say that the answer was taken
        ((WHOLE, HALF, "pause_writing", "resume_writing"), True),  # nor the answer that the next request is there
    ],
)
def test_what_is_late_is_given_up_whatever_else_comes_in_time(steps, expected):
    assert given_up(*steps) is expected
