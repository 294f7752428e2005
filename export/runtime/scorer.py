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

from rankdistill.export.errors import ModelError
from rankdistill.export.runtime.text.tokens import SPECIAL, Int32, PairEncoder

Float32 = npt.NDArray[np.float32]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "logits"
NAMES = [OUTPUT]
# onnxruntime's fused node adds and normalises in one slow loop: the two apart take 10% off a two-layer student's time
DISABLED = ["SkipLayerNormFusion"]


def open_session(
    graph: Path, threads: int, output: str = OUTPUT, inputs: Sequence[str] = INPUTS
) -> ort.InferenceSession:
    """Open a graph on the CPU with `threads` intra-op threads that do not spin while they wait.

    Raises:
        ModelError: if the file is no graph that onnxruntime can run, or has other inputs or another output.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(
            os.fspath(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED
        )
    except Exception as error:  # onnxruntime's exceptions share no public class
        raise ModelError(f"{graph} cannot be run by onnxruntime {ort.__version__}: {error}") from error
    names = sorted(value.name for value in session.get_inputs())
    if names != sorted(inputs):
        raise ModelError(f"{graph} takes the inputs {names}; asked for are {sorted(inputs)}")
    outputs = [(value.name, value.type) for value in session.get_outputs()]
    if outputs != [(output, "tensor(float)")]:
        raise ModelError(f"{graph} gives the outputs {outputs}; asked for is {output}, a tensor(float)")
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
    """Scores pairs at their exact length, without padding, over `threads` threads.

    With `batch` 1 a pair's score depends on nothing but the pair, also in dynamic int8, whose activation ranges span a
    whole batch. With more, pairs of equal length share a call: for graphs whose scores do not depend on it.
    """

    def __init__(
        self, graph: Path, encoder: PairEncoder, threads: int, batch: int = 1, inputs: Sequence[str] = INPUTS
    ) -> None:
        self.encoder = encoder
        self.threads = threads
        self.batch = batch
        self._session = open_session(graph, 1, inputs=inputs)
        # the caller's thread works too
        self._pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="score") if threads > 1 else None

    def score_tokens(self, queries: Sequence[Int32], items: Sequence[Int32]) -> Float32:
        """See `TokenScorer.score_tokens`."""
        pairs = self.pairs(queries, items)
        tasks = iter(pairs.tasks)

        def work() -> None:
            for task in tasks:  # a list's iterator gives each task to one thread
                pairs.run(task)

        helpers = []
        if self._pool is not None:
            helpers = [self._pool.submit(work) for _ in range(min(self.threads, len(items)) - 1)]
        try:
            work()
        finally:
            waited = [helper for helper in helpers if not helper.cancel()]  # one that never began is not needed
            for helper in waited:
                helper.result()
        return pairs.scores

    def pairs(self, queries: Sequence[Int32], items: Sequence[Int32]) -> Pairs:
        """Return pairs as tasks, for whoever has threads of its own."""
        return Pairs(self._session, self.encoder, queries, items, self.batch)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


class Pairs:
    """Pairs to be scored, parted into tasks that any threads may run in any order.

    Attributes:
        scores: float32 [pairs], raw logits; of the tasks that were run.
        tasks: rows that share a call of the engine, the dearest first, so that no thread ends on a long one.
        tokens: of each task, special ones included: what it costs.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        encoder: PairEncoder,
        queries: Sequence[Int32],
        items: Sequence[Int32],
        batch: int,
    ) -> None:
        self._session, self._encoder, self._queries, self._items = session, encoder, queries, items
        room = encoder.max_length - SPECIAL
        lengths = [min(len(q) + len(i), room) for q, i in zip(queries, items, strict=True)]
        self.scores = np.empty(len(items), dtype=np.float32)
        self.tasks = _tasks(lengths, batch)
        self.tokens = [len(rows) * (lengths[rows[0]] + SPECIAL) for rows in self.tasks]

    def run(self, rows: Sequence[int]) -> None:
        """Score a task's rows in the calling thread."""
        if len(rows) == 1:
            (row,) = rows
            feed = self._encoder.one(self._queries[row], self._items[row])
            self.scores[row] = self._session.run(NAMES, feed)[0][0, 0]
        else:
            feed = self._encoder.equal([self._queries[row] for row in rows], [self._items[row] for row in rows])
            self.scores[list(rows)] = self._session.run(NAMES, feed)[0][:, 0]


def _tasks(lengths: Sequence[int], batch: int) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    if batch == 1:
        return [[row] for row in order]
    tasks: list[list[int]] = []
    for row in order:
        if tasks and len(tasks[-1]) < batch and lengths[tasks[-1][0]] == lengths[row]:
            tasks[-1].append(row)
        else:
            tasks.append([row])
    return tasks


class BatchScorer(TokenScorer):
    """Scores pairs in padded, length-sorted batches with `threads` intra-op threads; for graphs in fp32."""

    def __init__(self, graph: Path, encoder: PairEncoder, threads: int, batch_size: int = 32) -> None:
        self.encoder = encoder
        self.batch_size = batch_size
        self._session = open_session(graph, threads)

    def score_tokens(self, queries: Sequence[Int32], items: Sequence[Int32]) -> Float32:
        """See `TokenScorer.score_tokens`."""
        scores = np.empty(len(items), dtype=np.float32)
        order = np.argsort([-(len(q) + len(i)) for q, i in zip(queries, items, strict=True)], kind="stable")
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            feed = self.encoder.batch([queries[r] for r in rows], [items[r] for r in rows])
            scores[rows] = self._session.run(NAMES, feed)[0][:, 0]
        return scores

    def close(self) -> None:
        """Nothing to end: the session's threads go with it."""
