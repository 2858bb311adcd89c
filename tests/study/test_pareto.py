import math

from hypothesis import given
from hypothesis import strategies as st

from study.pareto import on_front

points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(points)
def test_the_front_is_what_no_other_point_dominates(found):
    expected = [not any(a <= x and b <= y and (a, b) != (x, y) for a, b in found) for x, y in found]
    assert on_front(found) == expected


def test_a_point_without_numbers_is_on_no_front_and_dominates_none():
    assert on_front([(math.nan, -1), (1, -0.5), (2, math.nan)]) == [False, True, False]
    assert on_front([(math.nan, math.nan)]) == [False]
    assert on_front([]) == []
