"""What a model is trained and scored on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rankdistill.export.measure.host import has_bf16
from rankdistill.export.runtime.threads import allotted_cores
from rankdistill.options import Train


@dataclass(frozen=True)
class Device:
    """What a model is trained and scored with, once "auto" is resolved."""

    name: str
    bf16: bool
    attention: str

    @classmethod
    def resolve(cls, train: Train) -> Device:
        """Turn `auto` into what this machine does best (measured: eager on a CPU, sdpa on a GPU)."""
        cuda = torch.cuda.is_available()
        able = torch.cuda.is_bf16_supported() if cuda else has_bf16()
        bf16 = able if train.precision == "auto" else train.precision == "bf16"
        attention = ("sdpa" if cuda else "eager") if train.attention == "auto" else train.attention
        torch.set_num_threads(allotted_cores())
        return cls("cuda" if cuda else "cpu", bf16, attention)
