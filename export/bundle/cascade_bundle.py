"""The other stages of a bundle's cascade: in `stages/`, each an ordinary small bundle that the runtime loads by itself.

They stand under the checksums of the bundle around them, so they have none of their own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.export.bundle import golden
from rankdistill.export.errors import UserError
from rankdistill.export.graphs.variants import offered
from rankdistill.export.measure import batch_size as serving
from rankdistill.export.runtime.cascade import BM25, EMBEDDED, OWN
from rankdistill.export.runtime.manifest import (
    CASCADE,
    FP32,
    GOLDEN,
    GRAPHS,
    MANIFEST,
    SHORTENER,
    STAGES,
    TOKENIZER,
    Manifest,
)
from rankdistill.export.runtime.untrusted.bounded_files import hash_file

TEACHER = "teacher"
KEY_LENGTH = 16  # hex digits of a model's key
OF_A_STUDENT = ("cascade", "embedder", "input", "split", "files")  # what a manifest says that is not so of its teacher


@dataclass(frozen=True)
class StageSources:
    """What the stages of a run's cascade are made of.

    Attributes:
        levels: file that names the stages, and the cut-offs between them.
        teacher: folder of the teacher's checkpoint.
        graphs: folder of its graphs.
        golden: folder of its golden pairs.
        serving: what was measured of its graphs' batches.
        first: folder with the stage before the student; None if there is none.
    """

    levels: Path
    teacher: Path
    graphs: Path
    golden: Path
    serving: Mapping[str, Any]
    first: Path | None

    @classmethod
    def of(cls, run: Path, stages: Mapping[str, str]) -> StageSources | None:
        """Find them from a run's folder and the stages that it stands on; None if it has no cascade.

        Raises:
            UserError: if one of the stages is gone.
        """
        if "cascade" not in stages:
            return None
        roles = ["cascade", "teacher", "teacher graphs", "teacher golden", "teacher serving"]
        roles += ["first stage"] if "first stage" in stages else []
        found = {role: run / stages.get(role, "-") for role in roles}
        for role, folder in found.items():
            if not folder.is_dir():
                raise UserError(f"{run}: its stage {role} is not there any more; give the run's command again")
        return cls(
            levels=found["cascade"] / CASCADE,
            teacher=found["teacher"],
            graphs=found["teacher graphs"],
            golden=found["teacher golden"],
            serving=serving.read(found["teacher serving"]),
            first=found.get("first stage"),
        )

    def write(self, content: Mapping[str, Any], max_length: int, folder: Path) -> None:
        """Write cascade.json and the stages into a bundle.

        Args:
            content: of the bundle's manifest.
            max_length: of the teacher.
            folder: of the bundle.
        """
        shutil.copyfile(self.levels, folder / CASCADE)
        for stage in json.loads(self.levels.read_text(encoding="utf-8"))["stages"]:
            name = stage["name"]
            if stage["kind"] in (OWN, EMBEDDED):  # the bundle has them anyway
                continue
            (folder / STAGES).mkdir(exist_ok=True)
            if name == TEACHER:
                self._write_teacher(content, stage["variant"], max_length, folder / STAGES / name)
            elif stage["kind"] == BM25:
                assert self.first is not None
                shutil.copyfile(self.first / f"{name}.json", folder / STAGES / f"{name}.json")
            else:
                assert self.first is not None
                shutil.copytree(self.first / name, folder / STAGES / name)

    def _write_teacher(self, content: Mapping[str, Any], only: str | None, max_length: int, out: Path) -> None:
        variants = [each for each in offered(self.graphs) if only in (None, each.name)]
        (out / GRAPHS).mkdir(parents=True)
        shutil.copyfile(self.teacher / TOKENIZER, out / TOKENIZER)
        for variant in variants:
            shutil.copyfile(self.graphs / variant.graph, out / variant.file)
        tolerance = _write_golden(self.golden / GOLDEN, {each.name for each in variants}, out / GOLDEN)
        told = {name: value for name, value in content.items() if name not in OF_A_STUDENT}
        told |= {
            "key": model_key(out, [TOKENIZER, *(each.file for each in variants)], max_length),
            "max_length": max_length,
            "variants": [
                each.entry(self.graphs, self.serving, ["quality", "latency"] if each.name == FP32 else [])
                for each in variants
            ],
            "batching": {each.name: self.serving["graphs"].get(each.graph, {}) for each in variants},
            "golden": tolerance,
            "quality": [row for row in content["quality"] if row["model"] == TEACHER],
            "parity": [],
        }
        write_manifest(told, out)


def model_key(folder: Path, files: Sequence[str], max_length: int) -> str:
    """Return what names a model: equal keys give equal scores, variant by variant.

    Args:
        folder: of the bundle.
        files: those that its scores depend on.
        max_length: most tokens of a pair.
    """
    text = "".join(f"{hash_file(folder / name)}  {name}\n" for name in sorted(set(files)))
    return hashlib.sha256(f"{text}{max_length}\n".encode()).hexdigest()[:KEY_LENGTH]


def copy_stage(bundle: Path, out: Path) -> None:
    """Copy of a bundle what its ranker needs, and its golden pairs.

    Raises:
        BundleError: if a file is not the one that its manifest tells of.
    """
    manifest = Manifest.read(bundle)
    names = [TOKENIZER, GOLDEN, *(variant.file for variant in manifest.variants)]
    names += [half for variant in manifest.variants for half in manifest.halves(variant) or ()]
    names += [SHORTENER] if SHORTENER in manifest.content["files"] else []
    (out / GRAPHS).mkdir(parents=True)
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(manifest.checked(name), out / name)
    left_out = ("cascade", "embedder", "files")
    write_manifest({name: value for name, value in manifest.content.items() if name not in left_out}, out)


def write_manifest(content: Mapping[str, Any], folder: Path) -> None:
    """Write the manifest of the files in a folder, which tells of each; equal files give equal bytes.

    Raises:
        BundleError: if it is not what a manifest must be.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: {"sha256": hash_file(folder / name), "bytes": (folder / name).stat().st_size} for name in names}
    text = json.dumps({**content, "files": files}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
    Manifest.read(folder)


def _write_golden(source: Path, variants: set[str], out: Path) -> dict[str, Any]:
    """Write golden pairs with the scores of some variants alone; return what the manifest says of them."""
    lines = []
    for line in golden.read(source):
        kept = {
            field: {name: value for name, value in line[field].items() if name in variants}
            for field in ("scores", "tolerance")
        }
        lines.append({**line, **kept})
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n"
    out.write_text(text, encoding="utf-8", newline="\n")
    return {"pairs": len(lines), "tolerance": lines[0]["tolerance"]}
