"""A graph in OpenVINO, the second engine of the table: imported only where a system of it is opened."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov

from rankdistill.export.errors import ModelError
from rankdistill.export.runtime.scorer import INPUTS, OUTPUT, Float32, TokenScorer
from rankdistill.export.runtime.text.tokens import SPECIAL, Int32, PairEncoder

HINTS = {"fp32": "f32", "bf16": "bf16"}  # precisions and what OpenVINO calls them
# Kernels are made for every new shape (2 to 10 ms each, a call takes 1), so pairs are padded to a few lengths
BUCKET = 16  # tokens; with 8, 16 and 32 the same CPU time within 5% on two sets of texts
BATCH = 4  # pairs of one bucket a call: 4 to 14% less CPU time than one, at most 7% more than eight


def compile_graph(graph: Path, threads: int, precision: str) -> ov.CompiledModel:
    """Compile a graph for the CPU, its shapes left open, with `threads` streams of one thread each.

    One stream of all threads took 1.1 to 1.5 times as long here: a small graph's products are too short to be shared.

    Raises:
        ModelError: if the file is no cross-encoder's graph that OpenVINO can run, or would run in another precision.
    """
    options = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],  # the default is bf16 wherever the processor has it
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
        "ENABLE_CPU_PINNING": False,  # a pinned thread waits for its core while another process has it
    }
    try:
        compiled = ov.Core().compile_model(graph, "CPU", options)
    except RuntimeError as error:
        raise ModelError(f"{graph} cannot be run by OpenVINO {ov.__version__}: {error}") from error
    # a tensor has every name that it was given on its way through the graph
    inputs, outputs = ([sorted(port.names) for port in ports] for ports in (compiled.inputs, compiled.outputs))
    if sorted(inputs) != sorted([name] for name in INPUTS) or len(outputs) != 1 or OUTPUT not in outputs[0]:
        raise ModelError(f"{graph} takes {inputs}, gives {outputs}; a cross-encoder takes {INPUTS}, gives {OUTPUT}")
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != HINTS[precision]:
        raise ModelError(f"OpenVINO computes {graph} in {used} on this processor, not in {precision}")
    return compiled


class OpenvinoScorer(TokenScorer):
    """Scores pairs padded to the next multiple of `BUCKET` tokens, up to `BATCH` of one bucket a call.

    What a pair is padded to depends on the pair alone, so its score is the same in every list, within rounding. For one
    caller at a time, whose thread alone calls OpenVINO: its bindings (2026.4) deadlock when two threads call first.

    Args:
        graph: ONNX file in fp32.
        encoder: of the graph's checkpoint; its `max_length` bounds the longest bucket.
        threads: calls that are computed at a time, each on one thread of OpenVINO's own.
        precision: of the products, "fp32" or "bf16".
    """

    def __init__(self, graph: Path, encoder: PairEncoder, threads: int, precision: str) -> None:
        self.encoder = encoder
        compiled = compile_graph(graph, threads, precision)
        self._requests = [compiled.create_infer_request() for _ in range(2 * threads)]  # a stream's next one waits

    def score_tokens(self, queries: Sequence[Int32], items: Sequence[Int32]) -> Float32:
        """See `TokenScorer.score_tokens`."""
        scores = np.empty(len(items), dtype=np.float32)
        running: deque[tuple[ov.InferRequest, list[int]]] = deque()
        idle = [*self._requests]

        def collect() -> None:
            request, rows = running.popleft()
            request.wait()
            scores[rows] = request.get_output_tensor().data[:, 0]
            idle.append(request)

        for width, rows in self._tasks(queries, items):
            feed = self.encoder.batch([queries[row] for row in rows], [items[row] for row in rows])
            padded = {name: np.pad(ids, ((0, 0), (0, width - ids.shape[1]))) for name, ids in feed.items()}
            if not idle:
                collect()
            request = idle.pop()
            request.start_async(padded, share_inputs=True)
            running.append((request, rows))
        while running:
            collect()
        return scores

    def _tasks(self, queries: Sequence[Int32], items: Sequence[Int32]) -> list[tuple[int, list[int]]]:
        """Return buckets with rows that share a call, the longest first, so that no thread ends on a long one."""
        longest = self.encoder.max_length
        rows_of: dict[int, list[int]] = {}
        for row, (query, item) in enumerate(zip(queries, items, strict=True)):
            width = -(-(len(query) + len(item) + SPECIAL) // BUCKET) * BUCKET
            rows_of.setdefault(min(width, longest), []).append(row)
        return [
            (width, rows[start : start + BATCH])
            for width, rows in sorted(rows_of.items(), reverse=True)
            for start in range(0, len(rows), BATCH)
        ]

    def close(self) -> None:
        """Nothing to end: the threads go with the requests."""
