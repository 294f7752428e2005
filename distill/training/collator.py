"""Batches of training groups: the inputs of their pairs and what the loss needs of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rankdistill.data.tokens import PairTokens
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.runtime.text.tokens import Int64
from rankdistill.training.steps import NONE


@dataclass(frozen=True)
class Collator:
    """Turns a step's groups into a batch.

    The batch holds the inputs of their pairs; `mask`, bool [groups, size]; what is known of each pair, float [groups,
    size]; and `weight`, a scalar: a loss is a mean over the step's groups, and times the step's share of an even number
    of groups, every group weighs the same in the training (where all have something to compare: the mean of `labels`
    leaves out groups without a relevant candidate). Unweighted steps would make a group of long texts, of which
    fewer fit into a step, weigh more than one of short texts; and a step that is told more may go further (Goyal et al.
    2017, section 2.1).

    Attributes:
        pairs: the training pairs.
        known: values of each pair, float32 [pairs], by name.
        mean_groups: mean number of groups in a step of the training.
    """

    pairs: PairTokens
    known: Mapping[str, Float32]
    mean_groups: float

    def __call__(self, steps: Sequence[Int64]) -> dict[str, Tensor]:
        """Return the batch of these steps, one on each device that this process drives."""
        rows = np.concatenate(steps)
        mask = rows != NONE
        batch = {name: torch.from_numpy(value) for name, value in self.pairs.batch(rows[mask]).items()}
        batch["mask"] = torch.from_numpy(mask)
        batch["weight"] = torch.tensor(len(rows) / (len(steps) * self.mean_groups), dtype=torch.float32)
        for name, values in self.known.items():
            batch[name] = torch.from_numpy(np.where(mask, values[rows], 0).astype(np.float32))
        return batch
