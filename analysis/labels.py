"""Direct labels that do not overlap: a small, deterministic placement.

A label may stand in many places around its anchor. A place costs what the label covers there
(other labels, marks, lines), what its leader crosses, and its distance. Labels take their cheapest
places one after another, then again with all the others fixed, until none moves.

Boxes are rows (left, bottom, right, top); points are rows (x, y); both in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import NDArray

from analysis import style

Array = NDArray[np.float64]

_ANGLES = np.deg2rad([a * sign for a in range(0, 181, 15) for sign in (1, -1)])
"""To the right first, to the left last, as the eye expects labels."""
_SWEEPS = 10
_SHUFFLES = 20
_KEPT = 800
"""Places of a label that are looked at together with other labels: the best ones alone."""

# Prices in rings of distance, each far above the next: what must not be, what should not be.
_OUTSIDE, _ON_LABEL, _ON_MARK, _CROSSING, _ON_LINE, _AMBIGUOUS = 1e7, 1e6, 1e5, 1e4, 1e3, 8.0


@dataclass(frozen=True)
class Scene:
    """What the labels have to respect.

    Attributes:
        anchors: the center of each mark that gets a label; n points.
        marks: boxes of those marks, in the same order, then of any others; m >= n boxes.
        lines: thin boxes that a label should not cover, though its leader may cross them.
        area: the box in which the labels stay.
        gap: least space between a label and anything else.
    """

    anchors: Array
    marks: Array
    lines: Array
    area: tuple[float, float, float, float]
    gap: float


def annotate(ax: Axes, texts: Sequence[str], scene: Scene) -> None:
    """Write a label beside each mark, with a thin leader to it where they stand apart.

    The axes must have their final limits and their final place in the figure. The artists get their
    text as group id (`label:TEXT`).

    Args:
        ax: where the marks are.
        texts: one a mark.
        scene: anchors and obstacles.
    """
    canvas = ax.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    sizes = []
    for text in texts:
        probe = ax.text(0, 0, text)
        extent = probe.get_window_extent(canvas.get_renderer())
        probe.remove()
        sizes.append((extent.width, extent.height))
    boxes = place(sizes, scene)
    starts = [leader_start(b[None], a)[0] for b, a in zip(boxes, scene.anchors, strict=True)]
    points = 72 / canvas.figure.dpi
    for index, (text, box, start) in enumerate(zip(texts, boxes, starts, strict=True)):
        anchor, radius = scene.anchors[index], _radius(scene, index)
        apart = float(np.linalg.norm(anchor - start)) > radius + 2 * scene.gap
        led = apart or bool(_ambiguous(box[None], scene, index)[0])
        # In points from the mark, so that the figure can be saved at any resolution.
        offset = (box[:2] - anchor) * points
        at = ax.transData.inverted().transform(anchor)
        leader = {
            "arrowstyle": "-",
            "linewidth": 0.7,
            "color": style.QUIET,
            "shrinkA": 0.0,
            "shrinkB": radius * points + 0.5,
            "relpos": tuple((start - box[:2]) / (box[2:] - box[:2])),
        }
        ax.annotate(
            text,
            tuple(at),
            xytext=tuple(offset),
            textcoords="offset points",
            ha="left",
            va="bottom",
            gid=f"label:{text}",
            zorder=5,
            annotation_clip=False,
            arrowprops=leader if led else None,
            # What it cannot help but cover must not strike it through.
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.5},
        )


def place(sizes: Sequence[tuple[float, float]], scene: Scene) -> Array:
    """Find a box for each label; as good as there is room for, so the caller may want to look.

    Args:
        sizes: (width, height) of each label; n of them.
        scene: anchors and obstacles.

    Returns:
        n boxes.
    """
    assert len(sizes) == len(scene.anchors) <= len(scene.marks)
    places = [_places(size, scene, index) for index, size in enumerate(sizes)]
    alone = [_cost_alone(boxes, scene, index) for index, boxes in enumerate(places)]
    kept = [np.argsort(cost, kind="stable")[:_KEPT] for cost in alone]
    places = [boxes[keep] for boxes, keep in zip(places, kept, strict=True)]
    alone = [cost[keep] for cost, keep in zip(alone, kept, strict=True)]
    # Who comes first takes the good places, so several orders are tried: more where it is crowded.
    across, upward = np.argsort(scene.anchors, axis=0, kind="stable").T
    orders = [across, across[::-1], upward, upward[::-1]]
    shuffle = np.random.default_rng(0).permutation
    orders += [shuffle(len(places)) for _ in range(_SHUFFLES)]
    best, least = np.empty((0, 4)), np.inf
    for number, order in enumerate(orders):
        if number >= 4 and least < _ON_LINE:
            break
        cost, boxes = _descend(places, alone, scene, order.tolist())
        if cost < least:
            best, least = boxes, cost
    return best


def _descend(
    places: Sequence[Array], alone: Sequence[Array], scene: Scene, order: Sequence[int]
) -> tuple[float, Array]:
    """Place labels in an order, and again until none moves.

    Args:
        places: the boxes that each label may take.
        alone: what each of them costs by itself.
        scene: anchors and obstacles.
        order: of the labels.

    Returns:
        The sum of what all labels cost, and their n boxes.
    """
    chosen = np.full((len(places), 4), np.nan)
    costs = np.zeros(len(places))
    for _ in range(_SWEEPS):
        before = chosen.copy()
        for index in order:
            others = [i for i in order if i != index and not np.isnan(chosen[i, 0])]
            cost = alone[index] + _cost_together(
                places[index], scene, index, chosen[others], others
            )
            best = int(np.argmin(cost))
            chosen[index], costs[index] = places[index][best], cost[best]
        if np.array_equal(before, chosen):
            break
    return float(costs.sum()), chosen


def leader_start(boxes: Array, anchor: Array) -> Array:
    """The point of each box that is nearest to the anchor: where its leader begins; (k, 2)."""
    return np.clip(anchor, boxes[:, :2], boxes[:, 2:])


def overlapping(one: Array, other: Array) -> NDArray[np.bool_]:
    """Which boxes overlap which: (k, l) for k and l boxes. To touch is not to overlap."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    return (low[..., 0] < high[..., 0]) & (low[..., 1] < high[..., 1])


