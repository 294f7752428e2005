"""Training in steps: the joined batch, what a step weighs, and that a stopped training ends where another does."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import set_seed

from rankdistill.data import beir as beir_data
from rankdistill.data.records import RankingData, Split
from rankdistill.data.tokens import PairTokens, TokenColumn, TokenTable, write
from rankdistill.errors import ConfigError
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from rankdistill.losses import score_losses
from rankdistill.options import Fit, Train
from rankdistill.training.collator import Collator
from rankdistill.training.device import Device
from rankdistill.training.steps import NONE
from rankdistill.training.trainer import train_ranker

TEXTS = st.lists(st.integers(0, 40), min_size=1, max_size=9)


def column(lengths: list[int], start: int) -> TokenColumn:
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    return TokenColumn(np.arange(start, start + offsets[-1], dtype=np.int32), offsets)


@settings(max_examples=200, deadline=None)
@given(queries=TEXTS, items=TEXTS, max_length=st.integers(5, 50), seed=st.integers(0, 99))
def test_the_joined_batch_is_that_of_joining_pair_by_pair(encoder, queries, items, max_length, seed):
    pair_encoder = PairEncoder.load(encoder, max_length)
    table = TokenTable(column(queries, 100), column(items, 5000))
    rng = np.random.default_rng(seed)
    item = rng.integers(0, len(items), 3 * len(queries)).astype(np.int32)
    offsets = np.arange(0, len(item) + 1, 3)
    split = Split(np.arange(len(queries), dtype=np.int32), offsets, item, np.zeros(len(item), np.int32))
    pairs = PairTokens(split, table, pair_encoder)
    rows = rng.permutation(len(pairs))[: rng.integers(0, len(pairs) + 1)]
    wanted = pair_encoder.batch([table.queries[row // 3] for row in rows], [table.items[item[row]] for row in rows])
    found = pairs.batch(rows)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


@pytest.fixture(scope="module")
def data(beir, encoder, tmp_path_factory) -> tuple[PairTokens, PairTokens]:
    folder = tmp_path_factory.mktemp("data")
    for name in ("data", "tokens"):
        (folder / name).mkdir()
    beir_data.prepare(beir, folder / "data", name="b", relevant=1, candidates=50, dev_fraction=0.1, seed=0)
    records = RankingData.open(folder / "data")
    pair_encoder = PairEncoder.load(encoder, 24)
    write(records, pair_encoder, folder / "tokens")
    table = TokenTable.open(folder / "tokens")
    return PairTokens(records.splits["train"], table, pair_encoder), PairTokens(
        records.splits["dev"], table, pair_encoder
    )


def test_every_group_weighs_the_same_however_many_share_its_step(data):
    pairs, _ = data
    teacher = np.random.default_rng(0).normal(size=len(pairs)).astype(np.float32)
    rows = np.arange(18).reshape(6, 3)
    steps = [rows[:1], rows[1:6]]
    collator = Collator(pairs, {"teacher": teacher}, mean_groups=3.0)
    scores = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    total = sum(
        batch["weight"] * score_losses.margin_mse(part, batch["teacher"], batch["mask"])
        for batch, part in zip((collator([step]) for step in steps), (scores[:1], scores[1:]), strict=True)
    )
    together = collator([rows])
    whole = score_losses.margin_mse(scores, together["teacher"], together["mask"])
    torch.testing.assert_close(total / len(steps), whole)


def test_a_batch_holds_what_is_known_and_nothing_where_a_group_is_short(data):
    pairs, _ = data
    known = np.arange(1, len(pairs) + 1, dtype=np.float32)
    batch = Collator(pairs, {"known": known}, 1.0)([np.array([[4, 2], [7, NONE]])])
    assert batch["mask"].tolist() == [[True, True], [True, False]]
    assert batch["known"].tolist() == [[5, 3], [8, 0]]
    assert len(batch["input_ids"]) == 3


class StoppedError(Exception):
    pass


def train(data, encoder, out, *, stop: float | None = None, accumulate: int = 1, **fit):
    pairs, dev = data
    set_seed(0)
    model = ClsOnlyBert.from_pretrained(encoder, num_labels=1, attn_implementation="eager")
    teacher = np.random.default_rng(0).normal(size=len(pairs)).astype(np.float32)

    def watch(share: float, _: float) -> None:
        if stop is not None and share >= stop:
            raise StoppedError

    out.mkdir(exist_ok=True)
    train_ranker(
        model, pairs, dev, {"teacher": teacher},
        lambda scores, batch: score_losses.margin_mse(scores, batch["teacher"], batch["mask"]),
        fit=Fit(**{"epochs": 3, "learning_rate": 1e-3, "group_size": 4, "evaluations": 4, "keep": "last"} | fit),
        train=Train(dropout=0.1, accumulate=accumulate), device=Device("cpu", False, "eager"), seed=0, out=out,
        what="student", watch=watch,
    )  # fmt: skip
    return model.state_dict()


def test_a_training_that_diverges_says_which_option_was_too_large(data, encoder, tmp_path):
    told = r"student: fit\.learning_rate=1e\+30: allowed is less, since by step \d+ of \d+ the training diverged"
    with pytest.raises(ConfigError, match=told):
        train(data, encoder, tmp_path, learning_rate=1e30)


@pytest.mark.parametrize(("tokens", "accumulate"), [(None, 1), (200, 1), (200, 2)])
def test_a_training_that_was_stopped_ends_like_one_that_was_not(data, encoder, tmp_path, tokens, accumulate):
    options = {"accumulate": accumulate, "batch_tokens": tokens}
    whole = train(data, encoder, tmp_path / "whole", **options)
    with pytest.raises(StoppedError):
        train(data, encoder, tmp_path / "stopped", stop=0.7, **options)
    assert list((tmp_path / "stopped").glob("checkpoints/checkpoint-*"))
    resumed = train(data, encoder, tmp_path / "stopped", **options)
    for name, values in whole.items():
        assert torch.equal(values, resumed[name]), name
    results = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "stopped")]
    assert results[0]["steps"] == results[1]["steps"]
    steps = [entry["step"] for entry in results[0]["history"] if "eval_ndcg@10" in entry]
    assert all(later > earlier for earlier, later in pairwise(steps))
    assert len(steps) >= 4
