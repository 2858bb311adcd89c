"""The arms of a study in numbers: means, paired differences, and which losses the data rule out.

`python analysis/table_arms.py RESULTS`
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import arms, command, load, notes, stats, summary

NAME = "table_arms"

ARM_COLUMNS = (
    "arm",
    "label",
    "workload",
    "seeds",
    "test_acc",
    "test_acc_low",
    "test_acc_high",
    "interval",
    "searches",
    "searching_s",
    "params",
    "macs",
)

COMPARED_COLUMNS = (
    "against",
    "against_label",
    "family",
    "pairs",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "p_holm",
    "loss_bound",
    "ruled_out",
)

COLUMNS = (*ARM_COLUMNS, *COMPARED_COLUMNS, *notes.COLUMNS)

NAMES = frozenset({"arm", "less", "family", "ruled out", "left out"})
"""Columns that a terminal gets set left."""

LEGEND = (
    f"±: half of the {stats.LEVEL:.0%} t interval of a mean; [ ]: {stats.LEVEL:.0%} t interval of "
    "the mean of paired differences (same seed). p: paired t test, two-sided. Ruled out: by the "
    f"one-sided {stats.LEVEL:.0%} bound of the difference, each by itself. All this is over seeds, "
    "on one set of test images; accuracies go in steps of one image, and with few of either a t "
    "interval is rough."
)


def data(results: Path) -> pd.DataFrame:
    """One row an arm and what it is compared with; one row for an arm that is compared with none.

    References go by name (`analysis.arms`). The draws of a random schedule are also there as one
    arm, `random`: the mean over the draws, for each seed that all of them have finished.

    The columns of an arm, the same in all its rows: `arm`, `label`, `workload`; `seeds`, over which
    the means `test_acc` (a share, with the ends of its interval, and its name or why there is none
    as `interval`), `searches`, `searching_s` (seconds of searching and of putting plans in force),
    `params`, `macs` are taken.

    Those of a comparison: `against`, the reference (empty for none), with its `against_label`;
    `family`, what `p_holm` is corrected over; `pairs` of seeds; `difference`, the mean of the
    arm's accuracy less the reference's, with the ends of its 95 % t interval; `p` of the paired t
    test and `p_holm`; `loss_bound`, the largest loss that the data leave possible (one-sided,
    95 %); all shares. `ruled_out` says in words what they rule out. nan with fewer than three
    pairs, and where all differences are equal.

    `left_out`, `left_out_why`, `leakage`: as `notes.standing`; the arm `random` counts seeds, of
    trials that its draws count already.

    Args:
        results: a results directory.

    Raises:
        ValueError: as `load.trials`, or no trial has finished yet.
    """
    trials = with_pool(notes.sound(results))
    table = summary.arms(trials).merge(comparisons(trials), on="arm", how="left")
    for column in ("against", "against_label", "family", "ruled_out"):
        table[column] = table[column].fillna("")
    table["pairs"] = table["pairs"].fillna(0).astype(int)
    return table[list(COLUMNS)]


def with_pool(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials with those of the arm `arms.POOLED` after the last draw, where there are draws.

    Its trial of a seed is the mean of all draws' trials of it, and is finished where all of them
    are; else it stands as the first that is not.

    Args:
        trials: of `load.trials`.
    """
    names = list(trials["arm"].unique())
    found = arms.draws(names)
    if not found or arms.POOLED in names:
        return trials
    drawn = trials[trials["arm"].isin(found)]
    means = ["test_acc", "searches", "search_s", "rebuild_s", "params", "macs", *summary.DENSE]
    pooled = []
    for seed, of_seed in drawn.groupby("seed"):
        done = load.finished(of_seed)
        whole = set(done["arm"]) == set(found)
        first = (done if whole else of_seed[of_seed["status"] != "finished"]).iloc[0]
        row: dict[str, Any] = {
            "workload": first["workload"],
            "arm": arms.POOLED,
            "seed": seed,
            "label": f"random (mean of {len(found)} draws)",
            "status": first["status"],
            "unusable": first["unusable"],
            "leakage": load.leaks(of_seed),
        }
        if whole:
            row |= {name: done[name].astype(float).mean() for name in means}
        pooled.append(row)
    last = int(trials.index.get_indexer(drawn.index).max()) + 1
    made = pd.DataFrame(pooled).reindex(columns=trials.columns).astype(object)
    parts = [trials.iloc[:last].astype(object), made, trials.iloc[last:].astype(object)]
    return pd.concat(parts, ignore_index=True)


