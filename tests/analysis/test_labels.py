import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.labels import Scene, overlapping, place

AREA = (0.0, 0.0, 900.0, 500.0)
GAP = 6.0


def scene(anchors, lines=()):
    anchors = np.array(anchors, dtype=float).reshape(-1, 2)
    return Scene(
        anchors=anchors,
        marks=np.hstack([anchors - 8, anchors + 8]),
        lines=np.array(lines, dtype=float).reshape(-1, 4),
        area=AREA,
        gap=GAP,
    )


def clear(one, other, gap):
    """Whether two boxes are at least `gap` apart in x or in y."""
    return (
        one[2] + gap <= other[0]
        or other[2] + gap <= one[0]
        or one[3] + gap <= other[1]
        or other[3] + gap <= one[1]
    )


boxes = st.tuples(*[st.integers(-5, 5)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 1, max(b[1], b[3]) + 1)
)


@given(st.lists(boxes, min_size=1, max_size=4), st.lists(boxes, min_size=1, max_size=4))
def test_boxes_overlap_where_they_share_a_cell(one, other):
    def cells(box):
        return set(itertools.product(range(box[0], box[2]), range(box[1], box[3])))

    expected = [[bool(cells(a) & cells(b)) for b in other] for a in one]
    assert overlapping(np.array(one), np.array(other)).tolist() == expected


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(20, 880), st.integers(60, 440)), min_size=1, max_size=8, unique=True
    )
    # Marks of a figure do not hide one another.
    .filter(
        lambda points: all(
            max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= 20
            for a, b in itertools.combinations(points, 2)
        )
    ),
    st.integers(40, 160),
)
def test_labels_are_inside_and_clear_of_labels_and_marks(points, width):
    made = scene(points)
    found = place([(float(width), 24.0)] * len(points), made)
    np.testing.assert_allclose(found[:, 2:] - found[:, :2], [[width, 24]] * len(points))
    assert (found[:, :2] >= 0).all() and (found[:, 2:] <= AREA[2:]).all()
    for one, other in itertools.combinations(found, 2):
        assert clear(one, other, GAP - 1e-6)
    for label, mark in itertools.product(found, made.marks):
        assert clear(label, mark, GAP - 1e-6)


def test_a_lonely_label_stands_to_the_right_of_its_mark():
    (box,) = place([(100.0, 20.0)], scene([(300, 200)]))
    assert box[0] - 308 >= GAP and box[0] - 308 < GAP + 1
    assert (box[1] + box[3]) / 2 == 200


def test_a_label_leaves_the_lines_free_where_there_is_room():
    upright = [(x - 1, 100, x + 1, 400) for x in (300, 320, 340)]
    made = scene([(300, 250), (320, 250), (340, 250)], upright)
    found = place([(120.0, 24.0)] * 3, made)
    assert not overlapping(found, made.lines).any()


def test_leaders_do_not_cross():
    points = [(300 + 20 * i, 250) for i in range(8)]
    found = place([(120.0, 24.0)] * 8, scene(points))
    starts = [np.clip(p, box[:2], box[2:]) for p, box in zip(points, found, strict=True)]
    steps = np.linspace(0, 1, 400)[:, None]
    ends = np.array(points)
    paths = [a * (1 - steps) + b * steps for a, b in zip(starts, ends, strict=True)]
    for one, other in itertools.combinations(paths, 2):
        assert np.linalg.norm(one[:, None] - other[None], axis=-1).min() > 2


def test_same_scene_gives_the_same_places():
    points = [(400 + 15 * i, 250 + i) for i in range(8)]
    first, second = (place([(90.0, 20.0)] * 8, scene(points)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_no_label_is_no_box():
    assert place([], scene([])).shape == (0, 4)
