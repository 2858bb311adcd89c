"""A study as one HTML page: figures, tables, what leaked, what was left out, and provenance.

`python analysis/report.py RESULTS`
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from adacomcat.config import leakage_note
from adacomcat.files import atomic_write_bytes
from analysis import load, page
from analysis.make_all import Made, make_all

QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "table_arms": "Do the arms differ by more than their seeds do, and how large a loss of "
        "accuracy do the data rule out?",
        "table_changes": "Do ranks still change after the first search, and do they grow or "
        "shrink?",
        "accuracy_vs_searches": "What accuracy does a schedule reach with how many searches?",
        "accuracy_vs_search_time": "What accuracy does a schedule reach for how many seconds of "
        "searching?",
        "accuracy_vs_cost": "What accuracy is left at how many parameters and "
        "multiply-accumulates?",
        "methods": "Which method leaves the most accuracy at the same multiply-accumulates, and at "
        "the same measured speed?",
        "token_sources": "Which patches of an image does each surviving token stand for?",
        "time": "Where does the time of a trial go, and how much of it could any schedule save?",
        "intervals": "When does each schedule search, and how does its interval grow?",
        "ranks": "Do ranks still move after the first search, and where in the model?",
        "staleness": "How far is the plan in force from what a search at every epoch would "
        "propose?",
        "probabilities": "Do the logits commit to a rank, and which ranks does the search leave?",
        "confounds": "What does each choice of the reference cost or give?",
        "coefficients": "Which coefficients does the exploration favor, and what rule do they "
        "make?",
    }
)
"""What each figure or table answers, in the order of the page; others follow by their headline."""

ROWS = 150
"""Of a figure's table, at most; its CSV file has all."""

WORDS = {"pending": "not begun", load.UNUSABLE: "no figure can use it"}


def records(results: Path) -> list[dict[str, Any]]:
    """The records of `load.records`, with texts that a page may hold."""
    return [page.plain(record) for record in load.records(results)]


