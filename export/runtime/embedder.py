"""Texts to vectors with a bundle's embedder: one text a call of the engine, as many calls at once as there are threads.

So a text's vector depends on nothing but the text, in int8 too, whose activation ranges span a whole batch.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.errors import BundleError, UserError
from rankdistill.export.runtime.manifest import (
    EMBEDDER,
    TOKENIZER,
    VARIANT_SCHEMA,
    Manifest,
    Variant,
    pick,
    read_variant,
)
from rankdistill.export.runtime.processor import abilities
from rankdistill.export.runtime.scorer import Float32, open_session
from rankdistill.export.runtime.text.tokens import Int32, Int64, PairEncoder
from rankdistill.export.runtime.threads import available_cores
from rankdistill.export.runtime.untrusted.bounded_files import read_json
from rankdistill.export.runtime.untrusted.json_schema import Schema, Within, broken
from rankdistill.export.runtime.untrusted.onnx_file import external_files
from rankdistill.export.runtime.vectors import DTYPES, pack, prefix

OUTPUT = "embedding"
SPECIAL = 2  # [CLS] text [SEP]
FORMAT = 1
MOST_WIDTH = 1 << 16
SCHEMA: Schema = {
    "format": int,
    "key": re.compile(r"[0-9a-f]{16}"),
    "kind": str,
    "pooling": re.compile(r"mean|cls|pooler"),
    "max_length": Within(int, 5, 1 << 16),
    "width": Within(int, 1, MOST_WIDTH),
    "dimensions": [Within(int, 1, MOST_WIDTH)],
    "variants": [VARIANT_SCHEMA],
}


class TextEncoder:
    """Encodes single texts as `[CLS] text [SEP]` for a BERT.

    Args:
        encoder: of the model's pairs, whose tokens are the same; at most `max_length` of a text are read.
    """

    def __init__(self, encoder: PairEncoder) -> None:
        self._encoder = encoder
        self.max_length = encoder.max_length

    def ids(self, texts: Sequence[str]) -> list[Int32]:
        """Return each text's token ids, cut and with both special tokens, int32 [tokens]."""
        cls, sep = np.array([self._encoder.cls], np.int32), np.array([self._encoder.sep], np.int32)
        room = self.max_length - SPECIAL
        return [np.concatenate((cls, ids[:room], sep)) for ids in self._encoder.ids(texts)]

    def forked(self) -> None:
        """See `PairEncoder.forked`."""
        self._encoder.forked()

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return each text's tokens before anything is cut, special ones included."""
        return [len(ids) + SPECIAL for ids in self._encoder.ids(texts)]

    def batch(self, ids: Sequence[Int32]) -> dict[str, Int64]:
        """Pad to the longest: input_ids, token_type_ids, attention_mask, int64 [texts, tokens]."""
        shape = (len(ids), max(len(each) for each in ids))
        feed = {name: np.zeros(shape, dtype=np.int64) for name in ("input_ids", "token_type_ids", "attention_mask")}
        for row, each in enumerate(ids):
            feed["input_ids"][row, : len(each)] = each
            feed["attention_mask"][row, : len(each)] = 1
        return feed


@dataclass(frozen=True)
class About:
    """What a bundle says of its embedder.

    Attributes:
        content: everything.
        variants: its graphs, the one to prefer first; files are inside the bundle.
    """

    content: Mapping[str, Any]
    variants: tuple[Variant, ...]

    @classmethod
    def of(cls, manifest: Manifest) -> About:
        """Read it.

        Raises:
            BundleError: if the bundle has no embedder, or what is said of it is not so.
        """
        if EMBEDDER not in manifest.content["files"]:
            raise BundleError(f"{manifest.folder} has no embedder; a run with embed=distilled or embed=pca makes one")
        content = read_json(manifest.checked(EMBEDDER))
        if problems := [*broken(content, SCHEMA, "")][:5]:
            raise BundleError(f"{manifest.folder / EMBEDDER}: " + "; ".join(problems))
        if content["format"] != FORMAT:
            raise BundleError(f"{manifest.folder / EMBEDDER}: format {content['format']}; this version reads {FORMAT}")
        variants = tuple(read_variant(fields) for fields in content["variants"])
        if not variants or variants[-1].processors:
            raise BundleError(f"{manifest.folder / EMBEDDER}: no graph for every processor")
        if missing := [each.file for each in variants if each.file not in manifest.content["files"]]:
            raise BundleError(f"{manifest.folder / EMBEDDER}: {missing[0]} is not among the bundle's files")
        return cls(content, variants)

    def variant(self, name: str | None) -> Variant:
        """Return a graph by name, without a name the first that suits this processor.

        Raises:
            BundleError: if there is none of this name.
        """
        if name is None:
            return pick(self.variants, abilities())
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise BundleError(f"the embedder has no variant {name}; it has {', '.join(v.name for v in self.variants)}")


