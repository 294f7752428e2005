"""The graphs that a bundle offers, by what a processor can do; names follow sentence-transformers' convention."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.export.graphs.graph_files import EXACT_INT8, FP32, GRAPHS_FILE, INT8, INT8_AVX2, WEIGHT8, halves
from rankdistill.export.runtime.manifest import FP32 as PLAIN
from rankdistill.export.runtime.manifest import GRAPHS, SPLIT
from rankdistill.export.runtime.processor import meets


@dataclass(frozen=True)
class Offered:
    """A graph as a bundle offers it.

    Attributes:
        name: in the manifest, and in the file's name.
        graph: file among a checkpoint's graphs.
        precision: "fp32", "int8" or "weight8".
        processors: architecture and flags, one of which a processor must have; empty for all.
    """

    name: str
    graph: str
    precision: str
    processors: tuple[str, ...]

    @property
    def file(self) -> str:
        """Path inside the bundle."""
        return f"{GRAPHS}/model.onnx" if self.name == PLAIN else f"{GRAPHS}/model_{self.name}.onnx"

    @property
    def halves(self) -> dict[str, str]:
        """Paths inside the bundle of a split student's halves, by the names of the checkpoint's files."""
        lower, upper = halves(self.graph)
        return {lower: f"{SPLIT}/lower_{self.name}.onnx", upper: f"{SPLIT}/upper_{self.name}.onnx"}

    def saturates(self, graphs: Path) -> bool:
        """Return whether weights are too large for the 16-bit sums of processors without VNNI."""
        rows = json.loads((graphs / GRAPHS_FILE).read_text(encoding="utf-8"))
        return any(row["saturating"] > 0 for row in rows if row["file"] == self.graph)

    def entry(self, graphs: Path, serving: Mapping[str, Any], measured: Sequence[str]) -> dict[str, Any]:
        """Return what a manifest says of it.

        Args:
            graphs: folder of the checkpoint's graphs.
            serving: what was measured of their batches.
            measured: what was measured of it otherwise.
        """
        found = serving["graphs"].get(self.graph, {})
        return {
            "name": self.name,
            "file": self.file,
            "precision": self.precision,
            "processors": list(self.processors),
            "batch": int(found.get("batch", 1)),
            "batch_invariant": bool(found.get("batch_invariant", False)),
            "saturates": self.saturates(graphs),
            "measured": list(measured),
        }

    def is_exact(self, graphs: Path, has: Iterable[str]) -> bool:
        """Return whether a processor with these abilities computes it without saturation."""
        return self.graph in exact_files(graphs, has)

    def is_for(self, has: Iterable[str]) -> bool:
        """Return whether it is meant for a processor with these abilities."""
        return meets(self.processors, has)


# the one to prefer first
OFFERED = (
    Offered("qint8_avx512_vnni", INT8, "int8", ("avx512_vnni", "avx_vnni")),
    Offered("qint8_avx2", INT8_AVX2, "int8", ("x86_64",)),
    Offered("qint8_arm64", INT8, "int8", ("arm64",)),
    Offered("weight8", WEIGHT8, "weight8", ()),
    Offered(PLAIN, FP32, "fp32", ()),
)


def offered(graphs: Path) -> list[Offered]:
    """Return what can be offered of a checkpoint's graphs."""
    return [variant for variant in OFFERED if (graphs / variant.graph).is_file()]


def served_int8(has: Iterable[str]) -> str:
    """Return which int8 graph a processor with these abilities is measured and served with."""
    abilities = frozenset(has)
    suited = [each.graph for each in OFFERED if each.precision == "int8" and each.is_for(abilities)]
    return suited[0] if suited else INT8_AVX2


def served_variant(graphs: Path, has: Iterable[str]) -> Offered | None:
    """Return the int8 variant that a processor with these abilities is measured and served with; None without one."""
    abilities = frozenset(has)
    same = [each for each in offered(graphs) if each.precision == "int8" and each.graph == served_int8(abilities)]
    return next((each for each in same if each.is_for(abilities)), same[0] if same else None)


def exact_files(graphs: Path, has: Iterable[str]) -> frozenset[str]:
    """Return which of a checkpoint's graphs a processor with these abilities computes without saturation."""
    rows = json.loads((graphs / GRAPHS_FILE).read_text(encoding="utf-8"))
    able = meets(EXACT_INT8, has)
    return frozenset(row["file"] for row in rows if able or row["saturating"] == 0)


def is_split(graphs: Path) -> bool:
    """Return whether a checkpoint's graphs are those of a split ranker."""
    return all((graphs / half).is_file() for half in halves(FP32))
