"""What Prometheus is told, under text-embeddings-inference's names where it has them (its `record_metrics`)."""

from __future__ import annotations

import os
import re
import time

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from rankdistill.export.serve.caching.score_cache import ScoreCache
from rankdistill.export.serve.models.served_bundle import Served

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own variable: where workers share their figures
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)  # seconds
SHARED_CACHE = {  # attributes of `SharedScores`
    "hits": "Scores that the shared cache knew",
    "misses": "Scores that it did not know, or was not asked for as it fails",
    "failures": "Calls of it that failed",
    "dropped": "Requests whose new scores were not shared, as too many waited to be written",
}
TOTAL = re.compile(rb"\b(te_[a-z_]+)_total\b")  # the client's suffix of counters, which TEI's names do not have


class Metrics:
    """Counts of requests and times of their parts, over all workers."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._count = Counter("te_request_count", "Requests", ["method"], registry=registry).labels("batch")
        self._success = Counter("te_request_success", "Requests answered", ["method"], registry=registry).labels(
            "batch"
        )
        self._failure = Counter("te_request_failure", "Requests refused, by reason", ["err"], registry=registry)
        self._seconds = Histogram("te_request_duration", "Seconds to an answer", buckets=BUCKETS, registry=registry)
        self._queue = Histogram(
            "te_request_queue_duration", "Seconds until scoring began", buckets=BUCKETS, registry=registry
        )
        self._inference = Histogram(
            "te_request_inference_duration", "Seconds from then to the scores", buckets=BUCKETS, registry=registry
        )
        self._texts = Counter("ranker_texts", "Texts of answered requests", registry=registry)
        self._shared = Counter("ranker_shared_requests", "Requests answered by an equal one", registry=registry)
        self._waiting = Gauge(
            "te_queue_size", "Requests that wait or are worked on", registry=registry, multiprocess_mode="livesum"
        )

        self._hits = Counter("ranker_cache_hits", "Pairs whose score was known", registry=registry)
        self._misses = Counter("ranker_cache_misses", "Pairs whose score was not known", registry=registry)
        self._shared_cache = {
            name: Counter(f"ranker_shared_cache_{name}", meaning, registry=registry)
            for name, meaning in SHARED_CACHE.items()
        }
        self._well = Gauge(
            "ranker_shared_cache_up", "Whether every worker's last call was answered", registry=registry,
            multiprocess_mode="livemin",
        )  # fmt: skip
        self._swaps = Counter("ranker_swaps", "Bundles that were let in", registry=registry)
        self._rollbacks = Counter("ranker_rollbacks", "Bundles that were gone back from", registry=registry)
        self._counted: dict[Counter, float] = {}
        self._levels = Counter("ranker_level_seconds", "Seconds at each level", ["level"], registry=registry)
        self._served: Served | None = None
        self._at_levels: list[float] = []
        self._since = 0.0

    def began(self, waiting: int) -> None:
        """Count a request that was lined up."""
        self._count.inc()
        self._waiting.set(waiting)

    def answered(self, texts: int, total_s: float, waited_s: float, scored_s: float, shared: bool) -> None:
        """Count an answered request."""
        self._success.inc()
        self._texts.inc(texts)
        self._seconds.observe(total_s)
        self._queue.observe(waited_s)
        self._inference.observe(scored_s)
        if shared:
            self._shared.inc()

    def ended(self, waiting: int) -> None:
        """Note how many requests are left."""
        self._waiting.set(waiting)

    def cached(self, cache: ScoreCache | None) -> None:
        """Count what the cache of this process, and the one that it shares, have counted since the last time."""
        if cache is None:
            return
        self._catch_up(self._hits, cache.hits)
        self._catch_up(self._misses, cache.misses)
        if cache.shared is not None:
            for name, counter in self._shared_cache.items():
                self._catch_up(counter, getattr(cache.shared, name))
            self._well.set(cache.shared.well)

    def served(self, served: Served) -> None:
        """Count the seconds at each level since the last time; of a single one, since it was first seen."""
        now, governor = time.monotonic(), served.governor
        if served is not self._served:
            self._served, self._at_levels, self._since = served, [0.0] * len(served.levels), now
        seconds = [now - self._since] if governor is None else governor.seconds
        for place, (level, total) in enumerate(zip(served.levels, seconds, strict=True)):
            if total > self._at_levels[place]:
                self._levels.labels(level.name).inc(total - self._at_levels[place])
                self._at_levels[place] = total

    def reloaded(self, accepted: int, rollbacks: int) -> None:
        """Count what has become of new bundles since the last time."""
        self._catch_up(self._swaps, accepted)
        self._catch_up(self._rollbacks, rollbacks)

    def refused(self, kind: str) -> None:
        """Count a refused request."""
        self._failure.labels(kind).inc()

    def _catch_up(self, counter: Counter, total: float) -> None:
        before, self._counted[counter] = self._counted.get(counter, 0.0), total
        counter.inc(max(0.0, total - before))

    def page(self) -> bytes:
        """Return everything in Prometheus's text format."""
        registry = self._registry
        if FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return TOTAL.sub(rb"\1", generate_latest(registry))
