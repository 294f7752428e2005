"""The most frequent requests: what a cache is filled with before a model answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from rankdistill.export.errors import BundleError, UserError
from rankdistill.export.files import write_atomic
from rankdistill.export.runtime.untrusted.bounded_files import parse_json, read_bytes
from rankdistill.export.serve.scheduling.frequent_items import SpaceSaving
from rankdistill.export.serve.settings import HEAD

HALF_LIFE_S = 3_600.0
MOST_CHARACTERS = 20_000  # of a request that is remembered; longer ones are not
COUNTERS = 2 * HEAD
MOST_BYTES = 4 * HEAD * MOST_CHARACTERS

Texts = tuple[str, tuple[str, ...]]


class Head:
    """Counts requests and remembers the texts of the most frequent ones. Any thread may use it."""

    def __init__(self) -> None:
        self._counts = SpaceSaving(COUNTERS, HALF_LIFE_S)

    def saw(self, query: str, items: Sequence[str], characters: int) -> None:
        """Count a request.

        Args:
            query: text of the query.
            items: texts of the items.
            characters: of all texts.
        """
        if characters <= MOST_CHARACTERS:
            texts = (query, tuple(items))
            self._counts.add(texts, texts)

    def top(self, count: int) -> list[Texts]:
        """Return up to `count` requests, the most frequent first."""
        return [texts for _, _, texts in self._counts.top(count)]

    def save(self, path: Path) -> None:
        """Write the most frequent requests, one a line; where there is room, those that the file has already follow.

        Raises:
            UserError: if the file cannot be written.
        """
        theirs = Head()
        with contextlib.suppress(UserError):
            theirs.load(path)  # of another worker, or of before
        rows = list(dict.fromkeys([*self.top(HEAD), *theirs.top(HEAD)]))[:HEAD]
        lines = [json.dumps({"query": query, "items": items}) for query, items in rows]
        try:
            write_atomic(path, "".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error

    def load(self, path: Path) -> None:
        """Count the requests of a file once each, those of its first lines last; a file that is not there has none.

        Raises:
            UserError: if it is not what `save` writes.
        """
        if not path.exists():
            return
        try:
            rows = [parse_json(line, str(path)) for line in read_bytes(path, MOST_BYTES).splitlines()]
            found = [(row["query"], tuple(row["items"])) for row in rows]
        except (BundleError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no file of frequent requests: {error}") from error
        for query, items in reversed(found[:HEAD]):
            if not all(isinstance(text, str) for text in (query, *items)):
                raise UserError(f"{path}: no file of frequent requests: a text is no string")
            self.saw(query, items, len(query) + sum(map(len, items)))
