import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.export.measure.pareto import front

VALUES = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([math.nan, math.inf, -math.inf, -0.0]))


@st.composite
def tables(draw):
    columns = draw(st.integers(1, 4))
    row = st.lists(VALUES, min_size=columns, max_size=columns)
    return draw(st.lists(row, max_size=12)), draw(st.lists(st.booleans(), min_size=columns, max_size=columns))


def dominates(one, other, maximise):
    better = [a > b if up else a < b for a, b, up in zip(one, other, maximise, strict=True)]
    worse = [a < b if up else a > b for a, b, up in zip(one, other, maximise, strict=True)]
    return any(better) and not any(worse)


@given(tables())
def test_it_is_what_comparing_every_two_rows_finds(table):
    rows, maximise = table
    whole = [row for row in rows if not any(map(math.isnan, row))]
    expected = [row in whole and not any(dominates(other, row, maximise) for other in whole) for row in rows]
    values = np.array(rows, dtype=np.float64).reshape(len(rows), len(maximise))
    assert front(values, maximise).tolist() == expected


@given(tables(), st.randoms())
def test_the_order_of_rows_does_not_matter(table, random):
    rows, maximise = table
    order = list(range(len(rows)))
    random.shuffle(order)
    values = np.array(rows, dtype=np.float64).reshape(len(rows), len(maximise))
    assert front(values[order], maximise).tolist() == front(values, maximise)[order].tolist()


def test_directions_count():
    values = np.array([[0.9, 10.0], [0.8, 5.0], [0.7, 6.0], [0.9, 10.0], [math.nan, 1.0]])
    assert front(values, [True, False]).tolist() == [True, True, False, True, False]
    assert front(values, [True, True]).tolist() == [True, False, False, True, False]
    assert front(values[:, :1], [False]).tolist() == [False, False, True, False, False]


def test_no_rows_have_no_front():
    assert front(np.empty((0, 3)), [True, False, False]).tolist() == []


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((2, 3)), np.zeros((2, 2, 2))])
def test_shapes_that_do_not_fit_are_refused(values):
    with pytest.raises(ValueError, match="a column for each direction"):
        front(values, [True, False])
