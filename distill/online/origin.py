"""Where a student comes from: a run with data and teacher's scores, or a bundle alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rankdistill.data.records import RankingData
from rankdistill.data.shortened_items import shortener_of
from rankdistill.errors import ConfigError
from rankdistill.export.quantization.int8 import Int8 as Int8Graphs
from rankdistill.export.quantization.ranker_graphs import Quantization
from rankdistill.export.quantization.smoothing import Feed
from rankdistill.export.runtime.manifest import MANIFEST, Manifest
from rankdistill.export.runtime.text.shortener import Shortener
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.models.model_files import RUN
from rankdistill.online.events.catalogue import Catalogue
from rankdistill.online.replay import Old
from rankdistill.options import Config, Export, FusedInt8, Int8, NoQuantize, Quantize, SearchedInt8, Student, Weight8
from rankdistill.pipeline import quantization as quantization_

KINDS: dict[str, type[Quantize]] = {kind.kind: kind for kind in (NoQuantize, Int8, SearchedInt8, FusedInt8, Weight8)}
PUBLISHED = "published"  # default folder of versions, beside a run's bundle


@dataclass(frozen=True)
class Origin:
    """The first version's bundle, and what is known of its making.

    Attributes:
        bundle: its folder.
        run: the run's folder; None where there is a bundle alone.
        manifest: of the bundle.
        encoder: of the student.
        shortener: of items; None if the student reads them whole.
        config: what of the run's configuration its graphs depend on.
        old: the run's data; None without a run.
    """

    bundle: Path
    run: Path | None
    manifest: Manifest
    encoder: PairEncoder
    shortener: Shortener | None
    config: Config
    old: Old | None

    @classmethod
    def find(cls, path: Path) -> Origin:
        """Find it from a run's folder or a bundle's.

        Raises:
            ConfigError: if it is neither.
            UserError: if something of it is missing or broken.
        """
        folder = path.expanduser()
        run = next((each for each in (folder, folder.resolve().parent) if (each / RUN).is_file()), None)
        bundle = folder / "bundle" if run == folder else folder
        if not (bundle / MANIFEST).is_file():
            more = "; make it: ranker bundle RUN" if run is not None else ""
            raise ConfigError(f"{path}: allowed is a run or a bundle, and {bundle} has no {MANIFEST}{more}")
        manifest = Manifest.read(bundle)
        encoder = PairEncoder.load(bundle, manifest.max_length)
        split = str(manifest.content["data"]["split"])
        old = None if run is None else Old.of(run, encoder, split)
        return cls(bundle, run, manifest, encoder, Shortener.of(manifest), _config(manifest), old)

    @property
    def published(self) -> Path:
        """The default folder of versions."""
        return (self.bundle.parent if self.run is None else self.run) / PUBLISHED

    def shorten(self, text: str) -> str:
        """Return what the student reads of an item."""
        return text if self.shortener is None else self.shortener.shorten(text)

    def catalogue(self, folder: str | None) -> Catalogue:
        """Return the texts that events may leave out: of a folder, or of the run's data set.

        Raises:
            DataError: if the folder's files are broken.
        """
        if folder is not None:
            return Catalogue.read(Path(folder).expanduser())
        if self.old is None:
            return Catalogue()
        whole = (
            shortener_of(self.old.data) is not None
        )  # a student of titles alone has no shortener: events have titles
        return Catalogue.of(RankingData.open(self.old.texts if whole else self.old.data))

    def quantization(self, checkpoint: Path, feeds: Sequence[Feed]) -> Quantization | None:
        """Return the way to 8 bits that the first version's graphs were made in.

        Args:
            checkpoint: folder with the tokenizer.
            feeds: real pairs, which smoothing is fitted to where there is no run to draw its own from.

        Raises:
            ConfigError: if it needs the run's dev split and there is no run.
        """
        if self.old is not None:
            return quantization_.quantization(self.config, "student", self.old.data, checkpoint)
        quantize = self.config.quantize
        if isinstance(quantize, SearchedInt8):
            raise ConfigError(f"{self.bundle}: quantize=search looks at the run's dev split; give the run")
        if not isinstance(quantize, Int8) or not quantization_.reads_pairs(quantize):
            return quantization_.quantization(self.config, "student", self.bundle, checkpoint)
        plain = quantization_.quantization(
            replace(self.config, quantize=replace(quantize, smooth=None, outliers=0)),
            "student",
            self.bundle,
            checkpoint,
        )
        assert isinstance(plain, Int8Graphs)
        return replace(plain, smooth=quantize.smooth, outliers=quantize.outliers, feeds=feeds)


def _config(manifest: Manifest) -> Config:
    """Return what of the configuration in a manifest the student's graphs depend on."""
    told: dict[str, Any] = manifest.content["config"]
    kind = KINDS.get(told["quantize"]["kind"])
    if kind is None:
        raise ConfigError(f"{manifest.folder / MANIFEST}: config.quantize.kind={json.dumps(told['quantize']['kind'])}")
    known = {each.name for each in fields(kind)}
    quantize = kind(**{name: value for name, value in told["quantize"].items() if name in known})
    return Config(
        name=manifest.content["name"],
        seed=int(told["seed"]),
        student=Student(max_length=manifest.max_length),
        quantize=quantize,
        export=Export(**told["export"]),
    )
