"""Lists, tokens and a small model that tests of updates are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import BertForSequenceClassification

from rankdistill.data.records import UNKNOWN
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.online.events.labelled_lists import Shown, tokenise
from rankdistill.online.update_trainer import Lessons
from rankdistill.training.device import Device
from tests.event_rows import BEGIN

DEVICE = Device("cpu", bf16=False, attention="eager")


def shown(name: str, *grades: int, at: float = 0.0, user: str = "", items: Sequence[str] | None = None) -> Shown:
    """Return a list of items with these grades."""
    texts = tuple(items or (f"red thing {number}" for number in range(len(grades))))
    return Shown(name, BEGIN + at, user, f"query {name}", texts, tuple(grades), (1.0,) * len(grades))


def random_lists(count: int, *, size: int = 6, seed: int = 0, users: int = 7) -> list[Shown]:
    """Return lists of random words and grades."""
    from tests.conftest import THINGS, WORDS

    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        items = tuple(" ".join([*rng.choice(WORDS, 3), str(rng.choice(THINGS))]) for _ in range(size))
        grades = tuple(rng.integers(0, 3, size).tolist())
        query = " ".join(rng.choice(WORDS, 3))
        found.append(
            Shown(f"s{seed}-{number}", BEGIN + number, f"u{number % users}", query, items, grades, (1.0,) * size)
        )
    return found


def lessons_of(lists: Sequence[Shown], encoder: PairEncoder, *, seed: int = 0, taught: float = 0.0) -> Lessons:
    """Return lists as an update trains on them, with made-up scores of the teacher and of what is served."""
    tokens = tokenise(lists, encoder, lambda text: text)
    rng = np.random.default_rng(seed)
    pairs = len(tokens.pairs)
    grade = tokens.pairs.split.grade
    known = {
        "grades": np.where(taught > 0, UNKNOWN, grade).astype(np.float32),
        "propensity": tokens.weight,
        "teacher": rng.normal(size=pairs).astype(np.float32),
        "taught": np.full(pairs, taught, dtype=np.float32),
        "served": rng.normal(size=pairs).astype(np.float32),
    }
    owner = np.unique([each.user for each in lists], return_inverse=True)[1].astype(np.int64)
    return Lessons(tokens.pairs, known, owner)


def small_model(encoder: str, seed: int = 0) -> BertForSequenceClassification:
    """Return a cross-encoder of the small BERT, without dropout in effect."""
    torch.manual_seed(seed)
    model = BertForSequenceClassification.from_pretrained(encoder, num_labels=1, attn_implementation="eager")
    return model.eval()
