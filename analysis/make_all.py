"""All figures and tables that a results directory allows.

`python analysis/make_all.py RESULTS`
"""

import argparse
import dataclasses
import importlib
import pkgutil
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import analysis
from adacomcat.cli.process import USAGE, tolerant_output
from adacomcat.files import WriteError
from analysis import load
from analysis.command import KINDS, Exhibit, Made, say, unwritable


def exhibits(first: Sequence[str] = ()) -> list[Exhibit]:
    """The exhibits of all modules `table_*` and `fig_*` of this package.

    Args:
        first: modules that precede all others, in this order; unknown ones are ignored. Tables
            and then figures follow, by name.
    """
    names = sorted(info.name for info in pkgutil.iter_modules(analysis.__path__))
    by_name = [n for prefix in ("table_", "fig_") for n in names if n.startswith(prefix)]
    ordered = dict.fromkeys([*(n for n in first if n in by_name), *by_name])
    modules = [importlib.import_module(f"analysis.{name}") for name in ordered]
    return [exhibit for module in modules for exhibit in module.EXHIBITS]


def make_all(results: Path) -> list[Made]:
    """Make everything that the results allow, in their folder `figures`.

    The exhibits that the experiment names come first: they answer its question. An exhibit that
    the results do not allow, or that fails, does not keep the others from being made. Its files
    from an earlier call are deleted: files show the current results.

    Args:
        results: a results directory.

    Raises:
        ValueError: no results directory at all, or none of its trials is usable: as
            `load.require_usable`.
        WriteError: a file cannot be written.
    """
    load.require_usable(results)
    first = load.study(results).get("figures", [])  # Studies of earlier versions have none.
    return [_make(exhibit, results) for exhibit in exhibits(first)]


def _make(exhibit: Exhibit, results: Path) -> Made:
    for kind in KINDS:
        _remove(results / "figures" / f"{exhibit.name}.{kind}")
    start = time.perf_counter()
    try:
        try:
            table = exhibit.data(results)
        except ValueError as error:
            made = Made(exhibit, reason=str(error).removeprefix(f"{results}: "))
        else:
            made = exhibit.write(table, results)
    except WriteError:
        raise  # On a full disk none of the others could be written either.
    except Exception as error:
        # One exhibit's fault must not cost the others.
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        made = Made(exhibit, reason=reason, fault=True)
        traceback.print_exc()
    return dataclasses.replace(made, seconds=time.perf_counter() - start)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(path)) from None


def as_text(made: Sequence[Made]) -> str:
    """A line per exhibit: whether it was written, and in how many seconds, or why not."""
    width = max(len(one.exhibit.name) for one in made)
    lines = []
    for one in made:
        state = "fault  " if one.fault else "missing" if one.reason else "written"
        what = one.reason or ", ".join(path.name for path in one.paths)
        lines.append(f"{one.exhibit.name:<{width}}  {state}  {one.seconds:5.1f} s  {what}")
    written = sum(not one.reason for one in made)
    return "\n".join([*lines, f"{written} of {len(made)} written"])


@tolerant_output()
def main(argv: Sequence[str] | None = None) -> int:
    """Make all figures and tables; print a line each; 0 if at least one was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="a results directory, with its study.json")
    results = parser.parse_args(argv).results
    try:
        made = make_all(results)
    except ValueError as error:
        print(f"make_all: {error}", file=sys.stderr)
        return USAGE
    except WriteError as error:
        return unwritable("make_all", error)
    say(f"{as_text(made)}\nin {results / 'figures'}")
    return int(all(one.reason for one in made))


if __name__ == "__main__":
    raise SystemExit(main())
