"""What a search chooses from: Hydra's sweeps as distributions, and choices that Hydra reads back as they were."""

from __future__ import annotations

import math

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rankdistill.errors import ConfigError
from rankdistill.sweep.search_space import Space


def space(*overrides: str) -> Space:
    return Space.of(OverridesParser.create().parse_overrides(list(overrides)))


def read(override: str) -> object:
    """Return the value that Hydra takes from an override."""
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("a=1,2,3", CategoricalDistribution(("1", "2", "3"))),
        ("a=choice(x,y)", CategoricalDistribution(("x", "y"))),
        ("a=null,0.5", CategoricalDistribution(("null", "0.5"))),
        ("a=[1,2],[3]", CategoricalDistribution(("[1,2]", "[3]"))),
        ("a=x,x,y", CategoricalDistribution(("x", "y"))),
        ("a=range(1,7)", IntDistribution(1, 6)),
        ("a=range(3)", IntDistribution(0, 2)),
        ("a=range(1,8,3)", IntDistribution(1, 7, step=3)),
        ("a=range(7,1,-2)", IntDistribution(3, 7, step=2)),
        ("a=shuffle(range(1,7))", IntDistribution(1, 6)),
        ("a=shuffle(x,y,z)", CategoricalDistribution(("x", "y", "z"))),
        ("a=range(5,6)", IntDistribution(5, 5)),
        ("a=interval(0.1,10)", FloatDistribution(0.1, 10)),
        ("a=interval(1,64)", FloatDistribution(1, 64)),
        ("a=int(interval(1,64))", IntDistribution(1, 64)),
        ("a=tag(log,interval(1e-4,1e-3))", FloatDistribution(1e-4, 1e-3, log=True)),
        ("a=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("a=interval(2.5,2.5)", FloatDistribution(2.5, 2.5)),
    ],
)
def test_sweeps_become_distributions(override, distribution):
    assert space(override).distributions == {"a": distribution}


def test_a_range_of_fractions_is_a_choice_of_its_values():
    (distribution,) = space("a=range(0,0.5,0.1)").distributions.values()
    assert [float(value) for value in distribution.choices] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_groups_and_added_options_keep_their_keys():
    found = space("student=l1_h384,l2_h384", "+new=1,2", "++forced=3,4", "schema/data@other=x,y", "b=5")
    assert list(found.distributions) == ["student", "+new", "++forced", "schema/data@other"]
    assert found.overrides({"student": "l2_h384", "+new": "1"}) == ["b=5", "student=l2_h384", "+new=1"]


def test_quoted_values_stay_quoted():
    found = space("a='x, y',\"z = 'w'\",plain", "b='fixed, with = and space'")
    assert [read(f"a={choice}") for choice in found.distributions["a"].choices] == ["x, y", "z = 'w'", "plain"]
    assert read(found.overrides({})[0]) == "fixed, with = and space"


def test_a_deleted_option_is_deleted_in_each_trial():
    (fixed,) = space("a=1,2", "~track").fixed
    override = OverridesParser.create().parse_override(fixed)
    assert (override.is_delete(), override.key_or_group, override.value()) == (True, "track", None)


@pytest.mark.parametrize(
    ("overrides", "fixed", "keys"),
    [
        (("a=1,2", "b=1,2", "a=3"), ["a=3"], ["b"]),
        (("a=3", "a=1,2"), [], ["a"]),
        (("a=3", "b=1,2", "a=4"), ["a=4"], ["b"]),
    ],
)
def test_the_last_override_of_a_key_counts(overrides, fixed, keys):
    found = space(*overrides)
    assert (list(found.fixed), list(found.distributions)) == (fixed, keys)


@pytest.mark.parametrize("overrides", [(), ("a=1", "b='x,y'", "c=[1,2]"), ("a=1,2", "a=1")])
def test_nothing_to_search_is_told_with_an_example(overrides):
    with pytest.raises(ConfigError, match=r"nothing to search.*student=l1_h384,l2_h384"):
        space(*overrides)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("a=interval(3,1)", "low <= high"),
        ("a=tag(log,interval(0,1))", "low > 0"),
        ("a=tag(log,interval(-1,1))", "low > 0"),
        ("a=tag(log,int(interval(0,9)))", "low >= 1"),
        ("a=interval(1,inf)", "its ends must be finite"),
        ("a=interval(nan,1)", "its ends must be finite"),
        ("a=range(1,1)", "it is empty"),
        ("a=range(1,5,-1)", "it is empty"),
        ("student.layers=tag(log,range(1,65))", "log is of an interval"),
        ("student.layers=tag(log,choice(1,2))", "log is of an interval"),
    ],
)
def test_what_is_no_interval_is_named(override, reason):
    with pytest.raises(ConfigError) as told:
        space(override)
    assert str(told.value).startswith(f"{override}: ")
    assert reason in str(told.value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_chosen_number_is_read_back_exactly(value):
    (override,) = Space([], {}).overrides({"a": value})
    found = read(override)
    assert isinstance(found, float)
    assert found == value
    assert math.copysign(1, found) == math.copysign(1, value)


@given(st.integers(-(2**70), 2**70))
def test_a_chosen_whole_number_is_read_back_as_one(value):
    (override,) = Space([], {}).overrides({"a": value})
    found = read(override)
    assert type(found) is int
    assert found == value


WORD = st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=("Cs",)), max_size=12)


@given(st.lists(WORD, min_size=2, max_size=4, unique=True))
def test_any_text_that_is_quoted_is_chosen_as_it_is(texts):
    quoted = [f"'{escaped(text)}'" for text in texts]
    choices = space(f"a={','.join(quoted)}").distributions["a"].choices
    assert [read(f"a={choice}") for choice in choices] == texts


def escaped(text: str) -> str:
    """Escape a text for Hydra's quotes: quotes, and the backslashes before them or at the end."""
    out, slashes = [], 0
    for letter in text:
        if letter == "\\":
            slashes += 1
            continue
        out.append("\\" * (2 * slashes + 1 if letter == "'" else slashes) + letter)
        slashes = 0
    return "".join(out) + "\\" * (2 * slashes)
