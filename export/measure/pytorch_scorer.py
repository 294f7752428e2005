"""A cross-encoder in PyTorch fp32 as its users run it: padded, length-sorted batches through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.torch_models.checkpoint import load_ranker


class PytorchScorer:
    """Scores with transformers' model and tokenizer, the library's defaults, gradients off."""

    def __init__(self, checkpoint: Path, max_length: int, threads: int, batch_size: int) -> None:
        torch.set_num_threads(threads)
        self._tokenizer = AutoTokenizer.from_pretrained(
            checkpoint, local_files_only=True, truncation_side="right", padding_side="right"
        )
        self._model = load_ranker(str(checkpoint), cls_only=False)
        self._max_length, self._batch_size = max_length, batch_size

    def score(self, query: str, items: Sequence[str]) -> Float32:
        """Return raw logits, float32 [items]."""
        encoded = self._tokenizer([query] * len(items), list(items), truncation=True, max_length=self._max_length)
        order = np.argsort([-len(ids) for ids in encoded["input_ids"]], kind="stable")
        scores = np.empty(len(items), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), self._batch_size):
                rows = order[start : start + self._batch_size]
                features = {name: [values[row] for row in rows] for name, values in encoded.items()}
                batch = self._tokenizer.pad(features, return_tensors="pt")
                scores[rows] = self._model(**batch).logits[:, 0].numpy()
        return scores

    def close(self) -> None:
        """Nothing to give back."""
