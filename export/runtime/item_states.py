"""Items' states of a split ranker: int8 with a scale for each part of a token, kept in memory or read from a folder.

The parts of a token are its key and its value in the first layer that reads both texts, and its state, which only a
ranker needs where that layer is not the last.

A folder holds the states of a catalogue, each found by its item's tokens, so that a text that changes is another item.
It belongs to one lower graph, whose digest it names: states of another would give other scores.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rankdistill.export.errors import BundleError, UserError
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.runtime.text.tokens import Int32
from rankdistill.export.runtime.untrusted.bounded_files import read_json

ABOUT, VALUES, SCALES, OFFSETS, KEYS = "states.json", "values.npy", "scales.npy", "offsets.npy", "keys.npy"
FORMAT = 1
MOST_ABOUT = 1 << 16  # bytes
LARGEST = 127  # of an int8 value
PARTS = 3  # of a token: key, value, state

Int8 = npt.NDArray[np.int8]
Key = npt.NDArray[np.uint64]


class ItemStates(NamedTuple):
    """States of an item's tokens.

    Attributes:
        values: int8 [1, tokens, parts, width].
        scales: float32 [1, tokens, parts, 1], what the values are multiplied by.
    """

    values: Int8
    scales: Float32

    @classmethod
    def of(cls, states: Float32, parts: int) -> ItemStates:
        """Round the first parts of states, float32 [1, tokens, PARTS, width], each by its own largest value."""
        states = states[:, :, :parts]
        scales = np.abs(states).max(axis=3, keepdims=True) / np.float32(LARGEST)
        scales[scales == 0] = 1
        return cls(np.rint(states / scales).astype(np.int8), scales.astype(np.float32))

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return int(self.values.nbytes + self.scales.nbytes)


def _take_room(path: Path) -> None:
    """Have a file's whole size on the disk: a memory map on a full one ends the process, without a word.

    Raises:
        OSError: if there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def keys_of(items: Sequence[Int32]) -> Key:
    """Return what names items by their tokens, uint64 [items, 2]."""
    digests = b"".join(hashlib.blake2b(ids.tobytes(), digest_size=16).digest() for ids in items)
    return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)


@dataclass(frozen=True)
class StoredStates:
    """The states of a catalogue in a folder, memory-mapped.

    Attributes:
        values: int8 [tokens of all items, parts, width].
        scales: float32 [tokens of all items, parts].
        offsets: int64 [items + 1], where each item's tokens begin.
        keys: uint64 [items, 2], sorted.
    """

    values: Int8
    scales: Float32
    offsets: npt.NDArray[np.int64]
    keys: Key

    @classmethod
    def open(cls, folder: Path, lower: str, parts: int, width: int) -> StoredStates:
        """Map a folder that `write` made.

        Args:
            folder: with the states.
            lower: sha256 of the lower graph that they must be of.
            parts: of a token.
            width: of a part.

        Raises:
            UserError: if it is no such folder, is damaged, or of another model.
        """
        try:
            about = read_json(folder / ABOUT, MOST_ABOUT)
            if not isinstance(about, dict) or about.get("format") != FORMAT:
                raise UserError(f"{folder}: no items' states of this version; make them with: ranker states")
            if about.get("lower") != lower:
                raise UserError(
                    f"{folder} has items' states of another model, or of another graph of it ({about.get('variant')}); "
                    "make them anew with: ranker states"
                )
            values, scales, offsets = (
                np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in (VALUES, SCALES, OFFSETS)
            )
            keys = np.load(folder / KEYS, allow_pickle=False)
        except (BundleError, OSError, ValueError, EOFError) as error:
            raise UserError(f"{folder}: no items' states ({error}); make them with: ranker states") from error
        found = cls(values, scales, offsets, keys)
        if not found._fit(parts, width):
            raise UserError(f"{folder}: its files do not fit each other; make them anew with: ranker states")
        return found

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, item: Int32) -> ItemStates | None:
        """Return the states of an item by its tokens, special ones left out; None if they are not there."""
        ((first, second),) = keys_of([item])
        row = int(np.searchsorted(self._firsts, first))
        while row < len(self.keys) and self.keys[row, 0] == first:
            if self.keys[row, 1] == second:
                start, end = int(self.offsets[row]), int(self.offsets[row + 1])
                return ItemStates(self.values[None, start:end], self.scales[None, start:end, :, None])
            row += 1
        return None

    @cached_property
    def _firsts(self) -> npt.NDArray[np.uint64]:
        """The keys' first halves, in one piece: a column would be copied at each search."""
        return np.ascontiguousarray(self.keys[:, 0])

    def _fit(self, parts: int, width: int) -> bool:
        tokens = len(self.scales)
        shapes = self.values.shape, self.scales.shape, self.offsets.shape, self.keys.shape
        kinds = [each.dtype for each in (self.values, self.scales, self.offsets, self.keys)]
        return (
            shapes == ((tokens, parts, width), (tokens, parts), (len(self.keys) + 1,), (len(self.keys), 2))
            and kinds == [np.int8, np.float32, np.int64, np.uint64]
            and bool(self.offsets[0] == 0 and self.offsets[-1] == tokens and (np.diff(self.offsets) > 0).all())
        )


def write(
    items: Sequence[Int32],
    states: Iterator[ItemStates],
    about: dict[str, Any],
    shape: tuple[int, int],
    special: int,
    folder: Path,
) -> None:
    """Write the states of a catalogue into an empty folder.

    Args:
        items: different items' tokens, special ones left out, in the order of their keys (`keys_of`).
        states: of each of them.
        about: what the folder says of itself: `lower`, `variant`.
        shape: parts of a token, and the width of one.
        special: tokens of an item beside its own: what its states are more.
        folder: that is empty.
    """
    offsets = np.cumsum([0, *(len(ids) + special for ids in items)], dtype=np.int64)
    tokens = int(offsets[-1])
    values = np.lib.format.open_memmap(folder / VALUES, mode="w+", dtype=np.int8, shape=(tokens, *shape))
    scales = np.lib.format.open_memmap(folder / SCALES, mode="w+", dtype=np.float32, shape=(tokens, shape[0]))
    for name in (VALUES, SCALES):
        _take_room(folder / name)
    for start, each in zip(offsets, states, strict=False):
        end = int(start) + each.values.shape[1]
        values[int(start) : end], scales[int(start) : end] = each.values[0], each.scales[0, :, :, 0]
    values.flush()
    scales.flush()
    np.save(folder / OFFSETS, offsets)
    np.save(folder / KEYS, keys_of(items))
    told = {"format": FORMAT, "items": len(items), "tokens": tokens, "parts": shape[0], "width": shape[1], **about}
    (folder / ABOUT).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
