"""Batches of training groups: the inputs of their pairs and what the loss needs of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from distill.groups import NONE
from distill.tokens import PairTokens
from export.runtime.scorer import Float32
from export.runtime.tokens import Int64


class GroupDataset(Dataset[Int64]):
    """Groups of pair rows in training order, int64 [groups, size]."""

    def __init__(self, groups: Int64) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, row: int) -> Int64:
        return np.asarray(self.groups[row])


@dataclass(frozen=True)
class Collator:
    """Turns groups into a batch: the inputs of their pairs, and what is known of each pair, float [groups, size]."""

    pairs: PairTokens
    known: Mapping[str, Float32]

    def __call__(self, groups: Sequence[Int64]) -> dict[str, Tensor]:
        """Return the batch of these groups."""
        rows = np.stack(groups)
        mask = rows != NONE
        batch = {name: torch.from_numpy(value) for name, value in self.pairs.batch(rows[mask]).items()}
        batch["mask"] = torch.from_numpy(mask)
        for name, values in self.known.items():
            batch[name] = torch.from_numpy(np.where(mask, values[rows], 0).astype(np.float32))
        return batch
