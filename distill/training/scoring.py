"""Raw scores of pairs by a model in PyTorch, and the stored scores of the teacher."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import BertForSequenceClassification

from rankdistill.data.records import ArrowWriter
from rankdistill.data.tokens import PairTokens, length_sorted
from rankdistill.errors import StoreError
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.runtime.text.tokens import Int64
from rankdistill.losses.score_losses import SCALES

CHUNK = 65536  # pairs scored between two files; what a kill loses at most
SCALE = "logit"  # what the numbers are: raw logits, never probabilities
SCHEMA = pa.schema([("score", pa.float32())])


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """Return the context of a forward pass: bfloat16 autocast, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()


def score_rows(
    model: BertForSequenceClassification, pairs: PairTokens, rows: Int64, *, batch_size: int, bf16: bool, bar: Progress
) -> Float32:
    """Score these pairs in length-sorted batches, leaving the model's mode as it was.

    Returns:
        Raw logits, float32 [rows].
    """
    device = next(model.parameters()).device
    scores = np.empty(len(rows), dtype=np.float32)
    training = model.training
    model.eval()
    with torch.inference_mode(), autocast(device, bf16):
        for part in length_sorted(pairs.lengths[rows], batch_size):
            inputs = {name: torch.from_numpy(value).to(device) for name, value in pairs.batch(rows[part]).items()}
            scores[part] = model(**inputs).logits[:, 0].float().cpu().numpy()
            bar.update(len(part))
    model.train(training)
    return scores


def write(
    model: BertForSequenceClassification, pairs: PairTokens, out: Path, *, what: str, batch_size: int, bf16: bool
) -> None:
    """Score every pair of a split into `out`, going on where a killed run stopped."""
    parts = out / "checkpoints"
    parts.mkdir(exist_ok=True)
    with Progress(what, len(pairs), "pairs") as bar:
        for start in range(0, len(pairs), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(pairs)))
            part = parts / f"{start:012d}.npy"
            if part.is_file():
                bar.skip(len(rows))
                continue
            scores = score_rows(model, pairs, rows, batch_size=batch_size, bf16=bf16, bar=bar)
            half = part.with_suffix(".half.npy")
            np.save(half, scores)
            half.replace(part)
    writer = ArrowWriter(out / "scores.arrow", SCHEMA)
    for part in sorted(p for p in parts.glob("*.npy") if ".half" not in p.name):
        for score in np.load(part).tolist():
            writer.add(score)
    writer.close()
    summary = {"pairs": len(pairs), "scale": SCALE, "precision": "bf16" if bf16 else "fp32"}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> Float32:
    """Map the scores that `write` stored, float32 [pairs], aligned with the split's pairs."""
    table = pa.ipc.open_stream(pa.memory_map(str(folder / "scores.arrow"))).read_all()
    return np.asarray(table.column("score").to_numpy(), dtype=np.float32)


def scale(folder: Path) -> str:
    """Return what the scores in a folder are declared to be, a name of `SCALES`, held against every one of them.

    Raises:
        StoreError: if they are declared to be something else, or one of them cannot be that.
    """
    summary = folder / "summary.json"
    declared = json.loads(summary.read_text(encoding="utf-8")).get("scale")
    if declared not in SCALES:
        raise StoreError(f"{summary}: scale={declared}: allowed is {' or '.join(SCALES)}")
    low, high, allowed = SCALES[declared]
    values = read(folder)
    fits = np.isfinite(values) & (values >= low) & (values <= high)
    if not fits.all():
        pair = int(np.argmin(fits))
        raise StoreError(
            f"{folder / 'scores.arrow'}: pair {pair} has {values[pair]:g}: allowed with scale={declared} is {allowed}"
        )
    return str(declared)
