"""Caches of pairs that `cache.py` measures: the score cache and libraries, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from rankdistill.export.serve.caching.score_cache import PAGE_BYTES, ScoreCache

Keys = list[Any]


class Candidate(Protocol):
    """A cache of pairs."""

    def get(self, keys: Keys) -> list[bool]:
        """Say which are known."""

    def put(self, keys: Keys) -> None:
        """Keep them."""


class Mapping:
    """A library whose cache works like a dict."""

    def __init__(self, cache: Any, put: Callable[[Any, float], None] | None = None) -> None:
        self._get, self._put = cache.get, put or cache.__setitem__

    def get(self, keys: Keys) -> list[bool]:
        """See `Candidate`."""
        get = self._get
        return [get(key) is not None for key in keys]

    def put(self, keys: Keys) -> None:
        """See `Candidate`."""
        put = self._put
        for key in keys:
            put(key, float(key[0]))


class Theine:
    """The library's own cache, whose policy works in batches of 16 behind buffers."""

    def __init__(self, room: int) -> None:
        import theine

        self._cache: Any = theine.Cache(room)

    def get(self, keys: Keys) -> list[bool]:
        """See `Candidate`."""
        get = self._cache.get
        return [get(key)[1] for key in keys]

    def put(self, keys: Keys) -> None:
        """See `Candidate`."""
        for key in keys:
            self._cache.set(key, float(key[0]))


class TheineCore:
    """The policy alone, with an entry a pair and a dict: what the score cache would be without pages."""

    def __init__(self, room: int) -> None:
        from theine_core import TlfuCore

        self._policy, self._scores, self._keys = TlfuCore(room), dict[bytes, float](), dict[int, bytes]()

    def get(self, keys: Keys) -> list[bool]:
        """See `Candidate`."""
        known = [key in self._scores for key in keys]
        self._policy.access([_number(key) for key, there in zip(keys, known, strict=True) if there])
        return known

    def put(self, keys: Keys) -> None:
        """See `Candidate`."""
        for key in keys:
            self._scores[key] = float(key[0])
            self._keys[_number(key)] = key
        for number in self._policy.set([(_number(key), 0) for key in keys]):
            if (key := self._keys.pop(number, None)) is not None:
                del self._scores[key]


class Pages:
    """The score cache itself; a key is (query, item)."""

    def __init__(self, pages: int) -> None:
        self._cache = ScoreCache(pages * PAGE_BYTES)

    def get(self, keys: Keys) -> list[bool]:
        """See `Candidate`."""
        return [not np.isnan(score) for score in self._cache.get("m", keys[0][0], [item for _, item in keys])]

    def put(self, keys: Keys) -> None:
        """See `Candidate`."""
        self._cache.put("m", keys[0][0], [item for _, item in keys], np.zeros(len(keys), dtype=np.float32))


def _number(key: bytes) -> int:
    return int.from_bytes(key[:8], "little")


def _library(name: str) -> Callable[[int], Candidate]:
    def make(room: int) -> Candidate:
        import cachebox
        import cachetools
        import lru
        import moka_py
        from s3fifo import S3FIFOCache

        if name == "moka-py":
            return Mapping(cache := moka_py.Moka(room), cache.set)
        if name == "s3fifo":
            return Mapping(cache := S3FIFOCache(room), cache.put)
        libraries: dict[str, Callable[[int], Any]] = {
            "cachetools LRU": cachetools.LRUCache,
            "cachebox LRU": cachebox.LRUCache,
            "cachebox LFU": cachebox.LFUCache,
            "lru-dict": lru.LRU,
        }
        return Mapping(libraries[name](room))

    return make


BY_PAIR = {
    "theine-core": TheineCore,
    "theine": Theine,
    **{
        name: _library(name)
        for name in ("moka-py", "s3fifo", "cachetools LRU", "cachebox LRU", "cachebox LFU", "lru-dict")
    },
}
