"""Int8 graphs in which the groups stay fp32 that a search by ranking quality chose."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from rankdistill.export.errors import GraphError
from rankdistill.export.graphs.graph_files import FP32, FULL_INT8, INT8_AVX2, Graphs
from rankdistill.export.graphs.node_groups import group_of
from rankdistill.export.graphs.tables import large_tables
from rankdistill.export.measure.quality import agreement, ranking_metrics
from rankdistill.export.progress import Progress
from rankdistill.export.quantization.dynamic import quantize_graph
from rankdistill.export.quantization.greedy_search import Choice, Closeness, Kept, Limits, search
from rankdistill.export.quantization.int8 import Int8, quantizable
from rankdistill.export.quantization.saturation import reduce_saturating
from rankdistill.export.quantization.smoothing import Feed, Remedy, activations_of, products_of, smooth
from rankdistill.export.runtime.scorer import Float32, PairScorer
from rankdistill.export.runtime.text.tokens import Int32, PairEncoder


@dataclass(frozen=True)
class DevLists:
    """Candidate lists on which orders are compared.

    Attributes:
        tokens: each query's and its candidates' token ids.
        grades: int32 [pairs].
        encoder: joins a pair.
        threads: that score at once; scores do not depend on them.
    """

    tokens: Sequence[tuple[Int32, Sequence[Int32]]]
    grades: npt.NDArray[np.int32]
    encoder: PairEncoder
    threads: int

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Return where each list begins, int64 [queries + 1]."""
        return np.cumsum([0, *(len(items) for _, items in self.tokens)], dtype=np.int64)

    def score(self, graph: Path) -> tuple[Float32, float]:
        """Return the scores of all pairs, one a call at its exact length, and the CPU time of a pair in ms."""
        scorer = PairScorer(graph, self.encoder, self.threads)
        start = time.process_time()
        scores = np.concatenate([scorer.score_tokens([query] * len(items), items) for query, items in self.tokens])
        elapsed = time.process_time() - start
        scorer.close()
        return scores, 1e3 * elapsed / len(scores)

    def compare(self, scores: Float32, reference: Float32, cpu_ms: float) -> Closeness:
        """Return how close scores are to those of fp32."""
        agreed = agreement(scores, reference, self.offsets)
        own, fp32 = (
            float(np.nanmean(ranking_metrics(s, self.grades, self.offsets)["ndcg@10"])) for s in (scores, reference)
        )
        tau, overlap = (float(np.nanmean(agreed[name])) for name in ("tau", "overlap@10"))
        return Closeness(ndcg=own / fp32 if fp32 > 0 else 1.0, tau=tau, overlap=overlap, cpu_ms=cpu_ms)


@dataclass(frozen=True)
class SearchedInt8:
    """Int8 but for the groups that a search on dev lists keeps in fp32.

    Attributes:
        int8: everything else about the graphs.
        limits: what the served graph is held to.
        lists: dev lists that it is held to them on.
        served: which int8 graph this processor is served with, `variants.served_int8`: the one that is judged.
    """

    int8: Int8
    limits: Limits
    lists: DevLists
    served: str

    def write(self, graphs: Graphs) -> list[dict[str, Any]]:
        """Write the int8 graphs beside the fp32 ones; see `rankdistill.export.quantization.ranker_graphs.Quantization`.

        Raises:
            GraphError: if the limits hold with no group in int8.
        """
        model = onnx.load(str(graphs.folder / FP32))
        reasons, remedies = self.int8.reasons(model), self.int8.remedies(model)
        groups: dict[str, list[str]] = {}
        for node in quantizable(model):
            if node not in reasons:
                groups.setdefault(group_of(node), []).append(node)
        choice = self._search(model, remedies, reasons, groups, graphs.folder)
        if not choice.met:
            best = max([choice.begun, *choice.alone.values()], key=lambda each: (each.overlap, each.ndcg))
            raise GraphError(
                f"quantize.max_drop={self.limits.max_drop:g}, quantize.min_overlap={self.limits.min_overlap:g}: the "
                "search found no graph with int8 that keeps them; with one group in fp32 at best "
                f"{best.ndcg:.4f} of its nDCG@10 and {best.overlap:.3f} overlap@10 remain. "
                "Allow more, or take quantize=none"
            )
        effects = {row["group"]: row for row in choice.rows()}
        for group in choice.kept:
            gain = effects[group]
            said = f"search: tau {gain['tau_gain']:+.4f}, overlap@10 {gain['overlap_gain']:+.4f} alone"
            reasons |= dict.fromkeys(groups[group], said)
        rows = self.int8.write_kept(graphs, model, remedies, reasons)
        return [row if row["file"] == FULL_INT8 else row | {"search": choice.as_json()} for row in rows]

    def _search(
        self,
        model: onnx.ModelProto,
        remedies: Mapping[str, Remedy],
        reasons: Mapping[str, str],
        groups: Mapping[str, Sequence[str]],
        out: Path,
    ) -> Choice:
        reference, _ = self.lists.score(out / FP32)
        everything = quantizable(model)
        work = tempfile.TemporaryDirectory(dir=out)
        with work as folder, Progress("quantization search", len(groups) + 1, "graphs") as bar:

            def evaluate(kept: Kept) -> Closeness:
                nodes = [*reasons, *(node for group in kept for node in groups[group])]
                if len(nodes) == len(everything):  # nothing is left to quantize
                    return self.lists.compare(reference, reference, 0.0)
                scores, cpu_ms = self.lists.score(self._trial(smooth(model, remedies, nodes), nodes, Path(folder)))
                if len(kept) > 1:  # how many of these there are is not known before
                    bar.skip(-1)
                bar.update(1, note=f"{len(kept)} groups in fp32")
                return self.lists.compare(scores, reference, cpu_ms)

            return search(group_costs(model, groups, self.int8.feeds), evaluate, self.limits)

    def _trial(self, evened: onnx.ModelProto, keep: Sequence[str], folder: Path) -> Path:
        """Write the graph that would be served here with these nodes in fp32."""
        per_channel, graph = self.int8.per_channel, folder / "trial.onnx"
        quantize_graph(evened, graph, per_channel=per_channel, reduce_range=self.int8.reduce_range, keep=keep)
        if self.served != INT8_AVX2:
            return graph
        reduced = folder / "reduced.onnx"
        reduce_saturating(evened, graph, reduced, per_channel=per_channel, keep=keep)
        return reduced


def group_costs(model: onnx.ModelProto, groups: Mapping[str, Sequence[str]], feeds: Sequence[Feed]) -> dict[str, float]:
    """Return what int8 saves by group: its share of all multiply-accumulates plus its share of all bytes.

    Args:
        model: fp32 graph.
        groups: nodes of each group.
        feeds: real pairs; the rows of an activation are their mean.
    """
    products, tables = products_of(model), large_tables(model)
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    activations = dict(activations_of(model, list(dict.fromkeys(a for a, _ in products.values())), feeds))
    rows = {name: float(np.mean([len(value) for value in values])) for name, values in activations.items()}
    work, weight = dict.fromkeys(groups, 0.0), dict.fromkeys(groups, 0.0)
    for group, nodes in groups.items():
        for node in nodes:
            activation, matrix = products.get(node, ("", tables.get(node, "")))
            inputs, outputs = sizes[matrix]
            work[group] += rows.get(activation, 0.0) * inputs * outputs
            weight[group] += inputs * outputs
    all_work, all_weight = sum(work.values()) or 1.0, sum(weight.values())
    return {group: work[group] / all_work + weight[group] / all_weight for group in groups}
