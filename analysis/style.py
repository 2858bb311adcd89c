"""The look that all figures share: one style, and for every arm one color and marker for ever.

Arms are told apart by their markers and by direct labels, so that a figure reads in grayscale;
colors help, and are safe for color-blind readers (Okabe and Ito, 2008; the fixed schedules are
shades of its blue, darker the more often they search; the violet was chosen by simulation). Hues
are the arms' alone: what else is told apart (parts of a trial, kinds of sites) has shades.
"""

import textwrap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

INK = "#222222"
"""Text, axes and the edges of markers."""

QUIET = "#6e6e6e"
"""Reference lines and what must not draw the eye."""

SEARCH = "v"
"""The marker of a search, where all marks are of one arm."""

NOTE_PT = 7.9
NOTE_SPACING = 1.15
NOTE_MARGIN = 0.09
"""Of the note at the foot of a figure: size, spacing, and the air around it in inches."""


@dataclass(frozen=True)
class Look:
    """How an arm is drawn; `size` evens out the areas of the markers, in points."""

    color: str
    marker: str
    size: float = 8.0


LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "never": Look("#bbbbbb", "X"),
        "once": Look("#cc79a7", "v"),
        "fixed_8": Look("#c6e2f5", "^"),
        "fixed_4": Look("#7fbfea", "s", 7.0),
        "fixed_2": Look("#0072b2", "p", 8.5),
        "fixed_1": Look("#003a5c", "o", 7.5),
        "adaptive": Look("#d55e00", "*", 12.0),
        "oracle": Look("#009e73", "D", 6.5),
        "settled": Look("#7a4fb5", "P", 9.0),
        "even": Look("#56b4e9", "d"),
        "front": Look("#e69f00", "<"),
        "random": Look("#f0e442", "h", 8.5),
        "ours": Look("#009e73", "o", 7.5),
        "reference": Look("#d55e00", "s", 7.0),
        "dense": Look("#6e6e6e", "o", 7.0),
        "lowrank": Look("#0072b2", "s", 7.0),
        "uniform": Look("#f7dfae", "d"),
        "diffrate": Look("#e69f00", "D", 6.5),
        "both": Look("#009e73", "*", 12.0),
    }
)

CHANGED: Mapping[str, str] = MappingProxyType({"ours": "#a8e0cf", "reference": "#7a3600"})
"""End -> color of the arms that are this end but for a choice: a light and a dark one."""

CHOICES: Mapping[str, str] = MappingProxyType(
    {
        "source": "^",
        "clock": "v",
        "search_split": "D",
        "optimizer": "P",
        "biases": "X",
        "truncation": "h",
    }
)
"""Choice -> marker of the arms that are an end but for this choice."""

OTHER_COLORS = ("#e69f00", "#56b4e9", "#f0e442", "#882255", "#999933", "#ddcc77")
OTHER_MARKERS = ("P", "<", ">", "h", "d", "8")


