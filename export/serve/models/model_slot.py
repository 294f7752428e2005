"""The model that answers, exchanged between requests: what began with a model ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from rankdistill.export.errors import UserError

Content = TypeVar("Content")


class Model(Generic[Content]):
    """What answers requests, what it is called, and how many requests use it now.

    Args:
        name: tells it apart: its bundle's key.
        content: what requests use of it.
        close: gives its memory back; called once, when it is retired and no request uses it any more.
    """

    def __init__(self, name: str, content: Content, close: Callable[[], None]) -> None:
        self.name, self.content = name, content
        self._close = close
        self._uses = 0
        self._retired = False
        self._closed = False
        self._lock = threading.Lock()

    @property
    def closed(self) -> bool:
        """Whether its memory was given back."""
        return self._closed

    def retire(self) -> None:
        """Let it go: closed as soon as no request uses it."""
        with self._lock:
            self._retired = True
        self._close_if_free()

    def lease(self) -> Lease[Content] | None:
        """Return the use of it; None if it is retired."""
        with self._lock:
            if self._retired:
                return None
            self._uses += 1
        return Lease(self)

    def _give_back(self) -> None:
        with self._lock:
            self._uses -= 1
        self._close_if_free()

    def _close_if_free(self) -> None:
        with self._lock:
            free = self._retired and not self._uses and not self._closed
            self._closed = self._closed or free
        if free:
            self._close()


class Lease(Generic[Content]):
    """The use of a model by one request, from its beginning to its end. Use as a context manager, or release it."""

    def __init__(self, model: Model[Content]) -> None:
        self.model = model
        self._held = True
        self._lock = threading.Lock()

    def release(self) -> None:
        """End the use; ending it twice does nothing."""
        with self._lock:
            held, self._held = self._held, False
        if held:
            self.model._give_back()

    def __enter__(self) -> Model[Content]:
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Slot(Generic[Content]):
    """Holds the model that answers, and the one before it, to which it can go back at once.

    Args:
        model: that answers first.
    """

    def __init__(self, model: Model[Content]) -> None:
        self._current = model
        self._previous: Model[Content] | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def current(self) -> Model[Content]:
        """The model that answers what begins now."""
        return self._current

    @property
    def previous(self) -> Model[Content] | None:
        """The model to go back to."""
        return self._previous

    def lease(self) -> Lease[Content]:
        """Return the use of the model that answers now.

        Raises:
            RuntimeError: if the slot is closed.
        """
        while (lease := self._current.lease()) is None:
            if self._closed:
                raise RuntimeError("the slot is closed")
            # retired between the two: another one answers already
        return lease

    def swap(self, model: Model[Content]) -> None:
        """Let another model answer from now on; the one before the last is let go."""
        with self._lock:
            retired, self._previous, self._current = self._previous, self._current, model
        if retired is not None:
            retired.retire()

    def roll_back(self, of: Model[Content] | None = None) -> Model[Content]:
        """Let the model before the last one answer again; the last one is let go.

        Args:
            of: the model that is to go; None for whichever answers.

        Returns:
            The model that was let go.

        Raises:
            UserError: if there was none before, or another one answers already.
        """
        with self._lock:
            if of is not None and self._current is not of:
                raise UserError(f"{of.name} does not answer any more")
            if self._previous is None:
                raise UserError(
                    "there is no model to go back to: none was swapped in, or it was gone back from already"
                )
            retired, self._current, self._previous = self._current, self._previous, None
        retired.retire()
        return retired

    def close(self) -> None:
        """Let go of both models."""
        self._closed = True
        for model in (self._current, self._previous):
            if model is not None:
                model.retire()
