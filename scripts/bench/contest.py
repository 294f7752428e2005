"""A training of train_speed.py: by this project, or by sentence-transformers at its defaults."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from turns import Turns

OURS, THEIRS = "rankdistill", "sentence-transformers"
LAYERS = "layers.json"
FITS = {  # by what a student begins as
    # with a new head: conf/teacher/minilm.yaml
    "encoder": {"group_size": 8, "batch_groups": 4, "learning_rate": 1e-4, "head_rate": 10.0},
    "teacher": {"group_size": 8, "batch_groups": 8, "learning_rate": 3e-4},  # conf/student/of/h384.yaml
}
SEED = 0


@dataclass(frozen=True)
class Contest:
    """A training to be done: by whom, on how many pairs, and where everything is.

    Attributes:
        tool: `OURS` or `THEIRS`.
        pairs: how many pairs it learns, some of them more than once.
        start: checkpoint that the student begins with, and layers.json: which layers they are.
        begin: what its layers are of, "encoder" or "teacher".
        fit: how this project trains it: fields of `Fit`.
        prepared: folder of `data`, `tokens`, `teacher` and `scores.npy`.
        out: an empty folder of its own.
        max_length: most tokens of a pair.
    """

    tool: str
    pairs: int
    start: Path
    begin: str
    fit: Mapping[str, Any]
    prepared: Path
    out: Path
    max_length: int


def load_pairs(prepared: Path, start: Path, max_length: int) -> dict[str, Any]:
    """Return each split's pairs by name."""
    from rankdistill.data.records import RankingData
    from rankdistill.data.tokens import PairTokens, TokenTable
    from rankdistill.export.runtime.text.tokens import PairEncoder

    table, encoder = TokenTable.open(prepared / "tokens"), PairEncoder.load(start, max_length)
    splits = RankingData.open(prepared / "data").splits
    return {name: PairTokens(split, table, encoder) for name, split in splits.items()}


def train_ours(contest: Contest, turns: Turns) -> Any:
    """Train with this project; returns the model."""
    from rankdistill.export.torch_models.checkpoint import load_ranker
    from rankdistill.losses import score_losses
    from rankdistill.options import Fit, Train
    from rankdistill.training.device import Device
    from rankdistill.training.trainer import train_ranker

    train, pairs = Train(), load_pairs(contest.prepared, contest.start, contest.max_length)
    device = Device.resolve(train)
    model = load_ranker(str(contest.start), cls_only=True, attention=device.attention)
    scores = np.load(contest.prepared / "scores.npy")
    fit = Fit(epochs=contest.pairs / len(pairs["train"]) + 1, max_pairs=contest.pairs, keep="last", evaluations=1,
              dev_queries=None, **contest.fit)  # fmt: skip

    def loss(scores: Any, batch: Any) -> Any:
        turns.count(int(batch["mask"].sum()))
        return score_losses.mse(scores, batch["teacher"], batch["mask"])

    turns.begin()
    if contest.begin == "teacher":
        model = fitted(contest, pairs["train"], scores, device.attention)
    train_ranker(
        model, pairs["train"], pairs["dev"], {"teacher": scores}, loss, fit=fit, train=train, device=device, seed=SEED,
        out=contest.out, what=OURS,
    )  # fmt: skip
    turns.end()
    return model


def fitted(contest: Contest, pairs: Any, scores: Any, attention: str) -> Any:
    """Return the student that this project begins with: of the same layers, fitted to the teacher's states."""
    from rankdistill.models.model_files import read_config
    from rankdistill.models.student import initial_student
    from rankdistill.options import Student

    teacher = contest.prepared / "teacher"
    layers = json.loads((contest.start / LAYERS).read_text(encoding="utf-8"))
    student = Student(layers=layers, hidden_size=read_config(teacher)["hidden_size"], max_length=contest.max_length)
    return initial_student(teacher, layers, pairs, scores, student, attention, SEED)


def train_theirs(contest: Contest, turns: Turns) -> Any:
    """Train with sentence-transformers; returns the model as this project loads it."""
    import torch
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments, losses
    from transformers import TrainerCallback

    from rankdistill.data.records import RankingData
    from rankdistill.export.torch_models.checkpoint import load_ranker

    data = RankingData.open(contest.prepared / "data")
    split = data.splits["train"]
    columns = {
        "query": data.queries.texts(split.pair_query()),
        "item": data.items.texts(split.item),
        "label": np.load(contest.prepared / "scores.npy").tolist(),
    }
    model = CrossEncoder(str(contest.start), num_labels=1, max_length=contest.max_length)
    assert next(model.parameters()).dtype == torch.float32
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(contest.out), max_steps=1, report_to="none", disable_tqdm=True, log_level="error"
    )
    batch = arguments.per_device_train_batch_size
    arguments.max_steps = max(1, contest.pairs // batch)

    class Count(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.count(batch)

    trainer = CrossEncoderTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=losses.MSELoss(model),
        callbacks=[Count()],
    )  # fmt: skip
    turns.begin()
    trainer.train()
    turns.end()
    model.save_pretrained(str(contest.out / "final"))
    return load_ranker(str(contest.out / "final"), cls_only=True, attention="eager")


def take_part(contest: Contest, turns: Turns) -> dict[str, float]:
    """Train turn by turn, then return nDCG@10 on dev and test, both tools' students measured alike."""
    logging.disable(logging.WARNING)
    contest.out.mkdir()
    model = (train_ours if contest.tool == OURS else train_theirs)(contest, turns)
    pairs = load_pairs(contest.prepared, contest.start, contest.max_length)
    return {f"{split}_ndcg@10": ndcg(model, pairs[split]) for split in ("dev", "test")}


def ndcg(model: Any, pairs: Any) -> float:
    """Return the mean nDCG@10 of a model on a split, in fp32."""
    from rankdistill.export.measure.quality import ranking_metrics
    from rankdistill.export.progress import Progress
    from rankdistill.training.scoring import score_rows

    split = pairs.split
    with Progress("score", split.pairs, "pairs") as bar:
        scores = score_rows(model, pairs, np.arange(split.pairs), batch_size=64, bf16=False, bar=bar)
    return float(np.nanmean(ranking_metrics(scores, split.grade, split.offsets)["ndcg@10"]))
