"""The tokens of texts seen before: an item's text is the same in every request, so it is tokenised once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from export.runtime.tokens import Int32

OVERHEAD = 250  # bytes of the objects around a text and its ids, by sys.getsizeof


class KeptTokens:
    """Keeps the ids of texts, the oldest forgotten first, in at most `most_bytes` of memory; thread-safe.

    Args:
        tokenise: returns the ids of texts, one int32 [tokens] each.
        most_bytes: of texts and ids; 0 keeps nothing.
    """

    def __init__(self, tokenise: Callable[[Sequence[str]], list[Int32]], most_bytes: int) -> None:
        self._tokenise = tokenise
        self.most_bytes = most_bytes
        self.bytes = 0
        self._ids: dict[str, Int32] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, texts: Sequence[str]) -> list[Int32]:
        """Return the ids of texts, tokenising those that are not kept; equal texts once."""
        known = self._ids
        found = [known.get(text) for text in texts]
        missing = list(dict.fromkeys(text for text, ids in zip(texts, found, strict=True) if ids is None))
        if not missing:
            return found  # type: ignore[return-value]  # no None is left
        made = dict(zip(missing, self._tokenise(missing), strict=True))
        self._keep(made)
        return [made[text] if ids is None else ids for text, ids in zip(texts, found, strict=True)]

    def forked(self) -> None:
        """Make anew what a thread of the parent may have left half-done."""
        self._lock = threading.Lock()
        self._ids, self.bytes = {}, 0

    def _keep(self, made: dict[str, Int32]) -> None:
        with self._lock:
            for text, ids in made.items():
                size = _size(text, ids)
                if size > self.most_bytes or text in self._ids:
                    continue
                while self.bytes + size > self.most_bytes:
                    oldest = next(iter(self._ids))
                    self.bytes -= _size(oldest, self._ids.pop(oldest))
                self._ids[text] = ids
                self.bytes += size


def _size(text: str, ids: Int32) -> int:
    widest = 1 if text.isascii() else 4  # bytes a character, at most
    return widest * len(text) + int(ids.nbytes) + OVERHEAD