def counts(study: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row an arm: how many of its trials stand how.

    Columns: `arm`, `asked`, `finished`, then a column a status that occurs besides. Trials that the
    study asks for and that have no record are `pending`; arms that only records know, as those of
    an exploration, follow by their names, unusable trials of no arm as the arm `?`.

    Args:
        study: `study.json`.
        trials: of `records`.
    """
    labels = {arm["name"]: arm.get("label", arm["name"]) for arm in study["arms"]}
    stand = [(t["arm"], t["label"] or t["arm"], str(t["status"])) for t in trials]
    begun = {(t["arm"], t["seed"]) for t in trials}
    for name, label in labels.items():
        missing = [seed for seed in study["seeds"] if (name, seed) not in begun]
        stand += [(name, label, "pending")] * len(missing)
    others = sorted({name for name, _, _ in stand} - set(labels))
    statuses = ["finished", *sorted({status for _, _, status in stand} - {"finished"})]
    names = dict(labels) | {name: label for name, label, _ in stand if name in others}
    rows = []
    for name in [*labels, *others]:
        here = [status for arm, _, status in stand if arm == name]
        row = {"arm": names[name], "asked": len(here)}
        rows.append(row | {status: here.count(status) for status in statuses})
    return pd.DataFrame(rows, columns=["arm", "asked", *statuses])


def provenance(trials: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a trial: its id, standing, times, commit, and the numbers of what it shares.

    `software`, `hardware`, `execution` and `splits` number the entries of `shared`, from 1.

    Args:
        trials: of `records`.
    """
    groups = shared(trials)
    rows = []
    for trial in trials:
        origin = trial["provenance"] or {}
        stopped = trial["stopped"]
        commit = str(origin.get("git_commit") or "")[:12]
        rows.append(
            {
                "trial": trial["trial_id"],
                "status": trial["status"],
                "started (UTC)": _moment(trial["started"]),
                "finished (UTC)": _moment(trial["finished"]),
                "wall s": (trial["summary"] or {}).get("wall_s"),
                "commit": commit + (" + local changes" if origin.get("git_dirty") else ""),
                **{kind: _number(groups[kind], origin.get(KINDS[kind])) for kind in KINDS},
                "leakage": _uses(trial["leakage"]),
                "remark": trial["error"] or (json.dumps(stopped) if stopped else ""),
            }
        )
    return pd.DataFrame(rows)


KINDS: Mapping[str, str] = MappingProxyType(
    {
        "software": "versions",
        "hardware": "hardware",
        "execution": "execution",
        "splits": "split_hashes",
    }
)
"""What trials share, and its key in their provenance."""


def shared(trials: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The different versions, machines and splits of the trials: kind -> each once."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for trial in trials:
        for kind, key in KINDS.items():
            entry = (trial["provenance"] or {}).get(key)
            if entry and entry not in found[kind]:
                found[kind].append(entry)
    return found


def _moment(written: Any) -> str:
    """A time as the store writes it, shorter."""
    return str(written or "").replace("T", " ").removesuffix("+00:00")


def _uses(leakage: Sequence[str] | None) -> str:
    """What saw the images that a trial is reported on, in a cell of a table."""
    return "unknown" if leakage is None else ", ".join(leakage) or "none"


def _number(entries: Sequence[dict[str, Any]], entry: Any) -> str:
    return str(entries.index(entry) + 1) if entry else ""


def build(results: Path, made: Sequence[Made]) -> str:
    """The page, as HTML.

    Args:
        results: a results directory.
        made: its figures and tables, as `make_all` gives them.

    Raises:
        ValueError: as `load.study`.
    """
    study, trials = page.plain(load.study(results)), records(results)
    order = list(QUESTIONS)
    ranked = sorted(made, key=lambda m: order.index(m.name) if m.name in order else len(order))
    there = [one for one in ranked if not one.reason]
    absent = [one for one in ranked if one.reason]
    title = f"{study['experiment']} on {study['workload']}"
    entries = [("trials", "Trials"), *((_anchor(one), _title(one)) for one in there)]
    entries += [("missing", "Not drawn")] if absent else []
    entries += [("provenance", "Provenance"), ("reproduce", "How to reproduce")]
    body = [
        f"<header><h1>{page.text(title)}</h1>",
        page.paragraph(study.get("question") or ""),
        *_warnings(trials),
        page.links(entries),
        "</header>\n<main>",
        _trials(study, trials),
        *(_figure(one) for one in there),
        _absent(absent),
        _provenance(trials),
        _reproduce(study, results, trials),
        "</main>",
    ]
    return page.page(title, filter(None, body))


def main(argv: Sequence[str] | None = None) -> int:
    """Draw all figures of a results directory and write its page; print where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="a results directory, with its study.json")
    parser.add_argument("--out", type=Path, help="the file to write; default RESULTS/report.html")
    given = parser.parse_args(argv)
    try:
        made = make_all(given.results)
        content = build(given.results, made).encode()
    except ValueError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    path = given.out or given.results / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, content)
    written = sum(not one.reason for one in made)
    print(f"{path}: {len(content) / 1e6:.1f} MB, {written} of {len(made)} figures and tables")
    return 0


def _anchor(one: Made) -> str:
    return f"figure-{one.name}"


def _title(one: Made) -> str:
    return one.name.removeprefix("table_").replace("_", " ").capitalize()


def _warnings(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must be read before any number."""
    said = []
    leaks = sorted({leakage_note(trial["leakage"] or []) for trial in trials} - {""})
    for leak in leaks:
        arms = sorted(
            {
                str(t["label"] or t["arm"])
                for t in trials
                if leakage_note(t["leakage"] or []) == leak
            }
        )
        everywhere = len(arms) == len({t["label"] or t["arm"] for t in trials})
        said.append(f"{leak}: {'all arms' if everywhere else '; '.join(arms)}.")
    finished = sum(trial["status"] == "finished" for trial in trials)
    if not finished:
        said.append("No trial has finished.")
    causes = Counter(str(trial["unusable"]) for trial in trials if trial["unusable"])
    if causes:
        listed = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items()))
        said.append(f"Left out, since no figure can use them: {listed}.")
    dirty = sum(bool((trial["provenance"] or {}).get("git_dirty")) for trial in trials)
    if dirty:
        said.append(f"{dirty} of {len(trials)} trials ran code with changes in no commit.")
    commits = {(trial["provenance"] or {}).get("git_commit") for trial in trials} - {None}
    if len(commits) > 1:
        said.append(f"The trials ran the code of {len(commits)} different commits.")
    return [page.paragraph(sentence, "warn") for sentence in said]


