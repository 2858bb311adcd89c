"""Compression methods compared: test accuracy against MACs and against measured images a second.

`python analysis/fig_methods.py RESULTS`; `python benchmarks/inference.py --results RESULTS`
measures the speeds first, into RESULTS/speed.json.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adacomcat.checks import require
from analysis import arms, command, load, notes, scatter, stats, style, summary
from analysis.fig_accuracy_vs_cost import draw_panel

NAME = "methods"

SPEED = "speed.json"

DENSE = "dense"
"""The row of the model that all trials begin with."""

PAIRS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"diffrate": ("uniform", "lowrank"), "both": ("lowrank", "diffrate")}
)
"""Method -> what its accuracy is compared with, at the same budget."""
AGAINST = ("uniform", "lowrank", "diffrate")
"""All of these; their columns are `less_NAME` and its ends."""

COLUMNS = (
    "arm",
    "label",
    "workload",
    "series",
    "series_label",
    "reduction",
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
    "images_per_s",
    "images_per_s_min",
    "images_per_s_max",
    "over_dense",
    "measured",
    *(f"less_{name}{end}" for name in AGAINST for end in ("", "_low", "_high")),
    *summary.DENSE,
    *notes.COLUMNS,
)

MACS = scatter.Across("macs", "MACs of one image, attention's products included", None)
IMAGES = scatter.Across("images_per_s", "images a second, measured", None)

MEASURE = "python benchmarks/inference.py --results RESULTS"


def data(results: Path) -> pd.DataFrame:
    """One row an arm of the study, in its order, then one of the dense model.

    `images_per_s` is the mean over the seeds of what a trial's model does, with the least and the
    greatest, and `over_dense` how often that of the dense model; `measured` says on what. They are
    nan and empty where nothing was measured. `less_NAME` is the mean of paired differences of test
    accuracy (same seed) with the method NAME at the same budget, with the ends of its 95 % t
    interval. All other columns are as in `fig_accuracy_vs_cost.data`; the dense model's accuracy,
    parameters and MACs are those that the trials had for it.

    Args:
        results: a results directory.

    Raises:
        ValueError: as `notes.sound`, a study without methods to compare, or speeds that do not
            read.
    """
    trials = notes.sound(results)
    table = summary.arms(trials)
    methods = {*PAIRS, *AGAINST}
    found = sorted(methods & {*table["series"]})
    allowed = f"two or more of {', '.join(sorted(methods))}"
    require(len(found) > 1, f"{results}: methods", ", ".join(found) or "none", allowed)
    table["series_label"] = table["label"].map(arms.without_budget)
    done = load.finished(trials)
    speeds, dense, measured = _speeds(results / SPEED)
    table = table.merge(_by_arm(done, speeds), on="arm", how="left")
    table["measured"] = np.where(table["images_per_s"].notna(), measured, "")
    table = table.merge(_differences(done, list(table["arm"])), on="arm", how="left")
    whole = pd.concat([table, _dense(table, dense, measured)], ignore_index=True)
    return whole.reindex(columns=list(COLUMNS))


def _speeds(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any], str]:
    """Of the trials by id, of the dense model, and in words what they were measured on."""
    if not path.is_file():
        return {}, {}, ""
    try:
        record = json.loads(path.read_bytes())
        settings, machine = record["settings"], record["provenance"]["hardware"]
        device = ", ".join(machine["gpu"]) if settings["device"] == "cuda" else machine["cpu"]
        count = settings["threads"]
        threads = f", {count} thread{'s' if count > 1 else ''}"
        measured = (
            f"batch {settings['batch_size']}, {settings['dtype']}, {device}"
            f"{threads if settings['device'] == 'cpu' else ''}"
        )
        return record["trials"], record["dense"], measured
    except (ValueError, KeyError, TypeError) as error:
        allowed = f"what `{MEASURE}` writes"
        raise ValueError(
            f"{path}: got a file that does not read ({error!r}), allowed: {allowed}"
        ) from None


def _by_arm(done: pd.DataFrame, speeds: Mapping[str, Any]) -> pd.DataFrame:
    """The speeds of the finished trials, summed up over seeds: a row an arm that has any."""
    rows = []
    for arm, of_arm in done.groupby("arm", sort=False):
        known = [speeds[name] for name in of_arm["trial_id"] if name in speeds]
        rates = [float(speed["images_per_s"]) for speed in known] or [math.nan]
        ratios = [float(speed["over_dense"]) for speed in known] or [math.nan]
        rows.append(
            {
                "arm": arm,
                "images_per_s": np.mean(rates),
                "images_per_s_min": min(rates),
                "images_per_s_max": max(rates),
                "over_dense": np.mean(ratios),
            }
        )
    return pd.DataFrame(rows)


def _differences(done: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Paired differences by `PAIRS`, a row an arm."""
    accuracy = {
        arm: dict(zip(some["seed"], some["test_acc"].astype(float), strict=True))
        for arm, some in done.groupby("arm")
    }
    rows = []
    for arm in names:
        series, budget = arms.series(arm, names)
        row: dict[str, Any] = {"arm": arm}
        for name in PAIRS.get(series, ()):
            other = name if budget is None else f"{name}_{budget}"
            if other in names:
                found = stats.difference(accuracy.get(arm, {}), accuracy.get(other, {}))
                ends = {"": found.mean, "_low": found.low, "_high": found.high}
                row |= {f"less_{name}{end}": value for end, value in ends.items()}
        rows.append(row)
    columns = [f"less_{name}{end}" for name in AGAINST for end in ("", "_low", "_high")]
    return pd.DataFrame(rows).reindex(columns=["arm", *columns])