def comparisons(trials: pd.DataFrame) -> pd.DataFrame:
    """One row an arm and a reference of it, with `arm` and `COMPARED_COLUMNS`; see `data`.

    Args:
        trials: of `load.trials`.
    """
    done = load.finished(trials)
    names = list(trials["arm"].unique())
    labels = dict(zip(trials["arm"], trials["label"], strict=True))
    values: dict[str, Mapping[int, float]] = {
        name: of_arm.set_index("seed")["test_acc"].astype(float).to_dict()
        for name in names
        for of_arm in [done[done["arm"] == name]]
    }
    rows = []
    for arm in names:
        if arm == load.STRAY:
            continue
        for against, family in arms.references(arm, names).items():
            found = stats.difference(values[arm], values[against])
            rows.append(
                {
                    "arm": arm,
                    "against": against,
                    "against_label": labels[against],
                    "family": family,
                    "pairs": found.seeds,
                    "difference": found.mean,
                    "difference_low": found.low,
                    "difference_high": found.high,
                    "p": found.p,
                    "loss_bound": found.loss_bound,
                    "ruled_out": found.ruled_out(),
                }
            )
    table = pd.DataFrame(rows, columns=["arm", *(c for c in COMPARED_COLUMNS if c != "p_holm")])
    table["p_holm"] = table["p"].astype(float)
    for _, rows_of_family in table.groupby("family"):
        table.loc[rows_of_family.index, "p_holm"] = stats.holm(rows_of_family["p"])
    return table[["arm", *COMPARED_COLUMNS]]


def readable_arms(table: pd.DataFrame) -> pd.DataFrame:
    """The arms of the table of `data` as text, an arm a row."""
    table = table.drop_duplicates("arm")
    return pd.DataFrame(
        {
            "arm": table["label"],
            "seeds": table["seeds"].astype(str),
            "test accuracy %": [
                f"{_number(100 * row['test_acc'], '.2f')} {_half(row)}".strip()
                for _, row in table.iterrows()
            ],
            "searches": [_number(value, ".1f") for value in table["searches"]],
            "searching s": [_number(value, ",.1f") for value in table["searching_s"]],
            "params": [_number(value, ",.0f") for value in table["params"]],
            "MACs": [_number(value, ",.0f") for value in table["macs"]],
            "left out": table["left_out_why"],
        }
    ).reset_index(drop=True)


def readable_comparisons(table: pd.DataFrame) -> pd.DataFrame:
    """The comparisons of the table of `data` as text, a comparison a row, reference by reference.

    Differences are in percentage points.
    """
    table = table[table["against"] != ""]
    order = table["family"].map({name: i for i, name in enumerate(table["family"].unique())})
    table = table.loc[order.sort_values(kind="stable").index]
    return pd.DataFrame(
        {
            "arm": table["label"],
            "less": table["against_label"],
            "pairs": table["pairs"].astype(str),
            "points": [_points(row) for _, row in table.iterrows()],
            "p": [_number(p, ".3f") for p in table["p"]],
            "Holm": [_number(p, ".3f") for p in table["p_holm"]],
            "family": table["family"],
            "ruled out": table["ruled_out"],
        }
    ).reset_index(drop=True)


def families(table: pd.DataFrame) -> str:
    """The sentence on what the p-values of the table of `data` are corrected for."""
    tested = table[table["p_holm"].notna()]
    if tested.empty:
        return ""
    sizes = tested.groupby("family", sort=False).size()
    listed = [f"{family} ({notes.count([size], 'test')})" for family, size in sizes.items()]
    return f"Holm: p corrected for all tests of the same family: {', '.join(listed)}."


def _half(row: pd.Series) -> str:
    """What stands behind the mean of an arm: half of its interval, or that there is none."""
    if row["seeds"] == 0:
        return ""
    half = (row["test_acc_high"] - row["test_acc_low"]) / 2
    return "(no interval)" if math.isnan(half) else f"± {100 * half:.2f}"


def _points(row: pd.Series) -> str:
    if math.isnan(row["difference"]):
        return ""
    ends = row["difference_low"], row["difference_high"]
    span = f"[{100 * ends[0]:+.2f}, {100 * ends[1]:+.2f}]"
    shown = "(no interval)" if math.isnan(ends[0]) else span
    return f"{_number(100 * row['difference'], '+.2f')} {shown}"


def _number(value: float, form: str) -> str:
    # What rounds to zero has no sign.
    return "" if math.isnan(value) else format(round(value, 6) + 0.0, form)


def as_text(table: pd.DataFrame) -> str:
    """The table of `data` for a terminal: the arms, the comparisons, what the columns mean."""
    compared = readable_comparisons(table)
    parts = [command.aligned(readable_arms(table), names=NAMES)]
    if len(compared):
        title = "Paired differences of test accuracy, in percentage points:"
        parts.append(f"{title}\n{command.aligned(compared, names=NAMES)}")
    single = table[table["arm"] != arms.POOLED] if arms.draws([*table["arm"]]) else table
    parts.append(command.folded(notes.write([LEGEND, families(table)], single)))
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table of a results directory into its folder `figures`, and print it."""
    return command.run_table(NAME, data, as_text, argv)


if __name__ == "__main__":
    raise SystemExit(main())