def _trials(study: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> str:
    """How the trials stand, and why those that no figure shows are left out."""
    table = counts(study, trials)
    total = int(table["asked"].sum())
    left = total - int(table["finished"].sum())
    sentence = f"{total} trials; figures show the finished ones. Left out: {left}."
    causes = []
    for trial in trials:
        if trial["status"] != "finished":
            why = trial["error"] or (trial["stopped"] and json.dumps(trial["stopped"])) or ""
            cause = str(why).partition("\n")[0]
            word = WORDS.get(str(trial["status"]), str(trial["status"]))
            causes.append(f"{trial['trial_id']}: {word}{': ' if cause else ''}{cause}")
    listed = (
        page.details(f"Trials left out that have a record ({len(causes)})", page.bullets(causes))
        if causes
        else ""
    )
    return page.section(
        "trials",
        "Trials",
        page.paragraph(sentence),
        page.table(table, "Trials by arm and status"),
        listed,
    )


def _figure(one: Made) -> str:
    """A figure or table: its question, the picture, and the numbers behind it."""
    files = {path.suffix: path for path in one.paths}
    question = QUESTIONS.get(one.name, one.title)
    body = [page.paragraph(question)]
    if ".png" in files:
        body.append(page.picture(files[".png"], one.title))
    if ".txt" in files:
        body.append(page.code(files[".txt"].read_text(), _title(one)))
    if ".csv" in files:
        rows = _read(files[".csv"])
        name = f"{files['.csv'].name}, {len(rows):,} rows"
        body.append(page.details(f"Numbers: {name}", page.table(rows, files[".csv"].name, ROWS)))
    return page.section(_anchor(one), _title(one), *body)


def _read(path: Path) -> pd.DataFrame:
    """A figure's CSV."""
    # Labels such as "none" or "NA" are names here, not holes.
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def _absent(absent: Sequence[Made]) -> str:
    if not absent:
        return ""
    columns = page.plain(
        {
            "figure": [_title(one) for one in absent],
            "question": [QUESTIONS.get(one.name, one.title) for one in absent],
            "why it is missing": [
                f"an error of the program: {one.reason}" if one.fault else one.reason
                for one in absent
            ],
        }
    )
    table = page.table(pd.DataFrame(columns), "Figures without data here")
    return page.section("missing", "Not drawn", table)


def _provenance(trials: Sequence[Mapping[str, Any]]) -> str:
    """Where every trial comes from; what they share is said once."""
    body = (
        [page.table(provenance(trials), "One row a trial")]
        if trials
        else [page.paragraph("There is no trial.")]
    )
    for kind, entries in shared(trials).items():
        for number, entry in enumerate(entries, start=1):
            facts = [(str(key), _fact(value)) for key, value in entry.items()]
            body += [f"<h3>{page.text(f'{kind.capitalize()} {number}')}</h3>", page.pairs(facts)]
    return page.section("provenance", "Provenance", *body)


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _reproduce(study: Mapping[str, Any], results: Path, trials: Sequence[Mapping[str, Any]]) -> str:
    """The commands, and the study as a file to run."""
    commits = sorted({str((t["provenance"] or {}).get("git_commit") or "") for t in trials} - {""})
    steps = [f"git checkout {commit}" for commit in commits]
    steps += [f"python {study['command']}"] if study.get("command") else []
    steps += ["python analysis/make_all.py RESULTS", "python analysis/report.py RESULTS"]
    body = [page.code("\n".join(steps), "Commands")]
    config = results / "study.yaml"
    if config.is_file():
        body.append(page.paragraph("Or save the text below as study.yaml and run:"))
        command = "python study/run.py --config study.yaml --results RESULTS"
        body.append(page.code(command, "Command for study.yaml"))
        content = config.read_text(errors="replace")
        body.append(page.details("study.yaml", page.code(content, "study.yaml")))
    return page.section("reproduce", "How to reproduce", *body)


if __name__ == "__main__":
    raise SystemExit(main())
