"""Scores of pairs seen before: under one model a pair's score never changes, so it need not be computed again.

Requests come as a query with its items, so scores are kept by query: up to 20 items of a query in one page. What
W-TinyLFU (Einziger, Friedman and Manes, "TinyLFU: A highly efficient cache admission policy", ACM ToS 2017; the
implementation is theine-core's) decides upon is a page, since its entry takes more memory than a score does: with an
entry for each pair, a score takes ten times as much. Everything stands under a digest of the model's key and the query,
so no score of another model can be found, whatever was swapped when.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from hashlib import blake2b

import numpy as np

from rankdistill.export.extras import require
from rankdistill.export.runtime.plan import Plan, Step, Steps
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.serve.caching.redis_scores import SharedScores
from rankdistill.export.serve.scheduling.job import Answer, QueueFull
from rankdistill.export.serve.scheduling.policy import BACKGROUND

DIGEST = 16  # bytes: two texts of one digest are not found by accident, nor by intent
PAGE_ITEMS = 20  # of a query; a page costs as much with one item as with all, so short requests want small pages
ITEM = struct.Struct(f"={DIGEST}sf")
# a full page: its bytes object, its place in the dict, and W-TinyLFU's entry (measured: scripts/bench/cache.py)
PAGE_BYTES = 370 + DIGEST + PAGE_ITEMS * ITEM.size
MOST_PAGES = 256  # of a query: 5,120 items; all may have to be looked through
STRIDE, PLACES = 0x9E3779B97F4A7C15, 1 << 64  # a query's pages stand far apart


class ScoreCache:
    """Keeps scores in at most `most_bytes`, those that are asked for most; any thread may use it.

    Make it in the process that uses it: it does not survive a fork in the midst of a call.

    Args:
        most_bytes: of memory, all that belongs to a score counted.
        shared: asked for what is not kept here, and told of what is new; None for this process alone.

    Attributes:
        hits: pairs whose score was known, here or in `shared`.
        misses: pairs whose score was not.
        bytes: of memory that is taken.

    Raises:
        UserError: if theine-core is not installed.
        ValueError: if most_bytes has no room for one page.
    """

    def __init__(self, most_bytes: int, shared: SharedScores | None = None) -> None:
        require("serve", "theine_core")
        from theine_core import TlfuCore

        if most_bytes < PAGE_BYTES:
            raise ValueError(f"most_bytes={most_bytes}: at least {PAGE_BYTES}")
        self.most_bytes, self.shared = most_bytes, shared
        self.hits = self.misses = self.bytes = 0
        self._pages: dict[int, bytes] = {}  # owner's digest, then items' digests and scores
        self._policy = TlfuCore(most_bytes // PAGE_BYTES)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many scores are kept."""
        with self._lock:
            return sum((len(page) - DIGEST) // ITEM.size for page in self._pages.values())

    def get(self, key: str, query: str, items: Sequence[str]) -> Float32:
        """Look scores up.

        Args:
            key: of the model.
            query: text of the query.
            items: texts of the items.

        Returns:
            float32 [items], raw logits; NaN where unknown. It is the caller's own.

        Raises:
            TypeError: if a text is no str.
        """
        owner, names = _digests(key, query, items)
        with self._lock:
            known = self._look_up(owner, set(names))
        scores = np.array([known.get(name, np.nan) for name in names], dtype=np.float32)
        missing = np.flatnonzero(np.isnan(scores))
        if self.shared is not None and missing.size:
            asked = [names[row] for row in missing]
            scores[missing] = self.shared.get([owner + name for name in asked])
            self._keep(owner, dict(zip(asked, scores[missing].tolist(), strict=True)))
            missing = np.flatnonzero(np.isnan(scores))
        with self._lock:
            self.misses += missing.size
            self.hits += len(names) - missing.size
        return scores

    def put(self, key: str, query: str, items: Sequence[str], scores: Float32) -> None:
        """Keep scores; NaN is no score and is not kept.

        Args:
            key: of the model.
            query: text of the query.
            items: texts of the items.
            scores: float32 [items], raw logits.

        Raises:
            TypeError: if a text is no str.
            ValueError: if there are not as many scores as items.
        """
        owner, names = _digests(key, query, items)
        found = dict(zip(names, scores.tolist(), strict=True))
        self._keep(owner, found)
        if self.shared is not None:
            self.shared.put([owner + name for name in found], np.array([*found.values()], dtype=np.float32))

    def _look_up(self, owner: bytes, wanted: set[bytes]) -> dict[bytes, float]:
        """Return the scores on an owner's pages up to the one where the last wanted one is found."""
        known: dict[bytes, float] = {}
        used: list[int] = []
        for place, page in self._owned(owner, len(wanted)):
            here = _scores(page)
            if not wanted.isdisjoint(here):
                used.append(place)
                known |= here
                wanted.difference_update(here)
                if not wanted:
                    break
        self._policy.access(used)
        return known

    def _keep(self, owner: bytes, scores: dict[bytes, float]) -> None:
        """Write new scores where an owner has room, and let go of the pages that the policy gives up for them."""
        with self._lock:
            pages = dict(self._owned(owner, len(scores)))
            known = set().union(*map(_scores, pages.values()))
            new = [ITEM.pack(name, score) for name, score in scores.items() if score == score and name not in known]
            written = []
            places = (_place(owner, number) for number in range(MOST_PAGES))
            while new:
                place = next(places, None)
                page = owner if place is None else pages.get(place, owner)
                if place is None:
                    place = _place(owner, new[0][0])  # all are full: one, by a digest's first byte, is emptied
                room = PAGE_ITEMS - (len(page) - DIGEST) // ITEM.size
                if room:
                    self._pages[place] = page + b"".join(new[:room])
                    new = new[room:]
                    written.append((place, 0))  # 0: without a time to live
            for place in self._policy.set(written):
                self._pages.pop(place, None)
            self.bytes = len(self._pages) * PAGE_BYTES

    def _owned(self, owner: bytes, items: int) -> Iterator[tuple[int, bytes]]:
        """Yield the places and pages of an owner up to the first that is not there, beyond those that `items` fill."""
        for number in range(MOST_PAGES):
            place = _place(owner, number)
            page = self._pages.get(place)
            if page is not None and page.startswith(owner):
                yield place, page
            elif number * PAGE_ITEMS >= items:
                return


class Cached:
    """A plan whose steps are answered from a cache where it can, and whose new scores are kept there.

    A pair's score is its own where the runtime gives the pair a call of its own, as it does in dynamic int8, or where
    the graph does not mind company. Else the step passes as it is.

    Args:
        plan: any plan.
        cache: of scores.
    """

    def __init__(self, plan: Plan, cache: ScoreCache) -> None:
        self.plan, self.cache = plan, cache

    def steps(self, query: str, items: Sequence[str]) -> Steps:
        """See `Plan.steps`; a step asks for the items whose scores are unknown, and there is none without any."""
        inner = self.plan.steps(query, items)
        try:
            step = next(inner)
            while True:
                step = inner.send((yield from self._answer(step)))
        except StopIteration as end:
            scores: Float32 = end.value
            return scores
        finally:
            inner.close()

    def _answer(self, step: Step) -> Steps:
        variant = step.ranker.variant
        if not (variant.batch_invariant or variant.batch == 1):
            return (yield step)
        key, query = step.ranker.key, step.query
        scores = self.cache.get(key, query, step.items)
        missing = np.flatnonzero(np.isnan(scores)).tolist()
        if missing:
            items = [step.items[row] for row in missing]
            scores[missing] = found = yield Step(step.ranker, query, items)
            self.cache.put(key, query, items, found)
        return scores


def warm(
    plan: Cached,
    requests: Iterable[tuple[str, Sequence[str]]],
    submit: Callable[..., Future[Answer]],
    stop: threading.Event,
) -> int:
    """Score requests so that a plan's cache knows them, one after the other, behind all that somebody waits for.

    Args:
        plan: of the model that is to answer soon.
        requests: (query, items), the most frequent first (`frequent.SpaceSaving.top`).
        submit: `Dispatcher.submit`.
        stop: set it to end this early; looked at between requests.

    Returns:
        How many requests were scored.

    Raises:
        RuntimeError: if the dispatcher or the model is closed meanwhile.
    """
    done = 0
    for query, items in requests:
        while not stop.is_set():
            try:
                submit(plan, query, items, priority=BACKGROUND).result()
            except QueueFull as full:  # whoever waits for an answer goes first
                stop.wait(full.retry_after)
            else:
                done += 1
                break
        if stop.is_set():
            break
    return done


def _digests(key: str, query: str, items: Sequence[str]) -> tuple[bytes, list[bytes]]:
    """Return a digest of the model and the query, and one of each item."""
    if isinstance(items, str) or not all(isinstance(text, str) for text in (query, *items)):
        raise TypeError("query and items are str, and a sequence of str")
    name = key.encode()
    owner = b"%d %s" % (len(name), name) + _bytes(query)  # its length, so that the two cannot be parted otherwise
    return _digest(owner), [_digest(_bytes(item)) for item in items]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON may bring half a surrogate pair


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=DIGEST).digest()


def _place(owner: bytes, number: int) -> int:
    return (int.from_bytes(owner[:8], "little") + number * STRIDE) % PLACES


def _scores(page: bytes) -> dict[bytes, float]:
    return dict(ITEM.iter_unpack(memoryview(page)[DIGEST:]))
