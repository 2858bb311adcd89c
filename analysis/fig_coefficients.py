"""Results of an exploration: its front, the importance of each parameter, and slices.

`python analysis/fig_coefficients.py RESULTS`
"""

import textwrap
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import command, exploration, notes, style

QUESTION = "Which coefficients does the exploration favor, and what rule do they make?"

WORDS: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "val_acc": ("validation accuracy (%)", 100.0),
        "val_loss": ("validation loss", 1.0),
        "searches": ("searches", 1.0),
        "search_s": ("search seconds", 1.0),
        "wall_s": ("wall seconds", 1.0),
        "params": ("parameters", 1.0),
        "macs": ("MACs", 1.0),
    }
)
"""Objective -> name of its axis, and the factor of its unit."""

SHADES = ("#2a2a2a", "#b9c4ce", "#7f8c99", "#e8eef3")
"""Colors of the objectives' bars of importance, dark beside light."""


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """Draw the table of `exploration.table`: front, importance, and slices by parameter."""
    names, parameters = table.attrs["objectives"], table.attrs["parameters"]
    done = _finished(table)
    figure.set_size_inches(max(7.6, 1.3 * len(parameters)), 3.3 + 1.2 * len(names))
    outer = figure.add_gridspec(2, 1, height_ratios=[2.6, 1.2 * len(names)])
    above = outer[0].subgridspec(1, 2, width_ratios=[3.2, 2])
    _draw_front(figure.add_subplot(above[0]), done, names)
    _draw_importance(figure.add_subplot(above[1]), table)
    grid = outer[1].subgridspec(len(names), len(parameters))
    slices = grid.subplots(sharex="col", sharey="row", squeeze=False)
    for (row, column), ax in np.ndenumerate(slices):
        _draw_slice(ax, done, names[row], parameters[column])
        ax.label_outer()
    slices[0, 0].set_title("C. Objectives by parameter")
    known = done[done["reference"]]
    style.legend(figure, dict(zip(known["arm"], known["label"], strict=True)))
    style.title(figure, f"What the exploration found, workload {table['workload'].iloc[0]}")


def _finished(table: pd.DataFrame) -> pd.DataFrame:
    """The finished arms, their objectives in the units of the axes; `order` is theirs."""
    done = table[table["status"] == "finished"].reset_index(drop=True)
    for name in table.attrs["objectives"]:
        done[name] *= WORDS.get(name, (name, 1.0))[1]
    return done.assign(order=range(len(done)))


def _name(objective: str) -> str:
    return WORDS.get(objective, (objective, 1.0))[0]


def _look(arm: pd.Series) -> dict[str, Any]:
    """References by their look, the front as diamonds, other arms as circles."""
    if arm["reference"]:
        return style.mark(arm["arm"], alpha=0.8, zorder=4)
    how = {"marker": "o", "markersize": 4.0, "color": "#ffffff", "zorder": 2}
    if arm["mark"]:
        how = {"marker": "D", "markersize": 5.0, "color": style.INK, "zorder": 3}
    return style.mark(arm["arm"], alpha=0.8, **how)


def _draw_front(ax: Axes, done: pd.DataFrame, names: list[str]) -> None:
    """Finished arms by their first two objectives: letters and a stepped line for the front."""
    y, x = names[0], names[1] if len(names) > 1 else "order"
    for _, arm in done.iterrows():
        ax.plot([arm[x]], [arm[y]], gid=f"spot:{arm['arm']}", **_look(arm))
    front = done[done["mark"] != ""].sort_values([x, y])
    for (at_x, at_y), here in front.groupby([x, y]):
        text = " ".join(sorted(here["mark"]))
        ax.annotate(text, (at_x, at_y), xytext=(5, 4), textcoords="offset points", fontsize=8.3)
    if x != "order":
        (line,) = ax.step(front[x], front[y], where="post", color=style.QUIET)
        line.set(zorder=1.5, gid="front")
    ax.margins(0.1)
    ax.set(xlabel="order of the arms" if x == "order" else _name(x), ylabel=_name(y))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=x in ("order", "searches")))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.set_title("A. Arms and front (letters)")


