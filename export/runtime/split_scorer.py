"""Scoring pairs with a split ranker: a query's states are computed once for all its items, an item's once for good."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from rankdistill.export.runtime.item_states import ItemStates, StoredStates
from rankdistill.export.runtime.scorer import NAMES, Float32, Pairs, PairScorer, open_session
from rankdistill.export.runtime.text.text_cache import Kept
from rankdistill.export.runtime.text.tokens import Int32, PairEncoder

STATES = "states"  # of a text's tokens: what the lower graph gives
QUERY_STATES, ITEM_STATES, ITEM_SCALES = "query_states", "item_states", "item_scales"
UPPER_INPUTS = (QUERY_STATES, ITEM_STATES, ITEM_SCALES)
QUERY, ITEM = 0, 1  # token types
ITEM_SPECIAL = 1  # item [SEP]


class TextStates:
    """Computes the states of texts, one text a call; any number of threads may.

    Args:
        lower: file of the lower graph.
        encoder: of the ranker.
        parts: of a token that are kept of an item.
    """

    def __init__(self, lower: Path, encoder: PairEncoder, parts: int) -> None:
        self._session, self._encoder = open_session(lower, 1, STATES), encoder
        self.shape = parts, int(self._session.get_outputs()[0].shape[3])

    def query(self, ids: Int32) -> Float32:
        """Return the states of [CLS] query [SEP], float32 [1, tokens, PARTS, width]."""
        return self._run(np.concatenate(([self._encoder.cls], ids, [self._encoder.sep])), QUERY)

    def item(self, ids: Int32) -> ItemStates:
        """Return the states of item [SEP], rounded as they are stored: a score does not hang on whether they were."""
        return ItemStates.of(self._run(np.concatenate((ids, [self._encoder.sep])), ITEM), self.shape[0])

    def _run(self, ids: Int32, kind: int) -> Float32:
        inputs = ids.astype(np.int64)[None]
        feed = {"input_ids": inputs, "token_type_ids": np.full_like(inputs, kind), "attention_mask": inputs * 0 + 1}
        states: Float32 = self._session.run([STATES], feed)[0]
        return states


class SplitScorer(PairScorer):
    """Scores pairs by a split ranker's two graphs, one pair a call, over `threads` threads.

    An item's states come from the stored ones, from those kept of items met before, or are computed: which of the three
    does not change a score. What a long query leaves no room for is cut, as everywhere; a cut item is another item.

    Args:
        graphs: files of the lower and the upper graph.
        encoder: of the ranker.
        threads: that score at once.
        stored: states of a catalogue; None for none.
        keep_mb: memory for states of items that are not stored, in 10^6 bytes.
    """

    def __init__(
        self, graphs: tuple[Path, Path], encoder: PairEncoder, threads: int, stored: StoredStates | None, keep_mb: float
    ) -> None:
        lower, upper = graphs
        super().__init__(upper, encoder, threads, inputs=UPPER_INPUTS)
        parts = next(int(each.shape[2]) for each in self._session.get_inputs() if each.name == ITEM_STATES)
        self.texts, self._stored = TextStates(lower, encoder, parts), stored
        self._kept: Kept[ItemStates] = Kept(int(keep_mb * 1e6))

    def pairs(self, queries: Sequence[Int32], items: Sequence[Int32]) -> Pairs:
        """See `PairScorer.pairs`."""
        return SplitPairs(self, self._session, self.encoder, queries, items)

    def item(self, ids: Int32) -> ItemStates:
        """Return an item's states, computed if they are neither stored nor kept."""
        if self._stored is not None and (found := self._stored.find(ids)) is not None:
            return found
        key = ids.tobytes().hex()
        (kept,) = self._kept.known([key])
        if kept is None:
            kept = self.texts.item(ids)
            self._kept.keep({key: kept})
        return kept


class SplitPairs(Pairs):
    """Pairs whose query's states are computed by the first thread that needs them."""

    def __init__(
        self,
        scorer: SplitScorer,
        session: ort.InferenceSession,
        encoder: PairEncoder,
        queries: Sequence[Int32],
        items: Sequence[Int32],
    ) -> None:
        super().__init__(session, encoder, queries, items, 1)
        self._scorer = scorer
        self._states: dict[bytes, Float32] = {}
        self._lock = threading.Lock()

    def run(self, rows: Sequence[int]) -> None:
        """See `Pairs.run`."""
        for row in rows:
            query, item = self._encoder.cut(self._queries[row], self._items[row])
            states = self._scorer.item(item)
            feed = {QUERY_STATES: self._query(query), ITEM_STATES: states.values, ITEM_SCALES: states.scales}
            self.scores[row] = self._session.run(NAMES, feed)[0][0, 0]

    def _query(self, ids: Int32) -> Float32:
        key = ids.tobytes()
        with self._lock:  # other threads would compute the same
            if key not in self._states:
                self._states[key] = self._scorer.texts.query(ids)
            return self._states[key]
