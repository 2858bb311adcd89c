"""What an exploration found: its front, what each parameter matters, and the rules on the front.

`python analysis/fig_coefficients.py RESULTS`
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from analysis import command, exploration, labels, scatter, style

NAME = "coefficients"

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
"""Objective -> what an axis calls it, and the factor of its unit."""

SHADES = ("#2a2a2a", "#b9c4ce", "#7f8c99", "#e8eef3")
"""Of the objectives' bars of importance, dark beside light."""

FRONT = "D"
"""The marker of an explored arm on the front."""

RULES = 8
"""Arms of the front whose rules are drawn at most, the best first."""

WIDTH, ACROSS = 7.8, 5
"""Inches of the figure; slices in a row."""

TOP, HIGH, SLICE, ROW = 0.6, 2.5, 0.85, 0.46
BAND, DOWN = 0.35, 0.47
"""Inches: of the title, the upper panels, a slice, an arm's rule; of what stands above the slices
of an objective, and below each slice."""


def data(results: Path) -> pd.DataFrame:
    """The exploration in long form: see `exploration.table`."""
    return exploration.table(results)


def axes(table: pd.DataFrame) -> NDArray[Any]:
    """Front, importance, rules, then slices: all parameters of one objective after another.

    Without rules to draw, their axes are hidden.
    """
    bands = -(-len(_parameters(table)) // ACROSS)
    band = BAND + bands * (SLICE + DOWN)
    rules = len(_rules(table))
    below = 0.45 + rules * ROW + 0.5 if rules else 0.0
    whole = HIGH + 0.6 + len(_objectives(table)) * band + below
    (ax,) = style.new_figure(
        1, 1, width=WIDTH, height=whole, top=TOP, below=0.1, note=_note(table)
    ).ravel()
    figure = ax.figure
    assert isinstance(figure, Figure)
    ax.remove()
    made = [
        _place(figure, 0.7, TOP, 3.5, HIGH),
        _place(figure, 5.45, TOP + 0.25, WIDTH - 5.45 - 0.3, HIGH - 0.25),
        _place(figure, 2.6, TOP + whole - below + 0.4, WIDTH - 2.6 - 1.0, max(rules, 1) * ROW),
    ]
    wide = (WIDTH - 0.7 - 0.2 - (ACROSS - 1) * 0.15) / ACROSS
    for objective in range(len(_objectives(table))):
        start = TOP + HIGH + 0.6 + objective * band + BAND
        for index in range(len(_parameters(table))):
            row, col = divmod(index, ACROSS)
            x, y = 0.7 + col * (wide + 0.15), start + row * (SLICE + DOWN)
            made.append(_place(figure, x, y, wide, SLICE))
    made[2].set_visible(rules > 0)
    return np.array(made, dtype=object)


def draw(panels: NDArray[Any], table: pd.DataFrame) -> None:
    """Draw the table of `data` into the axes of `axes`."""
    front, importance, rules, *slices = panels
    _draw_front(front, table)
    _draw_importance(importance, table)
    if rules.get_visible():
        _draw_rules(rules, table)
    parameters = _parameters(table)
    for number, objective in enumerate(_objectives(table)):
        band = slices[number * len(parameters) : (number + 1) * len(parameters)]
        for index, (ax, parameter) in enumerate(zip(band, parameters, strict=True)):
            _draw_slice(ax, table, objective, parameter)
            if index % ACROSS:
                ax.set_yticklabels([])
        if band:
            panel = chr(ord("C") + number)
            band[0].set_title(f"{panel}. {_words(objective)[0]} by parameter", fontsize=9.5)
    workload = table["workload"].iloc[0]
    style.headline(front.figure, f"What the exploration found, workload {workload}")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a results directory into its folder `figures`; print table and paths."""
    return command.run(NAME, data, draw, argv, axes=axes, say=as_text)


def as_text(table: pd.DataFrame) -> str:
    """The front, an arm a line, and when it searches; the importance of the parameters."""
    arms = _arms(table)
    front = arms[arms["mark"] != ""].sort_values(by="mark")
    rules = table[(table["part"] == "rule") & table["searched"].eq(True)]
    counts = rules.groupby(["mark", "plan"]).size().unstack().reindex(front["mark"])
    shown = front[["mark", "label", *_objectives(table), "seeds"]].set_index("mark")
    for plan in exploration.PLANS:
        if plan in counts:
            shown[f"searches, plan {plan}"] = counts[plan]
    shares = table[(table["part"] == "importance") & table["name"].notna()]
    wide = shares.pivot(index="name", columns="objective", values="value")
    return f"{shown.to_string()}\n\nimportance\n{wide.to_string(float_format='{:.2f}'.format)}"


def _place(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes at a place of a figure in inches, from its left upper corner."""
    whole_x, whole_y = figure.get_size_inches()
    box = (x / whole_x, 1 - (y + height) / whole_y, width / whole_x, height / whole_y)
    return figure.add_axes(box)


def _objectives(table: pd.DataFrame) -> list[str]:
    return list(table.loc[table["part"] == "objective", "name"].unique())


def _parameters(table: pd.DataFrame) -> list[str]:
    return list(table.loc[table["part"] == "parameter", "name"].unique())


def _arms(table: pd.DataFrame) -> pd.DataFrame:
    """One row a finished arm: its names, marks and objectives, in the units of the axes."""
    rows = table[(table["part"] == "objective") & (table["status"] == "finished")]
    keys = ["arm", "label", "mark", "reference", "seeds"]
    wide = rows.pivot(index=keys, columns="name", values="value").reset_index()
    for name in _objectives(table):
        wide[name] *= _words(name)[1]
    # A pivot sorts; the study's order is that of the rows.
    return wide.set_index("arm").loc[rows["arm"].unique()].reset_index()


def _words(objective: str) -> tuple[str, float]:
    return WORDS.get(objective, (objective, 1.0))


def _draw_front(ax: Axes, table: pd.DataFrame) -> None:
    """Finished arms by their first two objectives; a place where several meet says how many."""
    arms, objectives = _arms(table), _objectives(table)
    y = objectives[0]
    x = objectives[1] if len(objectives) > 1 else "order"
    arms["order"] = np.arange(len(arms))
    names, spots = [], []
    for _, here in arms.groupby([x, y], sort=False):
        at_x, at_y = float(here[x].iloc[0]), float(here[y].iloc[0])
        marks = " ".join(here.loc[here["mark"] != "", "mark"])
        known = here[here["reference"]]
        _draw_spot(ax, at_x, at_y, here)
        others = len(here) - len(known) - int((here.loc[~here["reference"], "mark"] != "").sum())
        parts = [marks, ", ".join(known["label"]), f"+{others}" if others else ""]
        if not any(parts[:2]):
            parts = [f"×{others}"]
        if parts != ["×1"]:
            names.append(" ".join(filter(None, parts)))
            spots.append((at_x, at_y))
    if x != "order":
        front = arms[arms["mark"] != ""].sort_values([x, y])
        ax.plot(
            front[x],
            front[y],
            drawstyle="steps-post",
            color=style.QUIET,
            linewidth=1.6,
            zorder=1.5,
            gid="front",
        )
    _set_limits(ax, arms[x], arms[y])
    ax.set_xlabel("order of the arms" if x == "order" else _words(x)[0])
    ax.set_ylabel(_words(y)[0])
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=x in ("order", "searches")))
    ax.set_title("A. Arms and front (letters)" if len(objectives) > 1 else "A. Arms", fontsize=9.5)
    every = ax.transData.transform(arms[[x, y]].to_numpy(float))
    _label(ax, [textwrap.fill(name, 22) for name in names], np.array(spots, dtype=float), every)


