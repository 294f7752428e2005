"""Arrays that were made of texts, kept because the same texts come again and again."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

OVERHEAD = 250  # bytes of the objects around a text and its array, by sys.getsizeof


class Sized(Protocol):
    """What tells how much memory it takes, as arrays do."""

    @property
    def nbytes(self) -> int:
        """Bytes of it."""


Value = TypeVar("Value", bound=Sized)


class Kept(Generic[Value]):
    """Keeps an array a text, the oldest forgotten first, in at most `most_bytes` of memory; thread-safe.

    Args:
        most_bytes: of texts and arrays; 0 keeps nothing.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._values: dict[str, Value] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def known(self, texts: Sequence[str]) -> list[Value | None]:
        """Return what is kept of texts, None where nothing is."""
        values = self._values
        return [values.get(text) for text in texts]

    def keep(self, made: Mapping[str, Value]) -> None:
        """Keep what was made of texts; arrays are the store's own from now on."""
        with self._lock:
            for text, value in made.items():
                size = _size(text, value)
                if size > self.most_bytes or text in self._values:
                    continue
                while self.bytes + size > self.most_bytes:
                    oldest = next(iter(self._values))
                    self.bytes -= _size(oldest, self._values.pop(oldest))
                self._values[text] = value
                self.bytes += size

    def forked(self) -> None:
        """Make anew what a thread of the parent may have left half-done."""
        self._lock = threading.Lock()
        self._values, self.bytes = {}, 0


def _size(text: str, value: Sized) -> int:
    widest = 1 if text.isascii() else 4  # bytes a character, at most
    return widest * len(text) + int(value.nbytes) + OVERHEAD
