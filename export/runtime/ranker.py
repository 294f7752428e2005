"""The ranker of a bundle: what a serving program holds."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from rankdistill.export.errors import BundleError, UserError
from rankdistill.export.runtime.item_states import StoredStates
from rankdistill.export.runtime.manifest import SPLIT, TOKENIZER, Manifest, Variant, with_states
from rankdistill.export.runtime.scorer import Float32, Pairs, PairScorer
from rankdistill.export.runtime.split_scorer import SplitScorer
from rankdistill.export.runtime.text.shortener import Shortener
from rankdistill.export.runtime.text.token_cache import KeptTokens
from rankdistill.export.runtime.text.tokens import SPECIAL, Int32, PairEncoder
from rankdistill.export.runtime.threads import available_cores
from rankdistill.export.runtime.untrusted.onnx_file import external_files

KEEP_MB = 32.0  # of items' tokens: about 50,000 product titles


class Ranked(NamedTuple):
    """An item of an answer: its position in the request, and its score (a raw logit, higher is better)."""

    index: int  # type: ignore[assignment]  # the field's usual name; nobody asks a tuple where a value is
    score: float


class Ranker:
    """Scores (query, item) pairs with a bundle's graph.

    Items are shortened as the student read them in training, where the bundle has a shortener; give whole ones.

    Any number of threads may call it at once; after a fork each process loads a graph of its own. A pair's score is
    bitwise the same alone, in any list, in any order, at any number of threads. Use as a context manager, or close it.

    Args:
        manifest: of the bundle.
        variant: the graph to run.
        threads: that score at once.
        keep_mb: memory for tokens of texts seen before, in 10^6 bytes.
        states: folder with a catalogue's states (`ranker states`), from which a split student scores; None for none.

    Raises:
        BundleError: if the graph, the tokenizer or the shortener is not the file that the manifest tells of.
        ModelError: if onnxruntime or tokenizers cannot load them.
        UserError: if the states are not those of this graph, or the student is not split.
    """

    def __init__(
        self, manifest: Manifest, variant: Variant, threads: int, keep_mb: float = KEEP_MB, states: Path | None = None
    ) -> None:
        self.manifest, self.variant, self.threads, self.states = manifest, variant, threads, states
        manifest.checked(TOKENIZER)
        self._encoder = PairEncoder.load(manifest.folder, manifest.max_length)
        self._shortener = Shortener.of(manifest)
        self._queries = self._items = KeptTokens(self._encoder.ids, int(keep_mb * 1e6))
        if self._shortener is not None:  # a text may be a query here and an item there, with other tokens
            self._queries = KeptTokens(self._encoder.ids, 0)
            self._items = KeptTokens(self._shortened_ids, int(keep_mb * 1e6))
        self._scorer: PairScorer | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._open()
        _alive.add(self)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        variant: str | None = None,
        threads: int | None = None,
        keep_mb: float = KEEP_MB,
        states: str | os.PathLike[str] | None = None,
    ) -> Ranker:
        """Load a bundle.

        Args:
            path: the bundle's folder.
            variant: name of one of its graphs; None for the one that its manifest has for this processor.
            threads: that score at once; None for every core that this process may use.
            keep_mb: memory for tokens of texts seen before, in 10^6 bytes; 0 keeps none.
            states: folder with a catalogue's states, made by `ranker states`, from which a split student scores.

        Raises:
            BundleError: if it is no bundle, or a file is not the one that its manifest tells of.
            ModelError: if onnxruntime or tokenizers cannot load it.
            UserError: if the states are not those of this graph, or the student is not split.
            ValueError: if threads < 1 or keep_mb < 0.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads}: at least 1")
        if keep_mb < 0:
            raise ValueError(f"keep_mb={keep_mb}: at least 0")
        manifest = Manifest.read(Path(path))
        folder = None if states is None else Path(states)
        return cls(manifest, manifest.variant(variant), threads or available_cores(), keep_mb, folder)

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32:
        """Score pairs of a query and an item.

        Args:
            pairs: (query, item) texts; the texts' form is the manifest's `templates`.

        Returns:
            Raw logits, float32 [pairs]: higher is better, comparable within a query.

        Raises:
            TypeError: if a text is no str.
            RuntimeError: if the ranker is closed.
        """
        pairs = list(pairs)
        if any(isinstance(pair, str) for pair in pairs):
            raise TypeError("a pair is a str; it is (query, item)")
        queries, items = [query for query, _ in pairs], [item for _, item in pairs]
        scorer = self._ready()
        return scorer.score_tokens(self._queries.ids(_texts(queries)), self._items.ids(_texts(items)))

    def rank(self, query: str, items: Sequence[str], top_k: int | None = None) -> list[Ranked]:
        """Rank a query's items, best first; of equal scores the earlier item.

        Args:
            query: text of the query.
            items: texts of the items.
            top_k: how many to return; None for all.

        Raises:
            TypeError: if a text is no str.
            ValueError: if top_k < 0.
            RuntimeError: if the ranker is closed.
        """
        if top_k is not None and top_k < 0:
            raise ValueError(f"top_k={top_k}: at least 0")
        scores = self.score_items(query, items)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(index), float(scores[index])) for index in order]

    def score_items(self, query: str, items: Sequence[str]) -> Float32:
        """Score a query's items; as `score`, with one query.

        Returns:
            Raw logits, float32 [items].
        """
        scorer, queries, tokens = self._tokenised(query, items)
        return scorer.score_tokens(queries, tokens)

    def pairs(self, query: str, items: Sequence[str]) -> Pairs:
        """Tokenise a query's items and return them as tasks, for whoever has threads of its own."""
        scorer, queries, tokens = self._tokenised(query, items)
        return scorer.pairs(queries, tokens)

    def longest(self, query: str, items: Sequence[str]) -> int:
        """Return the tokens, special ones included, of a query's longest pair before anything is cut off."""
        _, queries, tokens = self._tokenised(query, items)
        return max((len(own) + len(item) for own, item in zip(queries, tokens, strict=True)), default=0) + SPECIAL

    @property
    def key(self) -> str:
        """Names the model: two rankers of one key give a pair the same score."""
        name = self.variant.name if self.states is None else with_states(self.variant.name)
        return f"{self.manifest.content['key']}/{name}"

    def close(self) -> None:
        """End the threads and give back the graph; closing twice does nothing."""
        with self._lock:
            self._closed = True
            if self._scorer is not None:
                self._scorer.close()
                self._scorer = None

    def __enter__(self) -> Ranker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tokenised(self, query: str, items: Sequence[str]) -> tuple[PairScorer, list[Int32], list[Int32]]:
        if isinstance(items, str):
            raise TypeError("items is one str; it is a sequence of them")
        scorer = self._ready()
        (tokens,) = self._queries.ids(_texts([query]))
        return scorer, [tokens] * len(items), self._items.ids(_texts([*items]))

    def _ready(self) -> PairScorer:
        scorer = self._scorer
        if scorer is None:  # closed, or this process was forked
            with self._lock:
                scorer = self._scorer or self._open()
        return scorer

    def _open(self) -> PairScorer:
        if self._closed:
            raise RuntimeError("this ranker is closed")
        if self.states is None:
            graph = self._graph(self.variant.file)
            self._scorer = PairScorer(graph, self._encoder, self.threads, self.variant.batch)
        else:
            self._scorer = self._open_split(self.states)
        return self._scorer

    def _open_split(self, states: Path) -> SplitScorer:
        both = halves_of(self.manifest, self.variant)
        lower, upper = (self._graph(half) for half in both)
        digest, _ = self.manifest.file(both[0])
        told = self.manifest.content[SPLIT]
        stored = StoredStates.open(states, digest, int(told["parts"]), int(told["width"]))
        return SplitScorer((lower, upper), self._encoder, self.threads, stored, KEEP_MB)

    def _graph(self, name: str) -> Path:
        """Return a graph's path, once it is the file of the manifest and holds its weights itself."""
        graph = self.manifest.checked(name)
        if outside := external_files(graph):
            raise BundleError(f"{graph} keeps weights in {outside[0]!r}; a bundle's graph holds them itself; refused")
        return graph

    def _shortened_ids(self, items: Sequence[str]) -> list[Int32]:
        assert self._shortener is not None
        return self._encoder.ids([self._shortener.shorten(item) for item in items])

    def _forked(self) -> None:
        """Let go of threads that stayed in the parent, and of locks that they may have held."""
        self._lock = threading.Lock()
        self._scorer = None
        self._encoder.forked()
        self._queries.forked()
        self._items.forked()


def halves_of(manifest: Manifest, variant: Variant) -> tuple[str, str]:
    """Return the lower and the upper graph of a split student's variant.

    Raises:
        UserError: if the student is not split.
    """
    both = manifest.halves(variant)
    if both is None:
        raise UserError(f"{manifest.folder}: its student reads query and item together; states are of split students")
    return both


_alive: weakref.WeakSet[Ranker] = weakref.WeakSet()


def _after_fork() -> None:
    for ranker in list(_alive):
        ranker._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _texts(texts: list[str]) -> list[str]:
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"a text is a {type(text).__name__}: {text!r:.40}; queries and items are str")
    return texts
