"""Layered models: who is passed on, what order comes out, how many must be passed on for a tolerance."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.export.errors import BundleError, UserError
from rankdistill.export.measure.cascade_levels import Asked, Lists, Stage, ladder, lost_share, walk
from rankdistill.export.measure.cut_offs import Needs, expected_loss, loss_bound
from rankdistill.export.runtime.bm25 import Bm25
from rankdistill.export.runtime.cascade import Cascade, Level, read_cascade
from rankdistill.export.runtime.manifest import Manifest
from rankdistill.export.runtime.plan import score
from rankdistill.export.runtime.ranker import Ranker
from rankdistill.export.runtime.shortlist import Cut, Shortlist
from rankdistill.export.serve.scheduling.dispatcher import Dispatcher
from tests.composing import composed

FLOATS = st.floats(-1e4, 1e4, width=32)
CUTS = st.builds(Cut, st.integers(1, 12), st.sampled_from([0.0, 0.5, 3.0, 1e4]))
TEXTS = ["a red lamp", "a red lamp", "blue boat", "red red boat lamp", "", "kite"]


def rising(values: list[float]) -> list[float]:
    return [float(value) for value in np.asarray(values, dtype=np.float32)]


class StubRanker(Ranker):
    """A ranker without a graph: its score is a formula of the texts."""

    def __init__(self, name: str, formula) -> None:
        self.name, self.formula, self.asked, self.closed = name, formula, [], 0

    @property
    def key(self) -> str:
        return self.name

    def score_items(self, query, items):
        self.asked.append(list(items))
        return np.array([self.formula(query, item) for item in items], dtype=np.float32)

    def pairs(self, query, items):
        scores = self.score_items(query, items)
        return SimpleNamespace(scores=scores, tasks=[[row] for row in range(len(items))], run=lambda rows: None)

    def close(self) -> None:
        self.closed += 1


def level(name: str, stages: list[str], cuts: list[Cut], cpu_ms: float = 1.0) -> Level:
    return Level(name, tuple(stages), tuple(cuts), cpu_ms, 0.5, 1.0)


@pytest.fixture
def cascade():
    cheap = StubRanker("cheap", lambda query, item: len(item))
    dear = StubRanker("dear", lambda query, item: -len(item) / 7)
    levels = [
        level("dear", ["dear"], [], 9.0), level("all", ["cheap", "dear"], [Cut(99)], 8.0),
        level("three", ["cheap", "dear"], [Cut(3)], 5.0), level("cheap", ["cheap"], []),
    ]  # fmt: skip
    return Cascade({"cheap": cheap, "dear": dear}, levels, "three")


# ---- who is passed on


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=30), CUTS)
def test_a_cut_passes_on_what_is_within_its_margin_of_its_rank(values, cut):
    values = rising(values)
    passed = cut.passed(np.array(values, dtype=np.float32))
    if len(values) <= cut.rank:
        assert passed.all()
        return
    least = sorted(values, reverse=True)[cut.rank - 1] - cut.margin
    assert passed.tolist() == [value >= least for value in values]
    assert passed.sum() >= cut.rank


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=30), CUTS, st.integers(0, 5), st.floats(0, 10))
def test_a_looser_cut_passes_on_all_that_a_tighter_one_does(values, cut, more, wider):
    values = np.array(values, dtype=np.float32)
    loose = Cut(cut.rank + more, cut.margin + wider)
    assert (loose.passed(values) | ~cut.passed(values)).all()


def test_what_is_no_number_is_passed_on():
    assert Cut(1).passed(np.array([1, np.nan, 0], dtype=np.float32))[1]


# ---- the order that comes out


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_order_is_by_how_far_an_item_came_and_then_by_the_stage_that_saw_it_last(data):
    items = data.draw(st.integers(1, 25))
    stages = data.draw(st.lists(st.lists(FLOATS, min_size=items, max_size=items), min_size=1, max_size=4))
    cuts = data.draw(st.lists(CUTS, min_size=len(stages) - 1, max_size=len(stages) - 1))
    stages = [np.array(values, dtype=np.float32) for values in stages]
    shortlist, came = Shortlist(items), np.zeros(items, dtype=int)
    for place, scores in enumerate(stages):
        came[shortlist.left] = place
        own = scores[shortlist.left]
        if place < len(cuts):
            shortlist.pass_on(own, cuts[place])
    found = shortlist.scores(own)
    wanted = [(int(came[row]), float(stages[came[row]][row])) for row in range(items)]
    assert found.dtype == np.float32
    for one in range(items):
        for other in range(items):
            assert (found[one] < found[other]) == (wanted[one] < wanted[other])
    last = came == len(stages) - 1
    assert found[last].tobytes() == stages[-1][last].tobytes()  # as they are


def test_the_rest_keeps_its_differences_where_float32_can_tell_them():
    shortlist = Shortlist(4)
    shortlist.pass_on(np.array([5.0, 4.0, 2.0, 1.0], dtype=np.float32), Cut(1))
    found = shortlist.scores(np.array([-3.0], dtype=np.float32))
    assert np.diff(found[1:]) == pytest.approx([-2.0, -1.0], abs=1e-6)
    assert found[1] == np.nextafter(np.float32(-3), np.float32(-4))


# ---- the plan


def test_each_stage_is_asked_about_what_is_left(cascade):
    found = score(cascade, "q", ["a", "bbbb", "cc", "ddddd", "eee"])
    assert [stage.asked for stage in cascade.scorers.values()] == [
        [["a", "bbbb", "cc", "ddddd", "eee"]],
        [["bbbb", "ddddd", "eee"]],
    ]
    assert np.argsort(-found).tolist() == [4, 1, 3, 2, 0]


def test_equal_texts_get_equal_scores(cascade):
    found = score(cascade, "q", ["aaa", "bbbb", "cc", "cc", "cc", "d"])
    assert found[2] == found[3] == found[4]


def test_a_dispatcher_gives_the_scores_of_a_library_call(cascade):
    items = [f"item {'x' * (number * 7 % 13)}" for number in range(40)]
    dispatcher = Dispatcher(2)
    found = dispatcher.submit(cascade, "q", items).result(10).scores
    assert dispatcher.close(5)
    assert found.tobytes() == score(cascade, "q", items).tobytes()


def test_bm25_takes_part_without_a_step(cascade):
    counts = Bm25.of([TEXTS])
    plan = Cascade({"bm25": counts, **cascade.scorers}, [level("x", ["bm25", "dear"], [Cut(2)])], "x")
    found = score(plan, "red lamp", TEXTS)
    assert cascade.scorers["dear"].asked == [["a red lamp", "a red lamp", "red red boat lamp"]]
    assert np.argsort(-found, kind="stable").tolist()[3:] == [2, 4, 5]


def test_a_level_of_one_model_is_that_model(cascade):
    alone = cascade.at("dear")
    assert score(alone, "q", ["a", "bb"]).tobytes() == cascade.scorers["dear"].score_items("q", ["a", "bb"]).tobytes()


def test_levels_share_models_and_one_close_closes_them(cascade):
    other = cascade.at("cheap")
    assert other.scorers["dear"] is cascade.scorers["dear"]
    with other:
        pass
    assert [stage.closed for stage in cascade.scorers.values()] == [1, 1]


def test_no_items_and_one_text_in_place_of_them(cascade):
    assert score(cascade, "q", []).shape == (0,)
    with pytest.raises(TypeError, match="items is one str"):
        score(cascade, "q", "items")
    with pytest.raises(BundleError, match="has no level x; it has dear, all, three, cheap"):
        cascade.at("x")


# ---- cut-offs


LISTS = st.lists(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=12), min_size=2, max_size=8
)


def flat(lists) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pairs = np.array([pair for each in lists for pair in each], dtype=np.float32)
    return pairs[:, 0], pairs[:, 1], np.r_[0, np.cumsum([len(each) for each in lists])]


@settings(deadline=None)
@given(LISTS, st.sampled_from(["number", "margin"]), st.integers(1, 6), st.integers(1, 12))
def test_a_loss_is_the_share_of_the_first_that_its_cut_does_not_pass_on(lists, rule, depth, value):
    cheap, last, offsets = flat(lists)
    needs = Needs.of(cheap, last, offsets, rule=rule, depth=depth)
    wanted = []
    for start, stop in itertools.pairwise(offsets):
        first = sorted(range(start, stop), key=lambda row: (-last[row], row))[:depth]
        passed = needs.cut(value).passed(cheap[start:stop])
        wanted.append(np.mean([not passed[row - start] for row in first]))
    assert needs.losses(value) == pytest.approx(wanted)
    found, _ = walk([cheap, last], [needs.cut(value)], offsets)
    if len(set(last.tolist())) == len(last):  # of ties among the last's first, others may be first in the cascade
        lost = lost_share(found, last, offsets, depth)
        assert lost <= np.mean(wanted) + 1e-9  # where fewer than `depth` are passed on, others fill the first places
        passed = [needs.cut(value).passed(cheap[start:stop]) for start, stop in itertools.pairwise(offsets)]
        if all(each.sum() >= min(depth, len(each)) for each in passed):
            assert lost == pytest.approx(np.mean(wanted))


@settings(deadline=None)
@given(LISTS, st.sampled_from(["number", "margin"]), st.integers(1, 6), st.floats(0.05, 0.95))
def test_the_tightest_cut_that_keeps_the_tolerance_is_chosen(lists, rule, depth, tolerance):
    cheap, last, offsets = flat(lists)
    needs = Needs.of(cheap, last, offsets, rule=rule, depth=depth)
    values = np.unique(needs.values[~np.isnan(needs.values)])
    kept = [
        max(expected_loss(needs.losses(value)), loss_bound(needs.losses(value), 0.9)) <= tolerance for value in values
    ]
    chosen = needs.choose(tolerance, 0.9)
    tight = next((value for place, value in enumerate(values) if all(kept[place:])), None)
    assert (None if chosen is None else chosen.cut) == (None if tight is None else needs.cut(tight))


def test_the_expected_loss_is_held_below_the_tolerance():
    """Conformal risk control: over many calibrations the mean loss of a further query is at most the tolerance."""
    rng = np.random.default_rng(0)
    tolerance, found = 0.1, []
    for _ in range(400):
        last = rng.normal(size=60 * 20)
        cheap = last + 0.6 * rng.normal(size=len(last))
        needs = Needs.of(cheap, last, np.arange(0, len(last) + 1, 20), rule="margin", depth=5)
        chosen = replace(needs, values=needs.values[:40]).choose(tolerance, 0.01)  # the bound asks for nothing
        assert expected_loss(needs.losses(chosen.cut.margin)[:40]) <= tolerance
        found.append(needs.losses(chosen.cut.margin)[40:].mean())
    assert np.mean(found) <= tolerance + 2 * np.std(found) / math.sqrt(len(found))
    assert np.mean(found) >= tolerance - 0.05  # and no more is passed on than must be


def test_the_expected_loss_is_the_papers_formula():
    losses = np.array([0.0, 0.2, 0.7])
    assert expected_loss(losses) == pytest.approx(3 / 4 * 0.3 + 1 / 4)


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95])
def test_the_bound_holds_for_the_mean_of_as_many_further_losses(confidence):
    rng = np.random.default_rng(1)
    held = [rng.normal(0.3, 0.1, 25).mean() <= loss_bound(rng.normal(0.3, 0.1, 25), confidence) for _ in range(4000)]
    assert np.mean(held) == pytest.approx(confidence, abs=0.02)  # exact where losses are normal


@settings(deadline=None)
@given(LISTS, st.sampled_from(["number", "margin"]), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
def test_the_losses_of_two_cuts_bound_those_of_both(lists, rule, depth, one, other):
    cheap, last, offsets = flat(lists)
    middle = np.roll(cheap, 1) + 0.25 * cheap
    last = last + np.linspace(0, 0.1, len(last), dtype=np.float32)  # no ties
    stages = [cheap, middle.astype(np.float32), last]
    needs = [Needs.of(each, last, offsets, rule=rule, depth=depth) for each in stages[:2]]
    found, _ = walk(stages, [needs[0].cut(one), needs[1].cut(other)], offsets)
    bound = needs[0].losses(one).mean() + needs[1].losses(other).mean()
    assert lost_share(found, last, offsets, depth) <= bound + 1e-9


def made(noise: float, queries: int = 120, items: int = 30, seed: int = 0) -> tuple[Stage, Stage, Lists, Lists]:
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(2):
        last = rng.normal(size=queries * items).astype(np.float32)
        grades = (last + rng.normal(size=len(last)) > 1.5).astype(int)
        cheap = (last + noise * rng.normal(size=len(last))).astype(np.float32)
        parts.append((cheap, last, Lists(grades, np.arange(0, len(last) + 1, items))))
    (cheap, last, dev), (cheap_test, last_test, test) = parts
    return Stage("student", cheap, cheap_test, 1.0), Stage("teacher", last, last_test, 10.0), dev, test


@pytest.mark.parametrize("rule", ["number", "margin"])
def test_levels_fall_from_the_dearest_to_the_cheapest_and_keep_their_tolerances(rule):
    student, teacher, dev, test = made(0.3)
    found = ladder([student, teacher], dev, test, Asked(rule, 5, 0.1, 0.9, (0.05, 0.2)))
    levels = found["levels"]
    assert [each["name"] for each in levels] == [
        "teacher", "student+teacher@0.05", "student+teacher@0.1", "student+teacher@0.2", "student",
    ]  # fmt: skip
    assert found["default"] == "student+teacher@0.1"
    assert sorted((each["cpu_ms"] for each in levels), reverse=True) == [each["cpu_ms"] for each in levels]
    for each in levels[1:-1]:
        assert max(each["promised"].values()) <= each["tolerance"]
        assert each["lost"]["measured"] <= each["tolerance"]
        assert each["cpu_ms"] == pytest.approx(30 + 10 * each["items"]["dev"][1], rel=1e-3)
    assert levels[0]["retention"] == 1.0


def test_too_few_queries_a_dear_first_stage_and_a_tolerance_that_saves_nothing_are_told():
    student, teacher, dev, test = made(0.3, queries=10)
    few = ladder([student, teacher], dev, test, Asked("margin", 5, 0.05, 0.9, ()))
    assert (few["default"], few["warnings"][0]) == (
        "teacher", "10 dev queries do not show a cut with tolerance 0.05"
    )  # fmt: skip
    dear = ladder([replace(student, ms_per_pair=20.0), teacher], dev, test, Asked("margin", 5, 0.5, 0.9, ()))
    assert [each["name"] for each in dear["levels"]] == ["teacher"]
    assert "student alone takes as much CPU time as teacher" in dear["warnings"][0]


# ---- BM25


def test_bm25_is_that_of_an_index_over_the_catalogue():
    import bm25s

    rng = np.random.default_rng(0)
    words = "red blue green lamp boat kite the a of 灯 船".split()
    texts = [" ".join(rng.choice(words, rng.integers(1, 15))) for _ in range(60)]
    index, counts = bm25s.BM25(), Bm25.of([texts[:25], texts[25:]])
    index.index([text.split() for text in texts], show_progress=False)
    for query in ("red lamp", "the kite of 灯", "boat boat"):
        assert counts.scores(query, texts) == pytest.approx(index.get_scores(query.split()), abs=1e-5)


def test_bm25_of_texts_that_no_catalogue_has_and_of_an_empty_query():
    counts = Bm25.of([["red lamp", "blue lamp"]])
    known, new = counts.scores("lamp zebra", ["lamp", "Zebra"])
    assert new > known > 0  # a word of no text weighs most
    assert counts.scores("", ["lamp"]).tolist() == counts.scores("kite", ["lamp"]).tolist() == [0.0]
    with pytest.raises(ValueError, match="without texts"):
        Bm25.of([[]])


def test_bm25_is_read_as_it_was_written(tmp_path):
    counts = Bm25.of([TEXTS])
    counts.save(tmp_path / "x.json")
    again = Bm25.load(tmp_path / "x.json")
    assert again == counts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"terms": ["a", "a"], "counts": [1, 1]}, "2 terms, 1 of them different"),
        ({"terms": ["a"], "counts": [9]}, "a term stands in 9 of 2 texts"),
        ({"mean_terms": -1}, "mean_terms is -1"),
    ],
)
def test_a_wrong_catalogue_is_refused(tmp_path, change, said):
    content = {"texts": 2, "mean_terms": 1.0, "terms": ["a"], "counts": [1]} | change
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=said):
        Bm25.load(tmp_path / "x.json")


# ---- what is refused


def manifest_with(folder: Path, change: dict) -> Manifest:
    one = {"name": "a", "stages": ["a"], "cuts": [], "cpu_ms": 1, "ndcg@10": 0.5, "retention": 1}
    stages = [{"name": name, "kind": "bm25", "variant": None} for name in ("a", "b")]
    path = folder / "cascade.json"
    path.write_text(json.dumps({"stages": stages, "levels": [one], "default": "a"} | change))
    entry = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    return Manifest(folder, {"files": {"cascade.json": entry}}, ())


LEVEL = {"name": "x", "stages": ["a", "b"], "cuts": [], "cpu_ms": 1, "ndcg@10": 0.5, "retention": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages": [{"name": "a", "kind": "bm25", "variant": None}]}, "a cascade has at least two"),
        ({"stages": [{"name": "../a", "kind": "bm25", "variant": None}]}, r"stages\[0\].name is '../a'"),
        ({"default": "z"}, "default is z"),
        ({"levels": [LEVEL], "default": "x"}, "the level x has 0 cuts for 2 stages"),
        ({"levels": [LEVEL | {"stages": ["b", "a"]}], "default": "x"}, "in this order"),
        ({"levels": [LEVEL | {"stages": []}], "default": "x"}, r"the level x uses \[\]"),
        ({"levels": [LEVEL | {"cuts": [{"rank": 0, "margin": 0}]}], "default": "x"}, "rank is 0, not a whole number"),
    ],
)
def test_a_wrong_cascade_is_refused(tmp_path, change, said):
    with pytest.raises(BundleError, match=said):
        read_cascade(manifest_with(tmp_path, change))


def test_levels_that_do_not_fall_and_a_bundle_without_a_cascade_are_refused(tmp_path):
    cheap, dear = (LEVEL | {"name": name, "stages": ["a"], "cpu_ms": cost} for name, cost in (("x", 1), ("y", 2)))
    with pytest.raises(BundleError, match="from the dearest to the cheapest"):
        read_cascade(manifest_with(tmp_path, {"levels": [cheap, dear], "default": "x"}))
    with pytest.raises(BundleError, match=r"has no cascade\.json: it was made with cascade=none"):
        read_cascade(Manifest(tmp_path, {"files": {}}, ()))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["cascade.tolerance=0"], "cascade.tolerance=0.0: allowed is a number between 0 and 1"),
        (["cascade.tolerance=1"], "cascade.tolerance=1.0: allowed is a number between 0 and 1"),
        (["cascade.ladder=[0.1,2]"], r"cascade.ladder=\[0.1, 2.0\]: allowed is numbers between 0 and 1"),
        (["cascade.confidence=1.5"], "cascade.confidence=1.5: allowed"),
        (["cascade.rule=top"], "cascade.rule=top: allowed is one of number, margin"),
        (["cascade.depth=0"], "cascade.depth=0: allowed is a number >= 1"),
        (["cascade.last=student"], "cascade.last=student: allowed is one of int8, weight8, fp32"),
        (["cascade.last=int8", "quantize=none"], "cascade.last=int8: allowed is fp32 with quantize=none"),
        (["cascade.last=int8", "quantize=weight8"], "cascade.last=int8: allowed is fp32 or weight8"),
        (["student.input.fields=title"], "student.input.fields=title: allowed is all with cascade=layered"),
        (
            ["cascade.first=embedding"],
            "cascade.first=embedding: allowed is null, bm25, a bundle or a run with embed=none",
        ),
        (
            ["cascade.first=/nonexistent/run"],
            "cascade.first=/nonexistent/run: allowed is null, bm25, embedding, a bundle, or",
        ),
    ],
)
def test_a_mistake_names_its_option_before_anything_is_trained(overrides, said):
    with pytest.raises(UserError, match=said):
        composed("cascade=student_teacher", *overrides)


def test_bm25_is_but_another_first_stage():
    one, other = composed("cascade=student_teacher"), composed("cascade=bm25_student_teacher")
    assert replace(one.cascade, first="bm25") == other.cascade


@pytest.mark.parametrize("embed", ["pca", "distilled"])
def test_the_embedder_is_but_another_first_stage(embed):
    one = composed("cascade=student_teacher", f"embed={embed}")
    other = composed("cascade=embedding_student_teacher", f"embed={embed}")
    assert replace(one.cascade, first="embedding") == other.cascade
