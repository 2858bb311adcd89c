"""Test accuracy against parameters, and against MACs (attention's products included).

`python analysis/fig_accuracy_vs_cost.py RESULTS`
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis import arms, command, labels, notes, published, scatter, style, summary

NAME = "accuracy_vs_cost"

COLUMNS = (
    "arm",
    "label",
    "workload",
    "series",
    "series_label",
    "reduction",
    "published",
    "source",
    "seeds",
    "test_acc",
    "test_acc_low",
    "test_acc_high",
    "params",
    "params_min",
    "params_max",
    "macs",
    "macs_min",
    "macs_max",
    *summary.DENSE,
    *notes.COLUMNS,
)

PANELS = (
    scatter.Across("params", "parameters", None),
    scatter.Across("macs", "MACs of one image, attention's products included", None),
)

MOVED = "Marks that would hide one another are moved apart sideways; the CSV has their places."

DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


def data(results: Path) -> pd.DataFrame:
    """One row an arm of the study, in its order, then one a published model of the same workload.

    `series` is the arm's name without its budget, and `reduction` the budget, in % (nan for a study
    with one); `series_label` is for the figure. `params` and `macs` are means over the finished
    seeds, with the least and the greatest; MACs are those of one image, nan where they were not
    recorded. `published` marks the rows that are not of this study; `source` says whence they are,
    or what an arm that is itself a published model has from there.
    The other columns are as in `fig_accuracy_vs_searches.data`.

    Args:
        results: a results directory.

    Raises:
        ValueError: as `notes.sound`.
    """
    table = summary.arms(notes.sound(results))
    table["series_label"] = [
        arms.without_budget(label) if share == share else label
        for label, share in zip(table["label"], table["reduction"], strict=True)
    ]
    table["published"], table["source"] = False, ""
    _complete(table)
    others = _published(table)
    whole = pd.concat([table, others], ignore_index=True) if len(others) else table
    return whole.reindex(columns=list(COLUMNS))


def _is(table: pd.DataFrame, point: published.Point) -> pd.Series:
    """Which arms of a study are themselves a published model."""
    return (table["params"] == point.params) & (table["test_acc"].round(6) == point.test_acc)


def _complete(table: pd.DataFrame) -> None:
    """Give an arm that is itself a published model, read from its log, the MACs known of it."""
    for point in published.points(table["workload"].iloc[0]):
        bare = _is(table, point) & table["macs"].isna()
        table.loc[bare, ["macs", "macs_min", "macs_max"]] = float(point.macs)
        table.loc[bare, "source"] = point.source


def _published(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of published models, without one that the study itself consists of."""
    workload = table["workload"].iloc[0]
    return pd.DataFrame(
        [
            {
                "arm": f"published:{point.name}",
                "label": point.name,
                "workload": workload,
                "series": f"published:{point.name}",
                "series_label": point.name,
                "published": True,
                "source": point.source,
                "seeds": 1,
                "test_acc": point.test_acc,
                **{f"params{end}": point.params for end in ("", "_min", "_max")},
                **{f"macs{end}": point.macs for end in ("", "_min", "_max")},
                "left_out": 0,
                "left_out_why": "",
                "leakage": point.leakage,
            }
            for point in published.points(workload)
            if not _is(table, point).any()
        ]
    )


def _costs(table: pd.DataFrame) -> list[scatter.Across]:
    """The costs that some row of the table has; the parameters where none has any."""
    return [across for across in PANELS if table[across.column].notna().any()] or [PANELS[0]]


def axes(table: pd.DataFrame) -> list[Axes]:
    """A panel a cost for the table of `data`, with the note below them."""
    series = table.loc[table["seeds"] > 0, "series"].nunique()
    panels, high = len(_costs(table)), 2.75 + 0.14 * max(series - 8, 0)
    height = panels * high + (panels - 1) * 0.7
    made = style.new_figure(panels, 1, height=height, left=0.75, right=0.63, note=note(table))
    return list(made[:, 0])


