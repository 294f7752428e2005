"""The cosine of query and item as a stage: that of the embedder, whoever computes it, kept or made anew."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.export.runtime.cascade import Cascade, Level
from rankdistill.export.runtime.manifest import Variant
from rankdistill.export.runtime.plan import OneModel, score
from rankdistill.export.runtime.shortlist import Cut
from rankdistill.export.runtime.similarity_stage import Nearness
from rankdistill.export.serve.caching.score_cache import Cached, ScoreCache
from rankdistill.export.serve.scheduling.dispatcher import Dispatcher
from tests.embedders import load, texts, write_checkpoint, write_graphs

VARIANT = Variant("fp32", "embedder/model.onnx", "fp32", (), 1, False, False, ())
ITEMS = [*texts(30), "", "红色 🚀", "red " * 200]
ONE_ITEM = 32 + 250  # bytes of an int8 vector of the tests' width and of the objects around it


@pytest.fixture(scope="module")
def parts(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedder")
    write_checkpoint(encoder, folder / "checkpoint")
    write_graphs(folder / "checkpoint", folder / "graphs")
    return folder / "checkpoint", folder / "graphs"


@pytest.fixture
def make(parts):
    made = []

    def one(keep_mb: float = 1.0, threads: int = 1) -> Nearness:
        made.append(Nearness(load(*parts, threads=threads), VARIANT, keep_mb))
        return made[-1]

    yield one
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def embedded(parts):
    """Counts the texts that an embedder is asked to embed."""

    def counting(nearness: Nearness) -> list[int]:
        counted, real = [], nearness.embedder.vectors

        def vectors(ids):
            counted.append(len(ids))
            return real(ids)

        nearness.embedder.vectors = vectors
        return counted

    return counting


@pytest.mark.parametrize("threads", [1, 3])
def test_scores_are_the_cosines_of_the_embedders_vectors(make, threads):
    nearness = make(threads=threads)
    found = nearness.score_items("red car", ITEMS)
    vectors = nearness.embedder.embed(["red car", *ITEMS])
    assert found.dtype == np.float32
    assert found == pytest.approx(vectors[1:] @ vectors[0], abs=0.02)  # items' vectors are kept in 8 bits
    assert (np.abs(found) <= 1 + 1e-6).all()


def test_an_item_that_was_seen_is_not_embedded_again(make, embedded):
    nearness = make()
    counted = embedded(nearness)
    first = nearness.score_items("red car", ITEMS)
    again = nearness.score_items("red car", ITEMS[::-1])
    assert counted == [1 + len({*ITEMS}), 1]  # the query alone
    assert again[::-1].tobytes() == first.tobytes()
    nearness.score_items("blue lamp", ["blue lamp", "new thing", "new thing"])
    assert counted[2:] == [2]


@settings(deadline=None, max_examples=25)
@given(rows=st.lists(st.integers(0, len(ITEMS) - 1), min_size=1, max_size=12), keep_mb=st.sampled_from([0.0, 0.002, 1]))
def test_a_score_is_bitwise_the_same_in_any_company_and_from_any_store(parts, rows, keep_mb):
    nearness = Nearness(load(*parts), VARIANT, keep_mb)
    alone = [nearness.score_items("red car", [ITEMS[row]])[0] for row in rows]
    assert nearness.score_items("red car", [ITEMS[row] for row in rows]).tolist() == alone
    nearness.close()


def test_memory_stays_within_its_bound(make):
    nearness = make(keep_mb=10 * (ONE_ITEM + 60) / 1e6)
    for start in range(0, 30, 5):
        nearness.score_items("red", ITEMS[start : start + 5])
        assert 0 < nearness.kept.bytes <= nearness.kept.most_bytes
    assert 5 <= len(nearness.kept) < 30
    none = make(keep_mb=0)
    none.score_items("red", ITEMS)
    assert len(none.kept) == 0


def test_a_query_is_kept_only_where_it_is_an_item_too(make):
    nearness = make()
    nearness.score_items("red car", ["lamp"])
    nearness.score_items("kite", ["kite", "lamp"])
    assert nearness.kept.known(["red car", "kite", "lamp"])[0] is None
    assert len(nearness.kept) == 2


def test_a_dispatcher_and_a_cache_give_the_scores_of_a_library_call(make):
    nearness, dispatcher = make(), Dispatcher(2)
    expected = make().score_items("red car", ITEMS).tobytes()
    plans = [OneModel(nearness), Cached(OneModel(nearness), ScoreCache(1 << 20))]
    for plan in [*plans, *plans]:
        assert dispatcher.submit(plan, "red car", ITEMS).result(20).scores.tobytes() == expected
    assert dispatcher.submit(plans[0], "red car", []).result(20).scores.shape == (0,)
    assert dispatcher.close(5)


def test_it_passes_on_what_is_near_as_a_stage_of_a_cascade(make):
    near, after = make(), make()
    levels = [
        Level("both", ("near", "after"), (Cut(4),), 2.0, 1.0, 1.0),
        Level("near", ("near",), (), 1.0, 1.0, 1.0),
    ]
    cascade = Cascade({"near": near, "after": after}, levels, "both")
    expected = make().score_items("red car", ITEMS)
    order = np.argsort(-score(cascade, "red car", ITEMS), kind="stable").tolist()
    assert order[:4] == np.argsort(-expected, kind="stable")[:4].tolist()
    assert score(cascade.at("near"), "red car", ITEMS).tobytes() == expected.tobytes()
    cascade.close()
    with pytest.raises(RuntimeError, match="closed"):
        score(cascade.at("near"), "red car", ITEMS)


def test_many_threads_get_the_same_scores_while_vectors_are_forgotten(make):
    nearness = make(keep_mb=0.003)
    expected = dict(zip(ITEMS, make().score_items("red car", ITEMS).tolist(), strict=True))

    def work(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        asked = [[ITEMS[row] for row in rng.integers(0, len(ITEMS), 5)] for _ in range(20)]
        return all(
            nearness.score_items("red car", each).tolist() == [expected[text] for text in each] for each in asked
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_scores_the_same_though_the_parent_was_keeping(make):
    nearness = make()
    expected = nearness.score_items("red car", ITEMS[:5]).tobytes()
    with nearness.kept._lock:  # as a thread of the parent may hold it at that moment
        pid = os.fork()
        if not pid:
            same = nearness.score_items("red car", ITEMS[:5]).tobytes() == expected
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_is_no_text_is_refused(make):
    nearness = make()
    with pytest.raises(TypeError, match="items is one str"):
        nearness.score_items("q", "items")
    with pytest.raises(TypeError, match="a text is a int: 3"):
        nearness.score_items("q", ["a", 3])
    assert nearness.score_items("q", []).shape == (0,)