def _places(size: tuple[float, float], scene: Scene, index: int) -> Array:
    """All boxes that a label may take: rings around its anchor, nearest first; (k, 4)."""
    direction = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
    # The half size is added in full for a range of angles: labels stand flush beside marks.
    flush = np.clip(direction * 1.5, -1, 1) * np.array(size) / 2
    # A hair more than the gap, since to stand exactly at it is a matter of rounding.
    radii = _radius(scene, index) + scene.gap * np.arange(1.01, 60)
    centers = scene.anchors[index] + radii[:, None, None] * direction + flush
    centers = centers.reshape(-1, 2)
    return np.hstack([centers - np.array(size) / 2, centers + np.array(size) / 2])


def _cost_alone(boxes: Array, scene: Scene, index: int) -> Array:
    """What each place costs whatever the other labels do; (k,)."""
    wide = _widen(boxes, scene.gap)
    area = np.array(scene.area)
    outside = np.maximum(area[:2] - boxes[:, :2], 0).sum(axis=1)
    outside += np.maximum(boxes[:, 2:] - area[2:], 0).sum(axis=1)
    start = leader_start(boxes, scene.anchors[index])
    others = np.delete(scene.marks, index, axis=0)
    # Places come ring by ring; within a ring, in the order of preference.
    cost: Array = (
        np.arange(len(boxes)) / len(_ANGLES)
        + _OUTSIDE * outside
        + _ON_MARK * overlapping(wide, scene.marks).sum(axis=1)
        + _CROSSING * _crossed(start, scene.anchors[index], others).sum(axis=1)
        + _ON_LINE * overlapping(wide, scene.lines).sum(axis=1)
        + _AMBIGUOUS * _ambiguous(boxes, scene, index)
    )
    return cost


def _ambiguous(boxes: Array, scene: Scene, index: int) -> NDArray[np.bool_]:
    """Whether a label in each place is about as near to another mark as to its own; (k,)."""
    centers = (scene.marks[:, :2] + scene.marks[:, 2:]) / 2
    nearest = np.clip(centers[None], boxes[:, None, :2], boxes[:, None, 2:])
    distances = np.linalg.norm(nearest - centers, axis=-1)
    others = np.delete(distances, index, axis=1)
    unclear: NDArray[np.bool_] = (others < 1.6 * distances[:, [index]]).any(axis=1)
    return unclear


def _radius(scene: Scene, index: int) -> float:
    mark = scene.marks[index]
    return float(max(mark[2:] - mark[:2])) / 2


def _cost_together(
    boxes: Array, scene: Scene, index: int, labels: Array, owners: Sequence[int]
) -> Array:
    """What each place costs because of labels that stand already; (k,).

    Args:
        boxes: the places.
        scene: anchors and obstacles.
        index: whose places they are.
        labels: boxes of the other labels.
        owners: the indices of the others.
    """
    anchor = scene.anchors[index]
    wide, start = _widen(boxes, scene.gap), leader_start(boxes, anchor)
    others = scene.anchors[owners]
    starts = np.array([leader_start(b[None], a)[0] for b, a in zip(labels, others, strict=True)])
    starts = starts.reshape(-1, 2)
    crossing = _crossed(start, anchor, _widen(labels, scene.gap / 2)).sum(axis=1)
    crossing = crossing + _crossed(starts, others, wide).sum(axis=0)
    for first, last in zip(starts, others, strict=True):
        crossing = crossing + _intersect(start, anchor, first, last)
    cost: Array = _ON_LABEL * overlapping(wide, labels).sum(axis=1) + _CROSSING * crossing
    return cost


def _widen(boxes: Array, by: float) -> Array:
    return boxes + np.array([-by, -by, by, by])


def _crossed(starts: Array, ends: Array, boxes: Array) -> NDArray[np.bool_]:
    """Which of k segments meet which of m boxes: (k, m), by the separating axis theorem.

    Args:
        starts: k points.
        ends: k points, or one for all.
        boxes: m boxes.
    """
    center, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = ((ends - starts) / 2)[:, None]
    middle = ((ends + starts) / 2)[:, None] - center
    near = (np.abs(middle) < extent + np.abs(half)).all(axis=-1)
    turn = np.abs(middle[..., 0] * half[..., 1] - middle[..., 1] * half[..., 0])
    reach = extent[:, 0] * np.abs(half[..., 1]) + extent[:, 1] * np.abs(half[..., 0])
    crossed: NDArray[np.bool_] = near & (turn <= reach)
    return crossed


def _intersect(start: Array, end: Array, first: Array, last: Array) -> NDArray[np.bool_]:
    """Whether the segments start-end (k of them) properly cross the segment first-last; (k,)."""

    def side(a: Array, b: Array, p: Array) -> Array:
        ab, ap = b - a, p - a
        turn: Array = ab[..., 0] * ap[..., 1] - ab[..., 1] * ap[..., 0]
        return turn

    apart = side(first, last, start) * side(first, last, end) < 0
    across = side(start, end, first) * side(start, end, last) < 0
    crossing: NDArray[np.bool_] = apart & across
    return crossing
