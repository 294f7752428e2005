"""A two-layer BERT, a WordPiece vocabulary and a small ranking set made here: no test needs a network or a data set."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import rankdistill.export  # noqa: F401 - silences libraries before a test loads them

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORDS = (
    "red blue green small large old new fast slow round flat soft hard warm cold light heavy loud quiet bright"
).split()
THINGS = "car boat lamp chair table phone shirt shoe book cup knife clock bag tent bike hat ring drum kite sofa".split()


def write_tokenizer(folder: Path, words: list[str]) -> None:
    """Write a BERT WordPiece tokenizer whose vocabulary is `words`, letters, and the special tokens."""
    from transformers import BertTokenizer

    letters = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789" for prefix in ("", "##")]
    marks = list(".,:;!?()'-")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*words, *letters, *marks])]
    path = folder / "vocab.txt"
    path.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizer(vocab=str(path), do_lower_case=True).save_pretrained(folder)


def write_encoder(folder: Path, words: list[str], *, layers: int = 2, hidden_size: int = 32, seed: int = 0) -> None:
    """Write a small BERT encoder with random weights and its tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, words)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines()),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)


def write_beir(
    folder: Path, *, queries: int = 24, items: int = 80, judged: int = 12, seed: int = 0, more_test: int = 0
) -> None:
    """Write a BEIR set in which an item's grade is how many of its three adjectives are good ones, all three splits.

    A quarter of the queries is for tests, and so are those that `more_test` adds.
    Queries ask for good ones, so both a model of items alone and BM25 do better than chance.
    """
    rng = np.random.default_rng(seed)
    good = WORDS[:8]
    (folder / "qrels").mkdir(parents=True)
    texts = [[*rng.choice(WORDS, 3, replace=False), rng.choice(THINGS)] for _ in range(items)]
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts):
            row = {"_id": f"i{number}", "title": "", "text": " ".join(text)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    splits = {split: [] for split in ("train", "dev", "test")}
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
        for number in range(queries + more_test):
            text = " ".join([*rng.choice(good, 4, replace=False), rng.choice(THINGS)])
            file.write(json.dumps({"_id": f"q{number}", "text": text}, ensure_ascii=False) + "\n")
            split = ("train", "train", "dev", "test")[number % 4] if number < queries else "test"
            grades = [len(set(good) & set(text[:3])) for text in texts]
            drawn = rng.permutation(items)[:judged].tolist()
            if min(grades[item] for item in drawn) > 0:  # of relevant items alone, BM25 would fill the list up
                drawn[-1] = next(item for item in range(items) if not grades[item])
            splits[split] += [(f"q{number}", f"i{item}", grades[item]) for item in drawn]
    for split, rows in splits.items():
        lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in rows)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "tiny-bert"
    write_encoder(folder, [*WORDS, *THINGS])
    return folder


@pytest.fixture(scope="session")
def beir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("beir") / "things"
    write_beir(folder, more_test=18)  # a gate decides on no fewer than 20
    return folder


@pytest.fixture(scope="session")
def begun(request, tmp_path_factory, worker_id) -> Path:
    """The folder in which a small experiment was run, with its times; one for all workers."""
    from filelock import FileLock

    from tests.integration.commands import TIMED, distill, small

    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "begun"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            making = folder.with_name("making")
            making.mkdir(exist_ok=True)
            done = distill(*small(*map(request.getfixturevalue, ("beir", "encoder"))), *TIMED, cwd=making)
            assert done.returncode == 0, done.stderr
            making.rename(folder)
    return folder


@pytest.fixture(scope="session")
def bundle(request) -> Path:
    """The bundle of a small experiment; tests that change something change a copy.

    RANKDISTILL_BUNDLE names one that is made already, for an environment that cannot make one (scripts/bench/stack.py).
    """
    if made := os.environ.get("RANKDISTILL_BUNDLE"):
        return Path(made)
    from tests.integration.commands import newest_run

    return newest_run(request.getfixturevalue("begun")) / "bundle"
