"""The look that all figures share: one style, and for every arm one colour and marker for ever.

Arms are told apart by their markers and by direct labels, so that a figure reads in greyscale;
colours help, and are safe for colour-blind readers (Okabe and Ito, 2008; the fixed schedules are
shades of its blue, darker the more often they search).
"""

import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#222222"
"""Text, axes and the edges of markers."""

QUIET = "#6e6e6e"
"""Reference lines and what must not draw the eye."""


@dataclass(frozen=True)
class Look:
    """How an arm is drawn; `size` evens out the areas of the markers, in points."""

    colour: str
    marker: str
    size: float = 8.0


LOOKS: Mapping[str, Look] = MappingProxyType({
    "never": Look("#bbbbbb", "X"),
    "once": Look("#cc79a7", "v"),
    "fixed_8": Look("#c6e2f5", "^"),
    "fixed_4": Look("#7fbfea", "s", 7.0),
    "fixed_2": Look("#0072b2", "p", 8.5),
    "fixed_1": Look("#003a5c", "o", 7.5),
    "adaptive": Look("#d55e00", "*", 12.0),
    "oracle": Look("#009e73", "D", 6.5),
})  # fmt: skip

OTHER_COLOURS = ("#e69f00", "#56b4e9", "#f0e442", "#882255", "#999933", "#ddcc77")
OTHER_MARKERS = ("P", "<", ">", "h", "d", "8")


def look(arm: str) -> Look:
    """Colour and marker of an arm: those of `LOOKS`, or for another name what its checksum picks.

    So an arm looks the same in every figure, whatever other arms there are.
    """
    if arm in LOOKS:
        return LOOKS[arm]
    number = zlib.crc32(arm.encode())
    colour = OTHER_COLOURS[number % len(OTHER_COLOURS)]
    return Look(colour, OTHER_MARKERS[number // len(OTHER_COLOURS) % len(OTHER_MARKERS)])


def shared_style() -> AbstractContextManager[None]:
    """Matplotlib's settings for the time of a `with` block; the global ones stay untouched."""
    settings: dict[str, Any] = {
        "font.size": 9.5, "axes.titlesize": 11, "axes.titlelocation": "left",
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
        "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6,
        # Hinting gives a text another width at each resolution, and labels are placed by width.
        "text.hinting": "none",
        # Text stays text in the PDF, to be searched and edited.
        "pdf.fonttype": 42,
    }  # fmt: skip
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