def _draw_spot(ax: Axes, x: float, y: float, here: pd.DataFrame) -> None:
    """The arms of one place: a reference by its look, the front as diamonds, others as rings."""
    known = here[here["reference"]]
    if len(known):
        look = style.look(known["arm"].iloc[0])
        marker, size, color = look.marker, look.size, look.color
    elif (here["mark"] != "").any():
        marker, size, color = FRONT, 6.5, style.INK
    else:
        marker, size, color = "o", 4.5, "#ffffff"
    ax.plot(
        [x],
        [y],
        linestyle="none",
        marker=marker,
        markersize=size,
        color=color,
        zorder=3,
        markeredgecolor=style.INK,
        markeredgewidth=0.8,
        gid=f"spot:{'+'.join(here['arm'])}",
    )
    if (here["mark"] != "").any():
        ax.plot(
            [x],
            [y],
            linestyle="none",
            marker="o",
            markersize=size + scatter.RING_PT,
            zorder=2.5,
            markerfacecolor="white",
            markeredgecolor=style.INK,
            markeredgewidth=1.1,
            gid="ring",
        )


def _set_limits(ax: Axes, x: pd.Series, y: pd.Series) -> None:
    """Limits with air around; a little also where all are equal."""
    for values, setter, share in ((x, ax.set_xlim, 0.09), (y, ax.set_ylim, 0.16)):
        low, high = float(values.min()), float(values.max())
        air = share * (high - low) or 0.05 * max(abs(high), 1e-3)
        setter(low - air, high + air)
    ax.ticklabel_format(axis="y", useOffset=False)


