"""Scoring pairs with an ONNX graph: at exact length over a thread pool, or in padded length-sorted batches."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from export.errors import ModelError
from export.runtime.tokens import Int32, PairEncoder

Float32 = npt.NDArray[np.float32]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def open_session(graph: Path, threads: int) -> ort.InferenceSession:
    """Open a graph on the CPU with `threads` intra-op threads that do not spin while they wait.

    Raises:
        ModelError: if the file is no graph that onnxruntime can run, or does not take a cross-encoder's inputs.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(os.fspath(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public class
        raise ModelError(f"{graph} cannot be run by onnxruntime {ort.__version__}: {error}") from error
    names = sorted(value.name for value in session.get_inputs())
    if names != sorted(INPUTS):
        raise ModelError(f"{graph} takes the inputs {names}; a cross-encoder takes {sorted(INPUTS)}")
    return session


class TokenScorer(ABC):
    """Scores texts by scoring their tokens."""

    encoder: PairEncoder

    def score(self, query: str, items: Sequence[str]) -> Float32:
        """Score a query's candidates.

        Returns:
            Raw logits, float32 [items].
        """
        tokens = self.encoder.ids([query, *items])
        return self.score_tokens([tokens[0]] * len(items), tokens[1:])

    @abstractmethod
    def score_tokens(self, queries: Sequence[Int32], items: Sequence[Int32]) -> Float32:
        """Score pairs whose texts are tokenised already (`PairEncoder.ids`).

        Returns:
            Raw logits, float32 [pairs].
        """


class PairScorer(TokenScorer):
    """Scores one pair a call, at its exact length, over `threads` threads.

    A pair's score then depends on nothing but the pair, also in dynamic int8, whose activation ranges span a whole
    batch, and no padding is computed.
    """

    def __init__(self, graph: Path, encoder: PairEncoder, threads: int) -> None:
        self.encoder = encoder
        self.threads = threads
        self._session = open_session(graph, 1)
        self._output = self._session.get_outputs()[0].name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="score") if threads > 1 else None

    def score_tokens(self, queries: Sequence[Int32], items: Sequence[Int32]) -> Float32:
        """See `TokenScorer.score_tokens`."""
        scores = np.empty(len(items), dtype=np.float32)
        lengths = np.array([len(q) + len(i) for q, i in zip(queries, items, strict=True)])
        order = np.argsort(-lengths, kind="stable")  # the dearest first, so that no thread ends on a long one
        shares = [order[start :: self.threads] for start in range(min(self.threads, len(order)))]

        def work(share: npt.NDArray[np.int64]) -> None:
            for row in share:
                scores[row] = self._score_pair(queries[row], items[row])

        if self._pool is None:
            for share in shares:
                work(share)
        else:
            list(self._pool.map(work, shares))
        return scores

    def _score_pair(self, query: Int32, item: Int32) -> np.float32:
        ids, types = self.encoder.join(query, item)
        feed = {
            "input_ids": ids[None],
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "token_type_ids": types[None],
        }
        return np.float32(self._session.run([self._output], feed)[0][0, 0])

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


class BatchScorer(TokenScorer):
    """Scores pairs in padded, length-sorted batches with `threads` intra-op threads; for graphs in fp32."""

    def __init__(self, graph: Path, encoder: PairEncoder, threads: int, batch_size: int = 32) -> None:
        self.encoder = encoder
        self.batch_size = batch_size
        self._session = open_session(graph, threads)
        self._output = self._session.get_outputs()[0].name

    def score_tokens(self, queries: Sequence[Int32], items: Sequence[Int32]) -> Float32:
        """See `TokenScorer.score_tokens`."""
        scores = np.empty(len(items), dtype=np.float32)
        order = np.argsort([-(len(q) + len(i)) for q, i in zip(queries, items, strict=True)], kind="stable")
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            feed = self.encoder.batch([queries[r] for r in rows], [items[r] for r in rows])
            scores[rows] = self._session.run([self._output], feed)[0][:, 0]
        return scores

    def close(self) -> None:
        """Nothing to end: the session's threads go with it."""