def importance(table: pd.DataFrame) -> pd.DataFrame:
    """Share of each parameter (index) in each objective (column), in %; most important first."""
    shares = {o: s for o, s in table.attrs["importance"].items() if not isinstance(s, str)}
    wide = 100 * pd.DataFrame(shares, dtype=float)
    return wide.loc[wide.mean(axis=1).sort_values(ascending=False).index]


def _draw_importance(ax: Axes, table: pd.DataFrame) -> None:
    """Bars of the parameters' shares, one per objective."""
    ax.set_title("B. Importance (%)")
    shares = importance(table).rename(columns=lambda name: _name(name).partition(" (")[0])
    if shares.empty:
        ax.set_axis_off()
        return
    shades: Any = list(SHADES)
    shares.plot.barh(ax=ax, color=shades, edgecolor=style.INK, linewidth=0.5, width=0.8)
    ax.invert_yaxis()
    ax.set(ylabel="")
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize=7.8, handlelength=1.2)


def _draw_slice(ax: Axes, done: pd.DataFrame, objective: str, parameter: str) -> None:
    """An objective against one parameter; arms that lack the parameter are not there."""
    found = done[done[parameter].notna() & (done[parameter] != "")]
    places = found[parameter]
    if not pd.api.types.is_numeric_dtype(places):
        choices = sorted(places.unique())
        # Side by side, since many arms share a choice.
        aside = places.groupby(places).cumcount() / places.groupby(places).transform("size")
        ax.set_xticks(range(len(choices)), [choice.replace("_", "\n") for choice in choices])
        places = places.map(choices.index) + 0.6 * aside - 0.2
    for (_, arm), place in zip(found.iterrows(), places, strict=True):
        ax.plot([place], [arm[objective]], **_look(arm))
    ax.margins(0.12)
    ax.tick_params(labelsize=7)
    ax.set_xlabel(parameter.removeprefix(exploration.PREFIX), fontsize=8.3)
    ax.set_ylabel(textwrap.fill(_name(objective), 12), fontsize=7.5)
    ax.ticklabel_format(axis="y", useOffset=False)


def note(table: pd.DataFrame) -> str:
    """Note below the figure, as one paragraph."""
    done, stopped = _finished(table), table["stopped_after"].dropna()
    after = " and ".join(f"{epoch:.0f}" for epoch in sorted(stopped.unique()))
    unknown = {o: why for o, why in table.attrs["importance"].items() if isinstance(why, str)}
    parts = [
        *(f"{leak}." for leak in sorted({*table["leakage"]} - {""})),
        f"{len(done)} finished arms, means over {notes.count(done['seeds'], 'seed')}; the arms "
        "were picked by these very numbers, so their lead is flattered.",
        "Letters and diamonds: the Pareto front of the means.",
        *(f"No importance for {objective}: {why}." for objective, why in unknown.items()),
        f"Arms stopped early, after {after} epochs: {len(stopped)}." if len(stopped) else "",
        f"Arms left out: {table['left_out_why'].iloc[0] or 'none'}.",
    ]
    return " ".join(filter(None, parts))


def summarize(table: pd.DataFrame) -> command.Summary:
    """The arms of the front with their rules, and the importance of the parameters."""
    front = table[table["mark"] != ""].sort_values("mark")
    columns = ["mark", "label", *table.attrs["objectives"], "seeds", *exploration.PLANS]
    named = {"label": "arm"} | {plan: f"searches at, plan {plan}" for plan in exploration.PLANS}
    shares = importance(table).map("{:.0f}".format).rename_axis(index="parameter")
    shown = front[columns].astype({"seeds": int}).round(4)
    parts = {"Front": shown.rename(columns=named)}
    return parts | ({"Importance (%)": shares.reset_index()} if len(shares) else {})


EXHIBITS = (command.Exhibit("coefficients", QUESTION, exploration.table, summarize, note, draw),)

main = partial(command.run, EXHIBITS)

if __name__ == "__main__":
    raise SystemExit(main())