def _label(
    ax: Axes, names: Sequence[str], spots: NDArray[np.float64], every: NDArray[np.float64]
) -> None:
    """Write labels beside spots, clear of all marks, in pixels."""
    if not names:
        return
    anchors = ax.transData.transform(spots)
    radius = 4.0 * ax.figure.dpi / 72
    others = np.array([p for p in every if not (np.abs(anchors - p) < 0.5).all(axis=1).any()])
    centers = np.vstack([anchors, others.reshape(-1, 2)])
    scene = labels.Scene(
        anchors=anchors,
        marks=np.hstack([centers - radius, centers + radius]),
        lines=np.empty((0, 4)),
        area=ax.get_window_extent().extents,
        gap=2 * ax.figure.dpi / 72,
    )
    labels.annotate(ax, names, scene)


def _draw_importance(ax: Axes, table: pd.DataFrame) -> None:
    """Bars of the parameters' shares, one an objective; the cause where an objective has none."""
    shares = table[table["part"] == "importance"]
    known = shares.dropna(subset=["name"])
    wide = known.pivot(index="name", columns="objective", values="value")
    order = wide.mean(axis=1).sort_values(ascending=False).index
    objectives = _objectives(table)
    high = 0.8 / len(objectives)
    for number, objective in enumerate(objectives):
        if objective not in wide:
            continue
        values = 100 * wide[objective].reindex(order).fillna(0.0)
        ax.barh(
            np.arange(len(order)) - 0.4 + (number + 0.5) * high,
            values,
            height=high,
            color=SHADES[number % len(SHADES)],
            edgecolor=style.INK,
            linewidth=0.5,
            label=_words(objective)[0].partition(" (")[0],
            gid=f"importance:{objective}",
        )
    ax.set_title("B. Importance (%)", fontsize=9.5, pad=20 if len(known) else 6)
    if len(known):
        ax.set_yticks(range(len(order)), list(order), fontsize=8.3)
        ax.set_ylim(len(order) - 0.4, -0.6)
        ax.set_xlim(left=0)
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=2,
            fontsize=7.8,
            frameon=False,
            borderaxespad=0.1,
            handlelength=1.2,
            columnspacing=0.9,
        )
    else:
        ax.set_axis_off()
        lines = [f"{row['objective']}: {row['choice']}" for _, row in shares.iterrows()]
        text = "\n\n".join(textwrap.fill(line, 32) for line in lines)
        ax.text(0, 0.95, text, transform=ax.transAxes, va="top", fontsize=8.3, color=style.QUIET)
    ax.grid(axis="y", visible=False)


def _draw_slice(ax: Axes, table: pd.DataFrame, objective: str, parameter: str) -> None:
    """An objective against one parameter; arms that lack the parameter are not there."""
    rows = table[(table["part"] == "parameter") & (table["name"] == parameter)]
    places, names = _places(rows)
    found = _arms(table).merge(places, on="arm")
    for kind, here in found.groupby(found["mark"] != ""):
        ax.plot(
            here["at"],
            here[objective],
            linestyle="none",
            marker=FRONT if kind else "o",
            markersize=5.0 if kind else 3.6,
            color=style.INK if kind else "#ffffff",
            markeredgecolor=style.INK,
            markeredgewidth=0.6,
            zorder=3 if kind else 2,
        )
    # The same scale in all slices of an objective.
    _set_limits(ax, places["at"], _arms(table)[objective])
    ax.xaxis.set_minor_locator(NullLocator())
    if names:
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.set_xticks(range(len(names)), names)
    else:
        whole = bool((places["at"] % 1 == 0).all())
        ax.xaxis.set_major_locator(MaxNLocator(3, integer=whole))
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=objective == "searches"))
    ax.tick_params(labelsize=7.5)
    ax.set_xlabel(parameter, fontsize=8.3, labelpad=2)
    ax.set_gid(f"slice:{objective}:{parameter}")


