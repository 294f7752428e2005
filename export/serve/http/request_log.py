"""The log of requests: JSON lines on standard error.

A thread of its own writes them, so that a full disk or a reader that has stopped never stops the service.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import queue
import time
from collections.abc import Sequence
from typing import Any

from rankdistill.export.serve.settings import Log

KEPT = 10_000  # lines that may wait to be written; what comes then is not
NAME = "ranker.requests"


def start_logging() -> logging.handlers.QueueListener:
    """Send the log's and the server's lines to standard error; stop the listener in the end."""
    logging.raiseExceptions = False  # a line that cannot be written is lost
    lines: queue.Queue[Any] = queue.Queue(KEPT)
    listener = logging.handlers.QueueListener(lines, _StandardError())
    for name, level in ((NAME, logging.INFO), ("uvicorn.error", logging.WARNING), ("ranker", logging.INFO)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [logging.handlers.QueueHandler(lines)], False
        logger.setLevel(level)
    listener.start()
    return listener


def write_line(text: str) -> None:
    """Write a line to standard error, unbuffered; one that cannot be written is lost, and nothing else happens."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="backslashreplace"))


class _StandardError(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        write_line(self.format(record))


class RequestLog:
    """Writes a line for each request, if asked to.

    Args:
        settings: what is written.
    """

    def __init__(self, settings: Log) -> None:
        self.settings = settings
        self._logger = logging.getLogger(NAME)

    def write(self, path: str, status: int, seconds: float, waited_s: float, texts: tuple[str, Sequence[str]]) -> None:
        """Write a request's line: its texts' number, or the texts themselves (query, items)."""
        if not self.settings.requests:
            return
        query, items = texts
        line: dict[str, Any] = {
            "time": round(time.time(), 3),
            "path": path,
            "status": status,
            "ms": round(1000 * seconds, 2),
            "queue_ms": round(1000 * waited_s, 2),
            "texts": len(items),
        }
        if self.settings.texts:
            line |= {"query": query, "items": list(items)}
        self._logger.info(json.dumps(line))