def _dense(table: pd.DataFrame, speed: Mapping[str, Any], measured: str) -> pd.DataFrame:
    """The row of the dense model."""
    known = table[list(summary.DENSE)].astype(float).mean()
    rate = float(speed.get("images_per_s", math.nan))
    row = {
        "arm": DENSE,
        "label": DENSE,
        "series": DENSE,
        "series_label": DENSE,
        "workload": table["workload"].iloc[0],
        "seeds": 1,
        "test_acc": known["dense_test_acc"],
        **{f"params{end}": known["dense_params"] for end in ("", "_min", "_max")},
        **{f"macs{end}": known["dense_macs"] for end in ("", "_min", "_max")},
        **{f"images_per_s{end}": rate for end in ("", "_min", "_max")},
        "over_dense": 1.0 if speed else math.nan,
        "measured": measured,
        "left_out": 0,
        "left_out_why": "",
        "leakage": "",
        **known,
    }
    return pd.DataFrame([row])


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """The paired differences of the table of `data`, a comparison a row, in percentage points.

    Columns: `arm`, `text`, `points`, `low`, `high` (nan where there is no interval).
    """
    rows = []
    names = dict(zip(table["series"], table["series_label"], strict=True))
    for series in dict.fromkeys(table["series"]):
        for other in AGAINST:
            own = table[(table["series"] == series) & table[f"less_{other}"].notna()]
            for _, arm in own.iterrows():
                budget = "" if math.isnan(arm["reduction"]) else f", -{arm['reduction']:.0f} %"
                mean, low, high = (100 * arm[f"less_{other}{e}"] for e in ("", "_low", "_high"))
                text = f"{names[series]} less {names[other]}{budget}"
                rows.append(
                    {"arm": arm["arm"], "text": text, "points": mean, "low": low, "high": high}
                )
    return pd.DataFrame(rows, columns=["arm", "text", "points", "low", "high"])


def _parts(table: pd.DataFrame) -> list[str]:
    """The panels that there is something for."""
    there = table[table["arm"] != DENSE]
    found = ["macs"] + ["images_per_s"] * bool(there["images_per_s"].notna().any())
    return found + ["differences"] * bool(len(compared(table)))


def axes(table: pd.DataFrame) -> list[Axes]:
    """A panel a cost, and one of the paired differences, with the note below them."""
    parts = _parts(table)
    heights = [
        2.75 if part != "differences" else 0.3 + 0.17 * len(compared(table)) for part in parts
    ]
    height = sum(heights) + 0.75 * (len(parts) - 1)
    made = style.new_figure(
        len(parts), 1, height=height, left=0.75, right=0.63, heights=heights, note=note(table)
    )
    panels: list[Axes] = list(made[:, 0])
    if parts[-1] == "differences":
        # Its texts stand where the other panels have their ticks.
        box, figure = panels[-1].get_position(), panels[-1].figure
        assert isinstance(figure, Figure)
        left = style.room(compared(table)["text"]) / figure.get_figwidth()
        panels[-1].set_position((left, box.y0, box.x1 - left, box.height))
    return panels


