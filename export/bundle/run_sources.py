"""What the bundle of a finished run is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.export.bundle.cascade_bundle import StageSources
from rankdistill.export.bundle.embedder_bundle import EmbedderSources
from rankdistill.export.errors import UserError
from rankdistill.export.graphs.variants import served_variant
from rankdistill.export.measure import batch_size as serving
from rankdistill.export.runtime.manifest import EVALUATION, SHORTENER
from rankdistill.export.runtime.processor import machine


@dataclass(frozen=True)
class Sources:
    """What a bundle is made of.

    Attributes:
        tradeoff: content of the run's tradeoff.json.
        evaluation: file of the run's per-query evaluation.
        student: folder of the student's checkpoint.
        graphs: folder of its graphs.
        golden: folder of its golden pairs.
        serving: what was measured of its graphs' batches.
        shortener: file of what shortens items for it; None if it reads them as they are given.
        cascade: the other stages of its cascade; None if it is served by itself.
        embedder: its model of single texts; None if it has none.
    """

    tradeoff: Mapping[str, Any]
    evaluation: Path
    student: Path
    graphs: Path
    golden: Path
    serving: Mapping[str, Any]
    shortener: Path | None
    cascade: StageSources | None
    embedder: EmbedderSources | None

    @classmethod
    def of(cls, run: Path) -> Sources:
        """Find them from a run's folder.

        Raises:
            UserError: if it is no finished run, or its stages are gone.
        """
        if not (run / "run.json").is_file():
            raise UserError(f"{run} is no run: it has no run.json")
        record = _read_record(run / "run.json", "status", "stages")
        if record["status"] != "finished":
            raise UserError(f"{run} is not finished; give its command again")
        stages = {}
        shortens = ["student input"] if "student input" in record["stages"] else []
        for role in ("student", "student graphs", "golden", "serving", *shortens):
            stages[role] = run / record["stages"].get(role, "-")
            if not stages[role].is_dir():
                raise UserError(f"{run}: its stage {role} is not there any more; give the run's command again")
        shortener = next((stages[role] / SHORTENER for role in shortens), None)
        return cls(
            tradeoff=_read_record(run / "tradeoff.json", "experiment", "config", "rows", "stages", "inputs"),
            evaluation=run / EVALUATION,
            student=stages["student"],
            graphs=stages["student graphs"],
            golden=stages["golden"],
            serving=serving.read(stages["serving"]),
            shortener=shortener if shortener is not None and shortener.is_file() else None,
            cascade=StageSources.of(run, record["stages"]),
            embedder=EmbedderSources.of(run, record["stages"]),
        )

    @property
    def max_length(self) -> int:
        """Most tokens of a pair that the student reads."""
        return int(self.tradeoff["config"]["student"]["max_length"])

    @property
    def measured_int8(self) -> str | None:
        """Name of the int8 variant that quality and latency were measured of: the measuring host's."""
        variant = served_variant(self.graphs, self.processor)
        return None if variant is None else variant.name

    @property
    def processor(self) -> frozenset[str]:
        """What the measuring host's processor has: its architecture and flags."""
        host = self.tradeoff["host"]
        return frozenset([machine(host["system"].split()[-1]), *host["flags"]])


def _read_record(path: Path, *names: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}; give the run's command again") from error
    if missing := [name for name in names if name not in content]:
        raise UserError(f"{path} lacks {missing[0]}; give the run's command again")
    return content
