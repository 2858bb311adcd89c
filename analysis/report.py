"""HTML report of a study: figures, tables, leakage, excluded trials, provenance.

`python analysis/report.py RESULTS`
"""

import argparse
import base64
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import pandas as pd

from adacomcat.cli.process import OK, USAGE, tolerant_output
from adacomcat.config import leakage_note
from adacomcat.files import WriteError, atomic_write_bytes
from analysis import command, load
from analysis.command import Made
from analysis.make_all import make_all

ROWS = 150
"""Rows of a figure's table on the page; the CSV file has all."""

WORDS = {"pending": "not begun", load.UNUSABLE: "no figure can use it"}

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "software": "versions",
        "hardware": "hardware",
        "execution": "execution",
        "splits": "split_hashes",
    }
)
"""Kind of shared information -> its key in the provenance of trials."""

# Neither control characters nor surrogates nor non-characters may stand in HTML.
_LAST = "".join(f"{chr(end - 1)}{chr(end)}" for end in range(0xFFFF, 0x110000, 0x10000))
_FORBIDDEN = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_LAST}]")

Trial = Mapping[str, Any]
"""A record of `load.records`."""


def counts(study: Mapping[str, Any], trials: Sequence[Trial]) -> pd.DataFrame:
    """One row per arm: how many of its trials have which status.

    Columns: `arm`, `asked`, `finished`, then one for each status that occurs besides. Trials
    of the study without a record are `pending`; arms that only records know, as those
    of an exploration, follow by their names, unusable trials of no arm as the arm `?`.

    Args:
        study: `study.json`.
        trials: of `load.records`.
    """
    labels = {arm["name"]: arm.get("label", arm["name"]) for arm in study["arms"]}
    stand = [(t["arm"], t["label"] or t["arm"], str(t["status"])) for t in trials]
    begun = {(t["arm"], t["seed"]) for t in trials}
    asked = ((name, seed) for name in labels for seed in study["seeds"])
    stand += [(name, labels[name], "pending") for name, seed in asked if (name, seed) not in begun]
    frame = pd.DataFrame(stand, columns=["name", "arm", "status"])
    wide = pd.crosstab(frame["name"], frame["status"])
    others = sorted(set(wide.index) - set(labels))
    statuses = ["finished", *(status for status in wide if status != "finished")]
    wide = wide.reindex(index=[*labels, *others], columns=statuses, fill_value=0)
    wide.insert(0, "asked", wide.sum(axis=1))
    names = dict(zip(frame["name"], frame["arm"], strict=True)) | labels
    wide.insert(0, "arm", [names[name] for name in wide.index])
    return wide.rename_axis(columns=None).reset_index(drop=True)


