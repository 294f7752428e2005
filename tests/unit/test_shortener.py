"""What is kept of a text: against a reference that goes character by character, and what a file of it may be."""

from __future__ import annotations

import itertools
import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.export.bundle.unsafe_files import unsafe_content
from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.text.shortener import Shortener, terms_of

PARTS = [
    "red", "Red", "RED", "car", "lamp", "x9", "a_b", "Straße", "STRASSE", "naïve", "cafe\u0301s", "हिन्दी", "शब्द", "Ω",
    "東", "京", "台灯", "か\u3099", "ー", "\u3099", " ", "  ", ", ", "-", "(", ")", "!", "\n", "❤\ufe0f", "\u0301", "'",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PARTS), max_size=14).map("".join) | st.text(max_size=30)
TERMS = ["red", "car", "strasse", "東", "京", "lamp", "x9"]
SHORTENERS = st.builds(
    Shortener,
    words=st.integers(1, 6),
    weights=st.dictionaries(st.sampled_from(TERMS), st.floats(-3, 3), max_size=len(TERMS)),
    unseen=st.floats(-3, 3),
)


def spans(text: str) -> list[tuple[int, int]]:
    """Where terms stand, without a pattern: a character of CJK or kana, or a stretch of others, with their marks."""
    found: list[tuple[int, int]] = []
    word = False  # whether the last term is one that another letter would go on with
    for at, character in enumerate(text):
        point = ord(character)
        scripts = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
        own = any(low <= point <= high for low, high in scripts)
        mark = 0x300 <= point < 0x10000 and unicodedata.category(character)[0] == "M"
        follows = bool(found) and found[-1][1] == at
        if mark and follows:
            found[-1] = (found[-1][0], at + 1)
        elif own:
            found.append((at, at + 1))
            word = False
        elif character.isalnum() or character == "_":
            if word and follows:
                found[-1] = (found[-1][0], at + 1)
            else:
                found.append((at, at + 1))
            word = True
    return found


def kept(shortener: Shortener, text: str) -> list[int]:
    """Which terms are kept, by asking of each how many others come before it."""
    terms = [text[a:b].casefold() for a, b in spans(text)]
    weight = [shortener.weights.get(term, shortener.unseen) for term in terms]
    firsts = [n for n, term in enumerate(terms) if term not in terms[:n]]
    better = {n: sum(weight[m] > weight[n] or (weight[m] == weight[n] and m < n) for m in firsts) for n in firsts}
    return [n for n in firsts if better[n] < shortener.words]


@given(text=TEXTS)
def test_terms_are_where_they_should_be(text):
    assert terms_of(text) == [(text[a:b].casefold(), a, b) for a, b in spans(text)]


@settings(max_examples=400)
@given(shortener=SHORTENERS, text=TEXTS)
def test_it_keeps_the_best_terms_and_nothing_else(shortener, text):
    found, places = spans(text), kept(shortener, text)
    short = shortener.shorten(text)
    assert [short[a:b] for a, b in spans(short)] == [text[slice(*found[n])] for n in places]
    if places == [*range(len(found))]:
        assert short == text
        return
    expected = text[slice(*found[places[0]])]
    for before, n in itertools.pairwise(places):
        expected += (text[found[before][1] : found[n][0]] if n == before + 1 else " ") + text[slice(*found[n])]
    assert short == expected


@given(shortener=SHORTENERS, text=TEXTS)
def test_a_second_time_changes_nothing(shortener, text):
    short = shortener.shorten(text)
    assert shortener.shorten(short) == short
    assert len(short) <= len(text)


@pytest.mark.parametrize(
    ("words", "text", "short"),
    [
        (2, "LED desk lamp, warm light", "desk lamp"),
        (3, "Toy Story (1995) Animation", "Toy Story (1995"),
        (2, "desk, Desk; DESK! lamp", "desk lamp"),
        (5, "  (desk lamp)! ", "  (desk lamp)! "),
        (3, "LED护眼台灯", "护眼台"),
        (1, "", ""),
    ],
)
def test_examples(words, text, short):
    weights = {"led": -1.0, "warm": -1.0, "light": -1.0}
    assert Shortener(words, weights, 0.0).shorten(text) == short


@given(shortener=SHORTENERS, text=TEXTS)
def test_the_file_gives_the_same_shortener_and_equal_ones_equal_bytes(shortener, text, tmp_path_factory):
    one, other = (tmp_path_factory.mktemp("shortener") / "s.json" for _ in range(2))
    shortener.save(one)
    Shortener(shortener.words, dict(reversed(shortener.weights.items())), shortener.unseen).save(other)
    assert one.read_bytes() == other.read_bytes()
    read = Shortener.load(one)
    read.save(other)
    assert one.read_bytes() == other.read_bytes()
    assert read.weights == pytest.approx(dict(shortener.weights), rel=1e-5)


def test_a_term_may_be_what_is_refused_as_a_name(tmp_path):
    weights = {"auto_map": 1.0, "activation_fn": 2.0, "custom_pipelines": 3.0, "": 4.0}
    Shortener(3, weights, 0.0).save(tmp_path / "shortener.json")
    assert unsafe_content(tmp_path, "shortener.json") is None
    assert Shortener.load(tmp_path / "shortener.json").weights == weights


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"words": 0}, "words is 0"),
        ({"words": "3"}, "words is '3'"),
        ({"unseen": None}, "unseen is None"),
        ({"terms": ["red", "red"]}, "stands there twice"),
        ({"terms": ["red"]}, "1 terms with 2 weights"),
        ({"weights": [1.0, "a"]}, r"weights\[1\] is 'a'"),
        ({"weights": [1.0, float("nan")]}, "NaN"),
    ],
)
def test_another_file_is_refused(tmp_path, change, told):
    content = {"words": 3, "unseen": 0.5, "terms": ["car", "red"], "weights": [1.0, 2.0]} | change
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=rf"s\.json.*{told}"):
        Shortener.load(tmp_path / "s.json")
