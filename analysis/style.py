"""Look of the figures: one style, and a color and a marker for every arm.

Arms are told apart by their markers as well, so that figures read in grayscale. Colors are safe for
color-blind readers (Okabe and Ito, 2008); the fixed schedules are shades of one blue, darker the
more often they search. Hues belong to arms: parts of a trial or kinds of sites have shades of gray.
"""

import re
import textwrap
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from adacomcat.files import replacing

INK = "#222222"
"""Text, axes and the edges of markers."""

QUIET = "#6e6e6e"
"""Reference lines and secondary text."""

SETTINGS: Mapping[str, Any] = MappingProxyType(
    {
        "font.size": 9.5,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "figure.titlesize": 11,
        "legend.fontsize": 8.3,
        "legend.frameon": False,
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
        # Labels of arms are the user's texts, not formulas.
        "text.parse_math": False,
        # Text stays text in the PDF, to be searched and edited.
        "pdf.fonttype": 42,
        "savefig.bbox": "tight",
    }
)


SIZES: Mapping[str, float] = MappingProxyType(
    {"*": 11.5, "P": 8.5, "p": 8.0, "h": 8.0, "o": 7.0, "s": 6.5, "D": 6.0}
)
"""Marker -> its size in points, which evens out the areas; others have 7.5."""


@dataclass(frozen=True)
class Look:
    """Color and marker of an arm."""

    color: str
    marker: str

    @property
    def size(self) -> float:
        return SIZES.get(self.marker, 7.5)


LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "never": Look("#bbbbbb", "X"),
        "once": Look("#cc79a7", "v"),
        "sensitivity": Look("#882255", ">"),
        "fixed_8": Look("#c6e2f5", "^"),
        "fixed_4": Look("#7fbfea", "s"),
        "fixed_2": Look("#0072b2", "p"),
        "fixed_1": Look("#003a5c", "o"),
        "adaptive": Look("#d55e00", "*"),
        "oracle": Look("#009e73", "D"),
        "settled": Look("#7a4fb5", "P"),
        "even": Look("#56b4e9", "d"),
        "front": Look("#e69f00", "<"),
        "random": Look("#f0e442", "h"),
        "dense": Look("#6e6e6e", "o"),
    }
)
"""Looks of the schedules that the shipped studies compare; all other arms have one by checksum."""

COLORS = ("#e69f00", "#0072b2", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#56b4e9", "#882255")
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "*", "<", ">", "h", "d")

_SALT = "1302"
"""Chosen so that the arms of each shipped experiment differ in color and in marker."""


def look(arm: str) -> Look:
    """The look of an arm, the same in every figure, study and process.

    Names without an entry in `LOOKS` get color and marker from their checksum. A trailing number
    (a budget or a draw) is no part of a name: `adaptive_30` looks like `adaptive`, `random_2` like
    `random`. `END_but_CHOICE` has a light version of the color of END, and the marker of CHOICE.
    """
    if arm in LOOKS:
        return LOOKS[arm]
    end, _, choice = arm.partition("_but_")
    if choice:
        return Look(_lighter(look(end).color), _pick(choice, MARKERS))
    name = re.sub(r"_\d+$", "", arm)
    return LOOKS.get(name) or Look(_pick(name, COLORS), _pick(f"{name} ", MARKERS))


def _pick(name: str, choices: tuple[str, ...]) -> str:
    return choices[zlib.crc32(f"{_SALT}{name}".encode()) % len(choices)]


def _lighter(color: str) -> str:
    shares = 0.45 * np.array(to_rgb(color)) + 0.55
    return "#" + "".join(f"{round(255 * share):02x}" for share in shares)


def dark(color: str) -> tuple[float, ...]:
    """A color for a line: the light colors of markers, whose edges are dark, would be faint."""
    parts = np.array(to_rgb(color))
    lightness = float(parts @ (0.2126, 0.7152, 0.0722))
    return tuple(parts * min(1.0, 0.5 / lightness))


def mark(arm: str, **how: Any) -> dict[str, Any]:
    """Arguments of `Axes.plot` for the mark of an arm; `how` overrides."""
    found = look(arm)
    return {
        "color": found.color,
        "marker": found.marker,
        "markersize": found.size,
        "markeredgecolor": INK,
        "markeredgewidth": 0.8,
        "linestyle": "none",
        **how,
    }


def shared_style() -> AbstractContextManager[None]:
    """Matplotlib's settings within a `with` block; the global ones stay untouched."""
    # From matplotlib's defaults, so that a reader's own matplotlibrc changes nothing.
    return matplotlib.style.context(["default", dict(SETTINGS)])


def new_figure(dpi: float = 200) -> Figure:
    """An empty figure with a layout that makes room for all texts; it need not be closed."""
    figure = Figure(layout="constrained", dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


def legend(figure: Figure, labels: Mapping[str, str], **how: Any) -> None:
    """A legend of arms on the right of a figure.

    Args:
        figure: with its axes.
        labels: arm -> text, in order.
        how: arguments of `style.mark`.
    """
    ax = figure.axes[0]
    handles = [ax.plot([], [], **mark(arm, **how))[0] for arm in labels]
    texts = [textwrap.fill(label, width=24) for label in labels.values()]
    figure.legend(handles, texts, loc="outside right upper", labelspacing=0.7)


def title(figure: Figure, text: str) -> None:
    """Write the title of a figure of its final size above everything, from the left edge."""
    wrapped = textwrap.fill(text, width=int(figure.get_figwidth() * 72 / 5.6))
    figure.suptitle(wrapped, x=0.08 / figure.get_figwidth(), ha="left")


def note(figure: Figure, text: str) -> None:
    """Write a note below everything, from the left edge."""
    width = figure.get_figwidth()
    wrapped = textwrap.fill(text, width=int(width * 72 / 4.1))
    figure.supxlabel(wrapped, x=0.08 / width, ha="left", fontsize=7.9, color=QUIET)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and PDF, atomically; the same drawing gives the same bytes.

    Args:
        figure: what was drawn.
        path: of the files, without an ending.

    Raises:
        WriteError: a file cannot be written.
    """
    metadata = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }
    paths = []
    for kind, entries in metadata.items():
        paths.append(path.with_name(f"{path.name}.{kind}"))
        with replacing(paths[-1]) as temporary:
            figure.savefig(temporary, format=kind, metadata=entries)
    return paths


def short(label: str, longest: int = 36) -> str:
    """A label on one line, with its end cut off where it is long."""
    label = " ".join(label.split())
    return label if len(label) <= longest else label[: longest - 1] + "…"