def provenance(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row per trial: its id, status, times, commit, and the numbers of its shared entries.

    `software`, `hardware`, `execution` and `splits` number the entries of `shared`, from 1.

    Args:
        trials: of `load.records`.
    """
    groups = shared(trials)
    rows = []
    for trial in trials:
        origin = trial["provenance"] or {}
        commit = str(origin.get("git_commit") or "")[:12]
        numbers = {
            kind: str(groups[kind].index(origin[key]) + 1) if origin.get(key) else ""
            for kind, key in KINDS.items()
        }
        leakage = trial["leakage"]
        rows.append(
            {
                "trial": trial["trial_id"],
                "status": trial["status"],
                "started (UTC)": _moment(trial["started"]),
                "finished (UTC)": _moment(trial["finished"]),
                "wall s": (trial["summary"] or {}).get("wall_s"),
                "commit": commit + (" + local changes" if origin.get("git_dirty") else ""),
                **numbers,
                "leakage": "unknown" if leakage is None else ", ".join(leakage) or "none",
                "remark": _remark(trial),
            }
        )
    return pd.DataFrame(rows)


def shared(trials: Sequence[Trial]) -> dict[str, list[dict[str, Any]]]:
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


def _remark(trial: Trial) -> str:
    return str(trial["error"] or (json.dumps(trial["stopped"]) if trial["stopped"] else ""))


def warnings(trials: Sequence[Trial]) -> list[str]:
    """Warnings at the top of the report."""
    said: list[str] = []
    leaking: dict[str, set[str]] = {}
    for trial in trials:
        leak = leakage_note(trial["leakage"] or [])
        leaking.setdefault(leak, set()).add(str(trial["label"] or trial["arm"]))
    safe = leaking.pop("", set())
    for leak, arms in sorted(leaking.items()):
        everywhere = len(leaking) == 1 and not safe
        said.append(f"{leak}: {'all arms' if everywhere else '; '.join(sorted(arms))}.")
    if not any(trial["status"] == "finished" for trial in trials):
        said.append("No trial has finished.")
    causes = Counter(str(trial["unusable"]) for trial in trials if trial["unusable"])
    if causes:
        listed = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items()))
        said.append(f"Left out, since no figure can use them: {listed}.")
    dirty = sum(bool((trial["provenance"] or {}).get("git_dirty")) for trial in trials)
    if dirty:
        said.append(f"{dirty} of {len(trials)} trials ran code with changes in no commit.")
    if len(commits := _commits(trials)) > 1:
        said.append(f"The trials ran the code of {len(commits)} different commits.")
    return said


def _commits(trials: Sequence[Trial]) -> list[str]:
    found = {str((trial["provenance"] or {}).get("git_commit") or "") for trial in trials}
    return sorted(found - {""})


def html_table(frame: pd.DataFrame, caption: str, limit: int | None = None) -> dict[str, Any]:
    """A table with its caption for the template; beyond `limit` rows it says how many are missing.

    Args:
        frame: numbers are set right, nan and None are empty.
        caption: plain text.
        limit: rows shown at most.
    """
    texts = (frame if limit is None else frame.head(limit)).map(cell)
    if len(frame) > len(texts):
        caption = f"{caption}; the first {len(texts)} of {len(frame):,} rows"
    left = command.text_columns(texts)
    classes = [f"r{n}" for n, column in enumerate(texts, start=1) if column not in left]
    with pd.option_context("display.max_colwidth", None):
        html = texts.to_html(index=False, border=0, classes=classes, justify="unset")
    return {"caption": caption, "html": html}


def cell(value: Any) -> str:
    """A value of a table, with as many digits as a reader can use."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.5g}"
    return str(value)


def build(results: Path, made: Sequence[Made]) -> str:
    """The page, as HTML.

    Args:
        results: a results directory.
        made: its figures and tables, as `make_all` gives them.

    Raises:
        ValueError: as `load.study`.
    """
    study, trials = load.study(results), load.records(results)
    stand = counts(study, trials)
    absent = pd.DataFrame(
        {
            "figure": _title(one),
            "question": one.exhibit.question,
            "why it is missing": "an error of the program: " * one.fault + one.reason,
        }
        for one in made
        if one.reason
    )
    commands = [f"git checkout {commit}" for commit in _commits(trials)]
    commands += [f"python {study['command']}"] if study.get("command") else []
    commands += ["python analysis/make_all.py RESULTS", "python analysis/report.py RESULTS"]
    config = results / "study.yaml"
    template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    made_of = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = made_of.from_string(template).render(
        title=f"{study['experiment']} on {study['workload']}",
        question=study.get("question") or "",
        warnings=warnings(trials),
        asked=int(stand["asked"].sum()),
        left_out=int(stand["asked"].sum() - stand["finished"].sum()),
        counts=html_table(stand, "Trials by arm and status"),
        causes=[
            f"{t['trial_id']}: {WORDS.get(t['status'], t['status'])}"
            + (f": {cause}" if (cause := _remark(t).partition("\n")[0]) else "")
            for t in trials
            if t["status"] != "finished"
        ],
        shown=[_section(one) for one in made if not one.reason],
        missing=html_table(absent, "Figures without data here") if len(absent) else None,
        provenance=html_table(provenance(trials), "One row per trial"),
        shared=shared(trials),
        commands="\n".join(commands),
        config=config.read_text("utf-8", errors="replace") if config.is_file() else None,
    )
    return _FORBIDDEN.sub("\ufffd", page)


def _section(one: Made) -> dict[str, Any]:
    """Template variables of a figure or a table."""
    files = {path.suffix: path for path in one.paths}
    # Labels such as "none" or "NA" are names here, not missing values.
    numbers = pd.read_csv(files[".csv"], keep_default_na=False, na_values=[""])
    picture = files.get(".png")
    return {
        "id": f"figure-{one.exhibit.name}",
        "title": _title(one),
        "question": one.exhibit.question,
        "note": one.note,
        "picture": base64.b64encode(picture.read_bytes()).decode() if picture else "",
        "summary": [html_table(frame, caption) for caption, frame in one.summary.items()],
        "file": f"{files['.csv'].name}, {len(numbers):,} rows",
        "numbers": html_table(numbers, files[".csv"].name, ROWS),
    }


def _title(one: Made) -> str:
    return one.exhibit.name.removeprefix("table_").replace("_", " ").capitalize()


@tolerant_output()
def main(argv: Sequence[str] | None = None) -> int:
    """Draw all figures of a results directory and write its page; print where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="a results directory, with its study.json")
    parser.add_argument("--out", type=Path, help="the file to write; default RESULTS/report.html")
    given = parser.parse_args(argv)
    try:
        made = make_all(given.results)
        content = build(given.results, made).encode()
        path = given.out or given.results / "report.html"
        atomic_write_bytes(path, content)
    except ValueError as error:
        print(f"report: {error}", file=sys.stderr)
        return USAGE
    except WriteError as error:
        return command.unwritable("report", error)
    written = sum(not one.reason for one in made)
    size = f"{len(content) / 1e6:.1f} MB"
    command.say(f"{path}: {size}, {written} of {len(made)} figures and tables")
    return OK


if __name__ == "__main__":
    raise SystemExit(main())