def note(table: pd.DataFrame) -> str:
    """What a reader must know of the figure, as one paragraph."""
    own = table[table["arm"] != DENSE]
    measured = own["images_per_s"].notna()
    speed = f"No speeds were measured: {MEASURE} does it."
    if measured.any():
        without = own[~measured & (own["seeds"] > 0)]
        missing = f" Without a speed: {'; '.join(without['label'])}." if len(without) else ""
        speed = (
            f"Images a second, mean over the seeds: {own.loc[measured, 'measured'].iloc[0]}; "
            f"random parameters, all models in turns.{missing}"
        )
    ranges = "Level bars: least to most of a seed." if (own["seeds"] > 1).any() else ""
    parts = [
        *notes.means(own),
        "Lines join the budgets of a method. Marks that would hide one another are moved apart "
        "sideways; the CSV has their places, and the parameters.",
        ranges,
        "The dense model is what all trials begin with, not trained further.",
        speed,
        "Differences: paired by seed, 95 % t interval; table_arms has the tests."
        if len(compared(table))
        else "",
    ]
    return notes.write(parts, own)


def draw(panels: Sequence[Axes], table: pd.DataFrame) -> None:
    """Draw the table of `data` into the axes of `axes`."""
    for ax, part in zip(panels, _parts(table), strict=True):
        if part == "differences":
            _draw_differences(ax, compared(table))
            continue
        across = MACS if part == "macs" else IMAGES
        shown = scatter.percent(table[table[across.column].notna()])
        draw_panel(ax, shown, across, bars=True)
    style.title(panels[0], f"Methods at the same MACs, workload {table['workload'].iloc[0]}")


def _draw_differences(ax: Axes, rows: pd.DataFrame) -> None:
    """Paired differences as marks with intervals, one below the other."""
    places = np.arange(len(rows))
    for place, (_, row) in zip(places, rows.iterrows(), strict=True):
        look = style.look(row["arm"])
        ax.plot([row["low"], row["high"]], [place, place], color=style.INK, linewidth=1.0)
        ax.plot(
            [row["points"]],
            [place],
            marker=look.marker,
            markersize=0.8 * look.size,
            color=look.color,
            markeredgecolor=style.INK,
            markeredgewidth=0.8,
            gid=f"difference:{row['text']}",
        )
    ax.axvline(0, color=style.QUIET, linestyle=(0, (5, 3)), linewidth=1.0, zorder=1)
    ax.set_yticks(places, rows["text"], fontsize=style.NOTE_PT)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("difference of test accuracy, percentage points")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a results directory into its folder `figures`; print table and paths."""
    return command.run(NAME, data, draw, argv, axes=axes, say=as_text)


def as_text(table: pd.DataFrame) -> str:
    """The table of `data` for a terminal: an arm a line, then the paired differences."""
    shown = pd.DataFrame(
        {
            "arm": table["label"],
            "seeds": table["seeds"],
            "test accuracy %": (100 * table["test_acc"]).map("{:.2f}".format),
            "params": table["params"].map("{:,.0f}".format),
            "MACs": table["macs"].map("{:,.0f}".format),
            "images/s": table["images_per_s"].map("{:,.0f}".format),
            "over dense": table["over_dense"].map("x{:.2f}".format),
            "left out": table["left_out_why"],
        }
    )
    rows = compared(table)
    pairs = pd.DataFrame(
        {
            "difference in percentage points": rows["text"],
            "mean": rows["points"].map("{:+.2f}".format),
            "low": rows["low"].map("{:+.2f}".format).replace("+nan", "no"),
            "high": rows["high"].map("{:+.2f}".format).replace("+nan", "interval"),
        }
    )
    parts = [shown.to_string(index=False)] + [pairs.to_string(index=False)] * bool(len(rows))
    return "\n\n".join(parts) + notes.leak_lines(table)


if __name__ == "__main__":
    raise SystemExit(main())