def note(table: pd.DataFrame) -> str:
    """What a reader must know of the figure, as one paragraph."""
    own = table[~table["published"]]
    dense = own[["dense_params", "dense_macs"]].astype(float).mean()
    size = " and ".join(
        f"{dense[column]:,.0f} {what}"
        for column, what in (("dense_params", "parameters"), ("dense_macs", "MACs"))
        if not np.isnan(dense[column])
    )
    swept, known = own["reduction"].notna().any(), own[own["source"] != ""]
    sources = [
        f"{row['label']} ({row['source']})." for _, row in table[table["published"]].iterrows()
    ]
    parts = [
        *notes.means(own),
        f"Lines join the budgets of a schedule. {MOVED}" if swept else scatter.MOVED,
        "Level bars: least to most of a seed." if (own["seeds"] > 1).any() else "",
        f"The dense model has {size}." if size else "",
        *(
            f"No {across.column} were recorded."
            for across in PANELS
            if own[across.column].isna().all()
        ),
        *(f"MACs of {row['label']}: {row['source']}." for _, row in known.iterrows()),
        "Hollow marks are published:" if sources else "",
        *sources,
    ]
    return notes.write(parts, table)


def draw(panels: Sequence[Axes], table: pd.DataFrame) -> None:
    """Draw the table of `data` into the axes of `axes`.

    Budgets of the same schedule are joined by a line. Marks that would hide one another are moved
    apart sideways.
    """
    for ax, across in zip(panels, _costs(table), strict=True):
        shown = scatter.percent(table[table[across.column].notna()])
        if len(shown):
            draw_panel(ax, shown, across)
    style.title(panels[0], f"Accuracy against cost, workload {table['workload'].iloc[0]}")


def draw_panel(
    ax: Axes, shown: pd.DataFrame, across: scatter.Across, *, bars: bool = False
) -> None:
    """Draw the arms of `scatter.percent`, those of a series joined by a line over its budgets.

    With `bars` not only marks but their intervals are kept from hiding one another.
    """
    dense = 100 * float(shown["dense_test_acc"].mean())
    scatter.set_axes(ax, shown, across, dense)
    scatter.draw_dense(ax, dense)
    swept = shown["reduction"].notna().any()
    moves, groups = scatter.shifts(ax, shown, across, bars=bars)
    brackets = np.empty((0, 4))
    if not swept:
        brackets = scatter.draw_moves(ax, shown, across, moves, groups)
    for (_, arm), move in zip(shown.iterrows(), moves, strict=True):
        scatter.draw_mark(ax, arm, across, move, hollow=bool(arm.get("published", False)))
    if swept:
        _join(ax, shown, across, moves)
    # A series has its label at its dearest mark; the other marks come after those in a scene.
    order = shown.sort_values(across.column, ascending=False, kind="stable")
    first = order.drop_duplicates("series").index
    index = [*first, *(i for i in order.index if i not in set(first))]
    scene = scatter.scene(ax, shown.loc[index], across, moves[index], dense)
    scene = labels.Scene(
        scene.anchors[: len(first)],
        scene.marks,
        np.vstack([scene.lines, brackets]),
        scene.area,
        scene.gap,
    )
    labels.annotate(ax, list(shown.loc[first, "series_label"]), scene)


def _join(
    ax: Axes, shown: pd.DataFrame, across: scatter.Across, moves: NDArray[np.float64]
) -> None:
    """Join the marks of each series, where they were moved to, by a line of its own style."""
    at = ax.transData.transform(shown[[across.column, "test_acc"]].to_numpy(float))
    at[:, 0] += moves
    places = pd.DataFrame(ax.transData.inverted().transform(at), shown.index, ["x", "y"])
    for number, (series, some) in enumerate(shown.groupby("series", sort=False)):
        line = places.loc[some.sort_values("reduction").index]
        ax.plot(
            line["x"],
            line["y"],
            color=style.dark(style.look(str(series)).color),
            linestyle=DASHES[number % len(DASHES)],
            linewidth=1.4,
            zorder=1.5,
            gid=f"series:{series}",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a results directory into its folder `figures`; print table and paths."""
    return command.run(NAME, data, draw, argv, axes=axes, say=as_text)


def as_text(table: pd.DataFrame) -> str:
    """The table of `data` for a terminal: an arm a line."""
    shown = pd.DataFrame(
        {
            "arm": table["label"],
            "seeds": table["seeds"],
            "test accuracy %": (100 * table["test_acc"]).map("{:.2f}".format),
            "params": table["params"].map("{:,.0f}".format),
            "MACs": table["macs"].map("{:,.0f}".format),
            "left out": table["left_out_why"],
        }
    )
    return f"{shown.to_string(index=False)}{notes.leak_lines(table)}"


if __name__ == "__main__":
    raise SystemExit(main())