def _places(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Arms with where they stand in a slice, `at`, and the choices; none for a number."""
    if rows["choice"].isna().all():
        return rows[["arm", "value"]].rename(columns={"value": "at"}), []
    names = sorted(rows["choice"].unique())
    spots = []
    for index, name in enumerate(names):
        here = rows[rows["choice"] == name]
        # Side by side, since many arms share a choice and few values.
        aside = np.linspace(-0.3, 0.3, len(here)) if len(here) > 1 else np.zeros(1)
        spots.append(pd.DataFrame({"arm": here["arm"], "at": index + aside}))
    words = {"True": "yes", "False": "no"}
    return pd.concat(spots), [words.get(name, name.replace("_", "\n")) for name in names]


def _rules(table: pd.DataFrame) -> list[tuple[list[str], str, pd.DataFrame]]:
    """Letters and label of the arms of the front by rule, and the rows of the rule."""
    rows = table[table["part"] == "rule"]
    found: dict[tuple[Any, ...], tuple[list[str], str, pd.DataFrame]] = {}
    for mark, rule in rows.groupby("mark", sort=False):
        key = tuple(rule["searched"])
        if key in found:
            found[key][0].append(str(mark))
        else:
            found[key] = ([str(mark)], rule["label"].iloc[0], rule)
    return list(found.values())[:RULES]


def _draw_rules(ax: Axes, table: pd.DataFrame) -> None:
    """When each rule of the front searches: above if the plan stands still, below if it changes."""
    names = []
    for row, (marks, label, rule) in enumerate(_rules(table)):
        text = f"{' '.join(marks)}  {label}"
        names.append("\n".join(textwrap.wrap(text, 46, max_lines=3, placeholder=" ...")))
        for plan, aside in zip(exploration.PLANS, (-0.2, 0.2), strict=True):
            epochs = rule.loc[(rule["plan"] == plan) & rule["searched"].eq(True), "epoch"]
            still = plan == exploration.PLANS[0]
            ax.axhline(row + aside, color="#d9d9d9", linewidth=0.6, zorder=1)
            ax.plot(
                epochs,
                [row + aside] * len(epochs),
                linestyle="none",
                zorder=2,
                markersize=5.0,
                marker="o" if still else "s",
                color=style.INK if still else "#ffffff",
                markeredgecolor=style.INK,
                markeredgewidth=0.7,
                gid=f"rule:{marks[0]}:{plan}",
                label=f"plan {plan}" if row == 0 else None,
            )
            ax.annotate(
                f"{len(epochs)} search{'es' * (len(epochs) != 1)}",
                (1, row + aside),
                xycoords=("axes fraction", "data"),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=style.QUIET,
            )
    ax.set_yticks(range(len(names)), names, fontsize=7.2)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.set_xlim(-0.7, float(table.loc[table["part"] == "rule", "epoch"].max()) + 0.7)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("epoch of the search phase")
    panel = chr(ord("C") + len(_objectives(table)))
    ax.set_title(f"{panel}. When the rules of the front search", fontsize=9.5, x=-0.42)
    ax.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=2,
        fontsize=7.8,
        frameon=False,
        borderaxespad=0.1,
        handlelength=1.0,
        columnspacing=1.0,
    )


def _note(table: pd.DataFrame) -> str:
    """What a reader must know of the figure."""
    arms = table[table["part"] == "objective"].drop_duplicates("arm")
    done = arms[arms["status"] == "finished"]
    seeds = sorted(done["seeds"].astype(int).unique())
    stopped = table[table["part"] == "stopped"].drop_duplicates("arm")
    after = " and ".join(f"{int(epoch)}" for epoch in sorted(stopped["epoch"].unique()))
    hidden = table.loc[table["part"] == "rule", "mark"].nunique()
    hidden -= sum(len(marks) for marks, _, _ in _rules(table))
    leaking = arms[arms["leakage"] != ""]
    parts = [
        *(f"{leak}." for leak in sorted(leaking["leakage"].unique())),
        f"{len(done)} finished arms, means over seeds ({' to '.join(map(str, seeds))}); "
        "the arms were picked by these very figures, so their lead is flattered.",
        "Letters, rings and diamonds: the Pareto front of the means, joined by a stepped line in A;"
        " +n or ×n: other arms at the same place.",
        f"Arms stopped early, after {after} epochs: {len(stopped)}." if len(stopped) else "",
        f"Rules not drawn: {hidden} arms of the front." if hidden else "",
        f"Arms left out: {table['left_out_why'].iloc[0] or 'none'}.",
    ]
    return " ".join(filter(None, parts))


if __name__ == "__main__":
    raise SystemExit(main())