class Embedder:
    """Turns texts into vectors; safe to be called from several threads. Close it in the end.

    Args:
        graph: file of its graph.
        encoder: of its tokens.
        width: of a whole vector.
        dimensions: of the prefixes that it was made to be used with.
        key: names it; equal keys give equal vectors, variant by variant.
        variant: name of the graph.
        threads: texts at once; None for every core.
    """

    def __init__(
        self, graph: Path, encoder: TextEncoder, *, width: int, dimensions: Sequence[int], key: str, variant: str,
        threads: int | None = None,
    ) -> None:  # fmt: skip
        self.encoder, self.width, self.key, self.variant = encoder, width, key, variant
        self.dimensions = tuple(dimensions)
        self.threads = available_cores() if threads is None else threads
        self._graph = graph
        self._begin()
        self._types = np.zeros((1, encoder.max_length), dtype=np.int64)
        self._mask = np.ones((1, encoder.max_length), dtype=np.int64)
        _alive.add(self)

    def _begin(self) -> None:
        """Open the graph and make the threads, of which the caller's is one."""
        self._session = open_session(self._graph, 1, OUTPUT)
        self._pool = ThreadPoolExecutor(self.threads - 1, thread_name_prefix="embed") if self.threads > 1 else None

    def _forked(self) -> None:
        """Let go of threads that stayed in the parent."""
        self.encoder.forked()
        self._begin()

    @classmethod
    def load(cls, bundle: Path, variant: str | None = None, threads: int | None = None) -> Embedder:
        """Load the embedder of a bundle.

        Args:
            bundle: its folder.
            variant: name of the graph; None for the one for this processor.
            threads: texts at once; None for every core.

        Raises:
            BundleError, ModelError: if the bundle has none, or it cannot be loaded.
        """
        manifest = Manifest.read(Path(bundle))
        about = About.of(manifest)
        chosen, content = about.variant(variant), about.content
        graph = manifest.checked(chosen.file)
        if outside := external_files(graph):
            raise BundleError(f"{graph} keeps weights in {outside[0]!r}; a bundle's graph holds them itself; refused")
        manifest.checked(TOKENIZER)
        encoder = TextEncoder(PairEncoder.load(manifest.folder, content["max_length"]))
        return cls(
            graph, encoder, width=content["width"], dimensions=content["dimensions"],
            key=content["key"], variant=chosen.name, threads=threads,
        )  # fmt: skip

    def embed(
        self, texts: Sequence[str], dimensions: int | None = None, dtype: str = "float32", *, normalize: bool = True,
        unwanted: threading.Event | None = None,
    ) -> npt.NDArray[Any]:  # fmt: skip
        """Turn texts into vectors; an empty one, and one in any script, has a vector too.

        Args:
            texts: what is embedded, cut where it is longer than the model reads.
            dimensions: the first ones of a vector that are kept; None for all.
            dtype: float32, int8 or binary (`vectors.pack`).
            normalize: whether a float32 vector has length 1; the others' length says nothing.
            unwanted: is set, by another thread, when nobody wants the vectors any more; None if that never happens.

        Returns:
            [texts, dimensions], or uint8 [texts, dimensions / 8 rounded up] for binary.

        Raises:
            UserError: if there are no so many dimensions, or no such type.
            TypeError: if a text is none.
            CancelledError: (of concurrent.futures) if nobody wanted them before all were made.
        """
        if dimensions is not None and not 1 <= dimensions <= self.width:
            raise UserError(f"dimensions={dimensions}: allowed is a number from 1 to {self.width}")
        if dtype not in DTYPES:
            raise UserError(f"dtype={dtype}: allowed is {', '.join(DTYPES)}")
        if isinstance(texts, str):
            raise TypeError("texts is one str; it is a sequence of them")
        texts = list(texts)
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"a text is a {type(text).__name__}: {text!r:.40}; texts are str")
        vectors = self.vectors(self.encoder.ids(texts), unwanted)
        return pack(prefix(vectors, dimensions or self.width, normalize=normalize), dtype)

    def vectors(self, ids: Sequence[Int32], unwanted: threading.Event | None = None) -> Float32:
        """Return the graph's output of texts tokenised by `encoder.ids`, float32 [texts, width], of any length.

        Args:
            ids: of each text.
            unwanted: as of `embed`.

        Raises:
            CancelledError: as of `embed`.
        """
        vectors = np.empty((len(ids), self.width), dtype=np.float32)
        order = iter(sorted(range(len(ids)), key=lambda row: -len(ids[row])))  # no thread ends on a long one

        def work() -> None:
            for row in order:  # a list's iterator gives each row to one thread
                if unwanted is not None and unwanted.is_set():
                    raise CancelledError
                length = len(ids[row])
                feed = {
                    "input_ids": ids[row].astype(np.int64)[None],
                    "token_type_ids": self._types[:, :length],
                    "attention_mask": self._mask[:, :length],
                }
                vectors[row] = self._session.run([OUTPUT], feed)[0][0]

        helpers = []
        if self._pool is not None:
            helpers = [self._pool.submit(work) for _ in range(min(self.threads, len(ids)) - 1)]
        try:
            work()
        finally:
            for helper in [each for each in helpers if not each.cancel()]:
                helper.result()
        return vectors

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_alive: weakref.WeakSet[Embedder] = weakref.WeakSet()


def _after_fork() -> None:
    for embedder in list(_alive):
        embedder._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
