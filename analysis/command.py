"""What the command lines of all figures share."""

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import style

ROWS = 60
"""Rows of a table that a terminal gets; the CSV has all of them."""

WIDTH = 100
"""Of a note below a table, in characters."""


def headline(module: ModuleType) -> str:
    """The first paragraph of a module's docstring, in one line."""
    return " ".join((module.__doc__ or "").strip().partition("\n\n")[0].split())


def as_text(table: pd.DataFrame) -> str:
    """A table for a terminal, the middle left out where it is long."""
    return table.to_string(index=False, max_rows=ROWS)


def aligned(table: pd.DataFrame, *, names: Set[str]) -> str:
    """A table of texts: the columns of names and sentences set left, numbers right."""
    left = [column for column in map(str, table.columns) if column in names]
    widths = {c: max(len(c), table[c].str.len().max()) for c in left}
    shown = table.assign(**{c: table[c].str.ljust(width) for c, width in widths.items()})
    shown = shown.rename(columns={c: c.ljust(width) for c, width in widths.items()})
    return "\n".join(line.rstrip() for line in shown.to_string(index=False).splitlines())


def folded(note: str) -> str:
    """A note in lines that a terminal shows whole."""
    return textwrap.fill(note, width=WIDTH)


def one_axes(table: pd.DataFrame) -> Axes:
    """The axes of a figure with one panel, whatever its table."""
    return style.new_axes()


def run(
    name: str,
    data: Callable[..., pd.DataFrame],
    draw: Callable[[Any, pd.DataFrame], None],
    argv: Sequence[str] | None = None,
    *,
    axes: Callable[[pd.DataFrame], Any] = one_axes,
    say: Callable[[pd.DataFrame], str] = as_text,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """Draw a figure of a results directory into its folder `figures`; print table and paths.

    What the command is for is the headline of the module of `data`.

    Args:
        name: of the files, without an ending.
        data: results directory, and what `options` adds by keyword -> table.
        draw: takes what `axes` gives, and the table.
        argv: the arguments; those of the process for None.
        axes: table -> axes, or an array of them, all of one figure.
        say: table -> text for the terminal.
        options: adds arguments to the parser.

    Returns:
        The exit code: 2 where `data` raises a ValueError, whose message is printed as one line.
    """
    parser = _parser(data)
    if options is not None:
        options(parser)
    given = vars(parser.parse_args(argv))
    results = given.pop("results")
    try:
        table = data(results, **given)
    except ValueError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    with style.shared_style():
        made = axes(table)
        draw(made, table)
        first = np.ravel(np.asarray(made, dtype=object))[0]
        paths = style.save(first, table, results / "figures", name)
    print(say(table), *paths, sep="\n")
    return 0


def run_table(
    name: str,
    data: Callable[[Path], pd.DataFrame],
    say: Callable[[pd.DataFrame], str],
    argv: Sequence[str] | None = None,
) -> int:
    """Write a table of a results directory into its folder `figures` as CSV and text; print both.

    The arguments and the exit code are those of `run`.
    """
    results = _parser(data).parse_args(argv).results
    try:
        table = data(results)
    except ValueError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    text, folder = say(table), results / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    csv, txt = (folder / f"{name}.{kind}" for kind in ("csv", "txt"))
    table.to_csv(csv, index=False)
    txt.write_text(f"{text}\n", encoding="utf-8")
    print(text, "", csv, txt, sep="\n")
    return 0


def _parser(data: Callable[..., pd.DataFrame]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=headline(sys.modules[data.__module__]))
    parser.add_argument("results", type=Path, help="a results directory, with its study.json")
    return parser
