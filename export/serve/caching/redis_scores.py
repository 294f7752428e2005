"""Scores that replicas share in a Redis or Valkey: a help that is never waited for long and may be gone at any time."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import numpy as np

from rankdistill.export.errors import UserError
from rankdistill.export.extras import require
from rankdistill.export.runtime.processor import kernels
from rankdistill.export.runtime.scorer import Float32

SCORE = np.dtype("<f4")
FIRST_S, LONGEST_S = 0.5, 30.0  # that a server is left alone: after a failure, and at most after more of them
MOST_WAITING = 256  # requests whose scores wait to be written; those of more are not shared
CLOSING_S = 1.0  # for what still waits to be written

Value = TypeVar("Value")
logger = logging.getLogger(__name__)


class Breaker:
    """Leaves a server that fails alone for a while, then lets one call try; each failed try doubles the while.

    Args:
        what: is told in the log, once when it fails and once when it is back.
        errors: that are the server's.
        now: seconds of a monotonic clock.

    Attributes:
        failures: calls that failed.
    """

    def __init__(
        self, what: str, errors: tuple[type[Exception], ...], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.failures = 0
        self._what, self._errors, self._now = what, errors, now
        self._pause = 0.0  # 0 while all is well
        self._again = 0.0
        self._lock = threading.Lock()

    @property
    def well(self) -> bool:
        """Whether the last that was heard of the server was good."""
        return not self._pause

    def call(self, work: Callable[[], Value]) -> Value | None:
        """Return what work returns; None if the server fails, or is left alone."""
        with self._lock:
            trial = self._pause > 0
            if trial and self._now() < self._again:
                return None
            self._again = self._now() + self._pause  # the other callers wait for what comes of this trial
        try:
            done = work()
        except self._errors as error:
            self._failed(error, trial)
            return None
        with self._lock:
            back, self._pause = self._pause > 0, 0.0
        if back:
            logger.warning("%s: back", self._what)
        return done

    def _failed(self, error: Exception, trial: bool) -> None:
        with self._lock:
            self.failures += 1
            first = not self._pause  # other calls that were under way fail of the same
            if first or trial:
                self._pause = FIRST_S if first else min(LONGEST_S, 2 * self._pause)
                self._again = self._now() + self._pause
        if first:
            logger.warning("%s: %s: %s; requests do without", self._what, type(error).__name__, error)


class SharedScores:
    """Scores in a Redis or Valkey, by digests that hold the model's key. Any thread may use it; close it in the end.

    Reading takes one MGET a request, in the calling thread, and at most about `timeout_ms`. Writing is done by a thread
    of its own, one round trip a request. While the server fails or is slow, nothing is found and nothing is kept.

    Args:
        url: redis://, rediss:// or unix://, as redis-py reads it.
        ttl_s: seconds after which a score is forgotten.
        timeout_ms: milliseconds that the server has to connect, and to answer.
        kind: of the kernels that made the scores; only replicas of one kind find each other's. None for this machine's.

    Attributes:
        hits: scores that were found.
        misses: scores that were asked for and not found, or not asked for as the server is left alone.
        dropped: requests whose new scores were not shared, as too many waited to be written.

    Raises:
        UserError: if redis is not installed, or cannot read the URL.
        ValueError: if ttl_s or timeout_ms is not positive.
    """

    def __init__(self, url: str, ttl_s: int, timeout_ms: int, kind: str | None = None) -> None:
        require("redis", "redis")
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        if ttl_s < 1 or timeout_ms < 1:
            raise ValueError(f"ttl_s={ttl_s}, timeout_ms={timeout_ms}: at least 1")
        timeout = timeout_ms / 1000
        try:
            self.address = _address(url)
            # retries of redis-py, where it has any by itself, would wait several times as long as is allowed
            self._client = redis.Redis.from_url(
                url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0), protocol=2
            )
        except (ValueError, TypeError) as error:
            raise UserError(f"the shared cache's URL cannot be read: {error}") from error
        self.ttl_s = ttl_s
        self._prefix = f"rankdistill:{kernels() if kind is None else kind}:".encode()
        self.hits = self.misses = self.dropped = 0
        errors = (redis.RedisError, OSError)
        self._reading = Breaker(f"reading shared scores from {self.address}", errors)
        self._writing = Breaker(f"writing shared scores to {self.address}", errors)  # fails alone when memory is full
        self._new: queue.Queue[tuple[Sequence[bytes], Float32] | None] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self._writer = threading.Thread(target=self._write, name="share-scores", daemon=True)
        self._writer.start()

    @property
    def failures(self) -> int:
        """How many calls of the server failed."""
        return self._reading.failures + self._writing.failures

    @property
    def well(self) -> bool:
        """Whether the server answered when it was last asked, and took what it was last given."""
        return self._reading.well and self._writing.well

    def get(self, keys: Sequence[bytes]) -> Float32:
        """Look scores up; never raises for the server.

        Returns:
            float32 [keys], NaN where unknown.
        """
        found = self._reading.call(lambda: self._client.mget([self._prefix + key for key in keys])) if keys else None
        scores = np.full(len(keys), np.nan, dtype=np.float32)
        for row, value in enumerate(found or []):
            if isinstance(value, bytes) and len(value) == SCORE.itemsize:
                scores[row] = np.frombuffer(value, SCORE)[0]
        unknown = int(np.isnan(scores).sum())
        with self._lock:
            self.misses += unknown
            self.hits += len(keys) - unknown
        return scores

    def put(self, keys: Sequence[bytes], scores: Float32) -> None:
        """Have scores written some time soon; never waits, never raises for the server.

        Args:
            keys: of the pairs.
            scores: float32 [keys]; NaN is not written.
        """
        try:
            self._new.put_nowait((keys, scores))
        except queue.Full:
            with self._lock:
                self.dropped += 1

    def close(self) -> None:
        """Write what still waits, for a second at most, and hang up."""
        try:
            self._new.put(None, timeout=CLOSING_S)
        except queue.Full:
            logger.warning("%s: %d requests' scores were not written", self.address, self._new.qsize())
        self._writer.join(CLOSING_S)
        self._client.close()

    def _write(self) -> None:
        while (new := self._new.get()) is not None:
            keys, scores = new
            self._writing.call(partial(self._set, keys, scores))

    def _set(self, keys: Sequence[bytes], scores: Float32) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for key, score in zip(keys, scores, strict=True):
            if not np.isnan(score):
                pipeline.set(self._prefix + key, np.asarray(score, SCORE).tobytes(), ex=self.ttl_s)
        pipeline.execute()


def _address(url: str) -> str:
    """Return where a URL leads to, without user and password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path
