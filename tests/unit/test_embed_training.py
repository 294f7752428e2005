"""Training an embedder on a teacher that grades what the texts say: it learns, and goes on where it was killed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rankdistill.data.records import RankingData, Split, TextTable
from rankdistill.embedder.embed_training import CHECKPOINT, Course, lesson, train
from rankdistill.embedder.embedder_model import TextEmbedder, embed, text_encoder, turn
from rankdistill.export.runtime.vectors import prefix
from rankdistill.options import BeirData, DistilledEmbed
from rankdistill.training.device import Device
from tests.conftest import write_beir

DEVICE = Device("cpu", False, "eager")
OPTIONS = DistilledEmbed(
    max_length=24, dimensions=[8], steps=40, batch_queries=6, group_size=4, learning_rate=2e-3, similarity=0.0
)


@pytest.fixture(scope="module")
def course(encoder, tmp_path_factory) -> Course:
    from rankdistill.data import sources

    folder = tmp_path_factory.mktemp("course")
    write_beir(folder / "beir", queries=40, items=60)
    (folder / "data").mkdir()
    sources.locate(BeirData(path=str(folder / "beir"))).write(folder / "data")
    records = RankingData.open(folder / "data")
    model = TextEmbedder.begin(encoder, "mean", None, "eager").eval()
    tokens = text_encoder(encoder, 24)
    queries, items = (prefix(embed(model, tokens, table.texts(), "embed"), 32)
                      for table in (records.queries, records.items))  # fmt: skip
    split = records.splits["train"]
    scores = (2.0 * split.grade - 3).astype(np.float32)
    return Course(split, scores, records.queries, None, records.items, queries, items)


def begin(encoder, course) -> TextEmbedder:
    torch.manual_seed(0)
    model = TextEmbedder.begin(encoder, "mean", None, "eager")
    turn(model, embed(model, text_encoder(encoder, 24), course.items.texts(), "embed"))
    return model


def test_a_lesson_says_of_each_pair_what_is_known(course):
    rng = np.random.default_rng(0)
    known, items = lesson(course, np.array([2, 5]), OPTIONS, rng)
    split = course.split
    for row, number in enumerate((2, 5)):
        pairs = range(split.offsets[number], split.offsets[number + 1])
        scores = {int(split.item[pair]): float(course.scores[pair]) for pair in pairs}
        for place in range(OPTIONS.group_size):
            item = int(items[known.group[row, place]])
            assert float(known.teacher[row, place]) == scores[item]
        best = items[known.group[row, int(known.teacher[row].argmax())]]
        vector = course.query_vectors[split.query[number]]
        for column, item in enumerate(items):
            cosine = float(vector @ course.item_vectors[item])
            assert float(known.similarity[row, column]) == pytest.approx(cosine, abs=1e-6)
            own = column in known.group[row].tolist()
            nearer = cosine >= float(vector @ course.item_vectors[best]) - 1e-6
            assert bool(known.negative[row, column]) == (not own and not nearer)


def test_it_learns_the_teachers_order(encoder, course, tmp_path):
    def agreement(model: TextEmbedder, size: int) -> float:
        tokens = text_encoder(encoder, 24)
        queries = prefix(embed(model, tokens, course.queries.texts(), "embed"), size)
        items = prefix(embed(model, tokens, course.items.texts(), "embed"), size)
        cosines = np.einsum("pd,pd->p", queries[course.split.pair_query()], items[course.split.item])
        return float(np.corrcoef(cosines, course.scores)[0, 1])

    model = begin(encoder, course)
    before = [agreement(model, size) for size in (8, 32)]
    losses = train(model, text_encoder(encoder, 24), course, OPTIONS, DEVICE, 0, tmp_path)
    assert len(losses) == OPTIONS.steps
    assert np.isfinite(losses).all()
    for was, size in zip(before, (8, 32), strict=True):
        assert agreement(model, size) > was + 0.2


def test_a_training_that_was_stopped_ends_as_an_undisturbed_one(encoder, course, tmp_path, monkeypatch):
    from rankdistill.embedder import embed_training

    monkeypatch.setattr(embed_training, "KEEP_EVERY", 3)
    options = replace(OPTIONS, steps=8)
    calm = begin(encoder, course)
    losses = train(calm, text_encoder(encoder, 24), course, options, DEVICE, 0, tmp_path / "calm")
    real, calls = embed_training.embedder_loss, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(embed_training, "embedder_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        train(begin(encoder, course), text_encoder(encoder, 24), course, options, DEVICE, 0, tmp_path / "storm")
    assert (tmp_path / "storm" / CHECKPOINT).is_file()
    monkeypatch.setattr(embed_training, "embedder_loss", real)
    again = begin(encoder, course)
    rest = train(again, text_encoder(encoder, 24), course, options, DEVICE, 0, tmp_path / "storm")
    assert rest == pytest.approx(losses[3:], rel=1e-5)
    for one, other in zip(calm.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-5)


def test_made_queries_stand_behind_the_data_sets_own(course, tmp_path):
    from rankdistill.data.records import TEXT_SCHEMA, ArrowWriter

    writer = ArrowWriter(tmp_path / "made.arrow", TEXT_SCHEMA)
    writer.add("made-0", "flat hat")
    writer.add("made-1", "warm drum")
    writer.close()
    whole = replace(course, made=TextTable.open(tmp_path / "made.arrow"))
    own = len(course.queries)
    assert isinstance(whole.split, Split)
    asked = np.array([1, own + 1, 0, own], dtype=np.int32)
    assert whole.query_texts(asked) == [
        course.queries.texts([1])[0],
        "warm drum",
        course.queries.texts([0])[0],
        "flat hat",
    ]
