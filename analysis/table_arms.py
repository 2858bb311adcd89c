"""Arms of a study: means, paired differences, and largest losses not ruled out.

`python analysis/table_arms.py RESULTS`
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import arms, command, load, notes, stats, summary

QUESTION = (
    "Do the arms differ by more than their seeds do, and how large a loss of accuracy do the "
    "data rule out?"
)

ARM_COLUMNS = (
    *"arm label workload seeds test_acc test_acc_low test_acc_high interval".split(),
    *"searches searching_s params macs".split(),
)

COMPARED_COLUMNS = (
    *"against against_label family pairs difference difference_low difference_high".split(),
    *"p p_holm loss_bound ruled_out".split(),
)

COLUMNS = (*ARM_COLUMNS, *COMPARED_COLUMNS, *notes.COLUMNS)

LEGEND = (
    f"±: half of the {stats.LEVEL:.0%} t interval of a mean; [ ]: {stats.LEVEL:.0%} t interval of "
    "the mean of paired differences (same seed). p: paired t test, two-sided. Ruled out: by the "
    f"one-sided {stats.LEVEL:.0%} bound of the difference, each by itself. All this is over seeds, "
    "on one set of test images; accuracies go in steps of one image, and with few of either a t "
    "interval is rough."
)


def data(results: Path) -> pd.DataFrame:
    """One row per arm and reference; one row for an arm that is compared with none.

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
            "method": first["method"],
        }
        if whole:
            row |= {name: done[name].astype(float).mean() for name in means}
        pooled.append(row)
    last = int(trials.index.get_indexer(drawn.index).max()) + 1
    made = pd.DataFrame(pooled).reindex(columns=trials.columns).astype(object)
    parts = [trials.iloc[:last].astype(object), made, trials.iloc[last:].astype(object)]
    return pd.concat(parts, ignore_index=True)


def comparisons(trials: pd.DataFrame) -> pd.DataFrame:
    """One row per arm and reference, with `arm` and `COMPARED_COLUMNS`; see `data`.

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
    known = trials.dropna(subset=["method"])
    methods = dict(zip(known["arm"], known["method"], strict=True))
    rows = []
    for arm in names:
        if arm == load.STRAY:
            continue
        for against, family in arms.references(arm, names, methods).items():
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


def summarize(table: pd.DataFrame) -> command.Summary:
    """The arms, one per row, and their comparisons, reference by reference."""
    each = summary.brief(table.drop_duplicates("arm"), "searches", "searching_s", "params", "macs")
    pairs = table[table["against"] != ""]
    order = pairs["family"].map({name: i for i, name in enumerate(pairs["family"].unique())})
    pairs = pairs.loc[order.sort_values(kind="stable").index]
    compared = pd.DataFrame(
        {
            "arm": pairs["label"],
            "less": pairs["against_label"],
            "pairs": pairs["pairs"],
            "points": [points(row) for _, row in pairs.iterrows()],
            "p": summary.texts(pairs["p"], ".3f"),
            "Holm": summary.texts(pairs["p_holm"], ".3f"),
            "family": pairs["family"],
            "ruled out": pairs["ruled_out"],
        }
    )
    caption = "Paired differences of test accuracy, in percentage points"
    return {"Arms": each} | ({caption: compared} if len(compared) else {})


def families(table: pd.DataFrame) -> str:
    """Sentence about the correction of the p-values in the table of `data`."""
    tested = table[table["p_holm"].notna()]
    if tested.empty:
        return ""
    sizes = tested.groupby("family", sort=False).size()
    listed = [f"{family} ({notes.count([size], 'test')})" for family, size in sizes.items()]
    return f"Holm: p corrected for all tests of the same family: {', '.join(listed)}."


def points(row: pd.Series) -> str:
    """The difference of a comparison with its interval, in percentage points."""
    if math.isnan(row["difference"]):
        return ""
    ends = (f"{100 * row[f'difference_{end}']:+.2f}" for end in ("low", "high"))
    span = "(no interval)" if math.isnan(row["difference_low"]) else f"[{', '.join(ends)}]"
    return f"{summary.texts([100 * row['difference']], '+.2f')[0]} {span}"


def note(table: pd.DataFrame) -> str:
    """Note below the table, as one paragraph."""
    single = table[table["arm"] != arms.POOLED] if arms.draws([*table["arm"]]) else table
    return notes.write([LEGEND, families(table)], single)


EXHIBITS = (command.Exhibit("table_arms", QUESTION, data, summarize, note),)

main = partial(command.run, EXHIBITS)

if __name__ == "__main__":
    raise SystemExit(main())
