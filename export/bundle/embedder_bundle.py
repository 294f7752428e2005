"""The embedder of a bundle: its graphs in `embedder/`, and what is said of them; its tokenizer is the bundle's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.export.bundle.cascade_bundle import model_key
from rankdistill.export.bundle.embedder_golden import FILE, IN_BUNDLE
from rankdistill.export.errors import UserError
from rankdistill.export.graphs.graph_files import GRAPHS_FILE
from rankdistill.export.graphs.variants import Offered, offered
from rankdistill.export.runtime.manifest import EMBEDDER, TOKENIZER

ABOUT = "embedder.json"  # of a checkpoint
ROLES = ("embedder", "embedder graphs")


@dataclass(frozen=True)
class EmbedderSources:
    """What a bundle's embedder is made of.

    Attributes:
        checkpoint: folder of its checkpoint.
        graphs: folder of its graphs.
    """

    checkpoint: Path
    graphs: Path

    @classmethod
    def of(cls, run: Path, stages: Mapping[str, str]) -> EmbedderSources | None:
        """Find them from a run's folder and the stages that it stands on; None if it has no embedder.

        Raises:
            UserError: if one of the stages is gone.
        """
        if ROLES[0] not in stages:
            return None
        found = [run / stages.get(role, "-") for role in ROLES]
        for role, folder in zip(ROLES, found, strict=True):
            if not folder.is_dir():
                raise UserError(f"{run}: its stage {role} is not there any more; give the run's command again")
        return cls(*found)

    def write(self, folder: Path, measured_int8: str | None) -> None:
        """Write the graphs, and what is said of them, into a bundle whose tokenizer is there.

        Args:
            folder: the bundle.
            measured_int8: name of the int8 variant that was measured.
        """
        (folder / EMBEDDER).parent.mkdir()
        variants = offered(self.graphs)
        for variant in variants:
            shutil.copyfile(self.graphs / variant.graph, folder / _file(variant))
        shutil.copyfile(self.graphs / FILE, folder / IN_BUNDLE)
        about: dict[str, Any] = json.loads((self.checkpoint / ABOUT).read_text(encoding="utf-8"))
        rows = json.loads((self.graphs / GRAPHS_FILE).read_text(encoding="utf-8"))
        key = model_key(folder, [TOKENIZER, *map(_file, variants)], about["max_length"])
        entries = []
        for variant in variants:
            measured = ["quality"] if variant.precision != "int8" or variant.name == measured_int8 else []
            entries.append(variant.entry(self.graphs, {"graphs": {}}, measured) | {"file": _file(variant)})
        content = {"format": 1, "key": key, **about, "variants": entries, "graphs": rows}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / EMBEDDER).write_text(text, encoding="utf-8", newline="\n")


def _file(variant: Offered) -> str:
    return f"{Path(EMBEDDER).parent.as_posix()}/{Path(variant.file).name}"