def look(arm: str) -> Look:
    """Color and marker of an arm: those of `LOOKS`, or for another name what its checksum picks.

    So an arm looks the same in every figure, whatever other arms there are. A last number is no
    part of the name where `LOOKS` has the rest: `adaptive_30` (a budget) looks like `adaptive`,
    `random_2` (a draw) like `random`. `END_but_CHOICE` has a color by its end, a marker by its
    choice.
    """
    end, _, choice = arm.partition("_but_")
    if end in CHANGED and choice in CHOICES:
        return Look(CHANGED[end], CHOICES[choice])
    rest, _, last = arm.rpartition("_")
    for name in (arm, rest if last.isdecimal() else arm):
        if name in LOOKS:
            return LOOKS[name]
    number = zlib.crc32(arm.encode())
    color = OTHER_COLORS[number % len(OTHER_COLORS)]
    return Look(color, OTHER_MARKERS[number // len(OTHER_COLORS) % len(OTHER_MARKERS)])


def dark(color: str) -> tuple[float, ...]:
    """A color for a line: the light ones of the markers, whose edges are dark, would be faint."""
    parts = np.array(to_rgb(color))
    lightness = float(parts @ (0.2126, 0.7152, 0.0722))
    return tuple(parts * min(1.0, 0.5 / lightness))


def shared_style() -> AbstractContextManager[None]:
    """Matplotlib's settings for the time of a `with` block; the global ones stay untouched."""
    settings: dict[str, Any] = {
        "font.size": 9.5,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.6,
        # A label is what the study calls an arm, never a formula.
        "text.parse_math": False,
        # Hinting gives a text another width at each resolution, and labels are placed by width.
        "text.hinting": "none",
        # Text stays text in the PDF, to be searched and edited.
        "pdf.fonttype": 42,
    }
    # From matplotlib's defaults: a reader's own matplotlibrc would change what was looked at.
    return matplotlib.style.context(["default", settings])


def new_axes(width: float = 6.6, height: float = 4.4) -> Axes:
    """Axes in a figure of their own, sizes in inches, with room for a note below.

    They are fixed in their place, since labels are placed by it. The figure belongs to nobody else,
    so nothing has to be closed.
    """
    figure = Figure(figsize=(width, height), dpi=200)
    FigureCanvasAgg(figure)
    return figure.add_axes((0.105, 0.27, 0.80, 0.65))


def new_figure(
    rows: int,
    cols: int,
    *,
    width: float = 6.6,
    height: float = 2.8,
    note: str = "",
    left: float = 0.7,
    right: float = 0.25,
    top: float = 0.4,
    below: float = 0.55,
    across: float = 0.7,
    down: float = 0.75,
    widths: Sequence[float] | None = None,
    heights: Sequence[float] | None = None,
) -> NDArray[Any]:
    """Axes in rows and columns of a figure of their own, fixed in their places; in inches.

    Args:
        rows: of axes.
        cols: of axes.
        width: of the whole figure.
        height: of all axes together with the room between them; the figure is as much higher as
            titles, ticks and the note need.
        note: written below the axes; see `caption`.
        left: room for the ticks and the name of the first column's axes.
        right: room on the other side.
        top: room for titles.
        below: room for the ticks and the name of the last row's axes.
        across: room between columns.
        down: room between rows.
        widths: shares of the columns; equal ones for None.
        heights: shares of the rows.

    Returns:
        An array of `Axes`, (rows, cols).
    """
    wide = _shares(widths, cols, width - left - right - across * (cols - 1))
    high = _shares(heights, rows, height - down * (rows - 1))
    whole = top + height + below + _note_height(note, width)
    figure = Figure(figsize=(width, whole), dpi=200)
    FigureCanvasAgg(figure)
    axes = np.empty((rows, cols), dtype=object)
    for row, col in np.ndindex(rows, cols):
        x = left + sum(wide[:col]) + across * col
        y = whole - top - sum(high[: row + 1]) - down * row
        box = (x / width, y / whole, wide[col] / width, high[row] / whole)
        axes[row, col] = figure.add_axes(box)
    if note:
        caption(axes[0, 0], note)
    return axes


def caption(ax: Axes, note: str) -> None:
    """Write the note of a figure into the room at its foot that `new_figure` left for it."""
    figure = ax.figure
    assert isinstance(figure, Figure)
    figure.text(
        NOTE_MARGIN / figure.get_figwidth(),
        NOTE_MARGIN / figure.get_figheight(),
        _wrapped(note, figure.get_figwidth()),
        gid="note",
        va="bottom",
        fontsize=NOTE_PT,
        color=QUIET,
        linespacing=NOTE_SPACING,
    )


def title(ax: Axes, text: str, **how: Any) -> None:
    """Write a title above axes, smaller where it would not end within the figure."""
    figure = ax.figure
    assert isinstance(figure, Figure)
    written = ax.set_title(text, **how)
    left = ax.get_window_extent().x0 + how.get("x", 0.0) * ax.get_window_extent().width
    there = figure.bbox.x1 - NOTE_MARGIN * figure.dpi - left
    needed = written.get_window_extent().width
    if needed > there:
        written.set_fontsize(written.get_fontsize() * there / needed)


def headline(figure: Figure, text: str) -> None:
    """Write the title of a figure with several panels into its left upper corner."""
    figure.text(
        NOTE_MARGIN / figure.get_figwidth(),
        1 - 0.1 / figure.get_figheight(),
        text,
        va="top",
        fontsize=11,
    )


LONGEST = 36
"""Characters of a label beside an axis."""


def short(label: str) -> str:
    """A label with its end cut off where there would be no room for it; on one line."""
    label = " ".join(label.split())
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "\u2026"


def room(texts: Iterable[str]) -> float:
    """Inches that the longest of some texts takes beside an axis, in small print, with some air."""
    # 0.58 em is more than the mean width of a letter of the font, 7.9 pt its size.
    return max([0.0, *(len(text) for text in texts)]) * 0.58 * NOTE_PT / 72 + 0.2


def spread(at: Sequence[float], gap: float) -> NDArray[np.float64]:
    """Move numbers apart until they differ by `gap` at least, each as little as can be.

    Their order stays: a least-squares (isotonic) fit. For labels in a row or a column.
    """
    places = np.asarray(at, dtype=float)
    if len(places) == 0:
        return places
    order = np.argsort(places, kind="stable")
    # With its steps taken off, what must keep a distance must only keep its order.
    steps = np.arange(len(places)) * gap
    moved = np.empty_like(places)
    moved[order] = isotonic_regression(places[order] - steps).x + steps
    return moved


def _shares(ratios: Sequence[float] | None, count: int, total: float) -> list[float]:
    """What each of `count` rows or columns gets of a total, in inches."""
    parts = [1.0] * count if ratios is None else list(ratios)
    assert len(parts) == count and total > 0, (parts, count, total)
    return [total * part / sum(parts) for part in parts]


def _wrapped(note: str, width: float) -> str:
    """A note in lines that fit a figure of that width; line breaks in it stay."""
    room = int((width - 2 * NOTE_MARGIN) * 72 / (NOTE_PT * 0.54))
    return "\n".join(textwrap.fill(part, width=room) for part in note.splitlines())


def _note_height(note: str, width: float) -> float:
    if not note:
        return 0.0
    lines = _wrapped(note, width).count("\n") + 1
    return lines * NOTE_PT * NOTE_SPACING / 72 * 1.2 + 2 * NOTE_MARGIN


def save(ax: Axes, table: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Write the figure of some axes as PNG and PDF, and the table that it shows as CSV.

    Args:
        ax: what was drawn.
        table: what it shows.
        folder: made if missing.
        name: of the files, without an ending.

    Returns:
        The paths of the three files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("png", "pdf", "csv")]
    figure = ax.figure
    assert isinstance(figure, Figure)
    # Without dates and versions, the same results give the same bytes.
    figure.savefig(paths[0], metadata={"Software": None})
    figure.savefig(paths[1], metadata={"CreationDate": None, "Producer": None, "Creator": None})
    table.to_csv(paths[2], index=False)
    return paths
