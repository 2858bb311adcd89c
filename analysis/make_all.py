"""Every figure and table that a results directory allows, and why the others are missing.

`python analysis/make_all.py RESULTS`
"""

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import pkgutil
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import ModuleType

import analysis
from analysis import command, load

PREFIXES = ("table_", "fig_")
"""What the names of the modules begin with that have a `main`; in the order of a report."""


@dataclass(frozen=True)
class Made:
    """What became of a figure or a table.

    Attributes:
        name: of its files, as its module says.
        title: the headline of its module.
        paths: the files written; none where it is missing.
        reason: why it is missing, in a line; empty where it is there.
        fault: whether that is an error of this program and not of the results.
        seconds: that it took.
    """

    name: str
    title: str
    paths: tuple[Path, ...]
    reason: str
    fault: bool
    seconds: float


def modules() -> list[ModuleType]:
    """The modules of all figures and tables of this package, tables first, then by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(analysis.__path__))
    return [
        importlib.import_module(f"analysis.{name}")
        for prefix in PREFIXES
        for name in names
        if name.startswith(prefix)
    ]


def make_all(results: Path) -> list[Made]:
    """Draw what the results allow into their folder `figures`.

    A figure that they do not allow, or that fails, keeps none of the others from being drawn. What
    an earlier call drew of it is deleted: files tell what the results say now.

    Args:
        results: a results directory.

    Raises:
        ValueError: no results directory at all, or none of its trials is usable: as
            `load.require_usable`.
    """
    load.require_usable(results)
    found = modules()
    if sys.platform == "linux" and (cores := len(os.sched_getaffinity(0))) > 1:
        # Forked, the processes have all modules already; to load them takes as long as to draw.
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(min(cores, len(found)), mp_context=fork) as pool:
            pairs = list(pool.map(_make, range(len(found)), repeat(results)))
    else:
        pairs = [_make(number, results) for number in range(len(found))]
    for _, wrong in pairs:
        sys.stderr.write(wrong)
    return [made for made, _ in pairs]


def as_text(made: Sequence[Made], seconds: float) -> str:
    """A line a figure: whether it was written, and in how many seconds, or why not.

    Args:
        made: of `make_all`.
        seconds: that all of it took; some are drawn at the same time.
    """
    width = max(len(one.name) for one in made)
    lines = []
    for one in made:
        state = "fault  " if one.fault else "missing" if one.reason else "written"
        what = one.reason or ", ".join(path.name for path in one.paths)
        lines.append(f"{one.name:<{width}}  {state}  {one.seconds:5.1f} s  {what}")
    written = sum(not one.reason for one in made)
    return "\n".join([*lines, f"{written} of {len(made)} written in {seconds:.1f} s"])


def main(argv: Sequence[str] | None = None) -> int:
    """Draw all figures; print a table; 0 if at least one was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="a results directory, with its study.json")
    results = parser.parse_args(argv).results
    start = time.perf_counter()
    try:
        made = make_all(results)
    except ValueError as error:
        print(f"make_all: {error}", file=sys.stderr)
        return 2
    print(as_text(made, time.perf_counter() - start))
    written = [one for one in made if not one.reason]
    if written:
        print(f"in {written[0].paths[0].parent}")
    return 0 if written else 1


def _make(number: int, results: Path) -> tuple[Made, str]:
    """Run the command of one figure; what became of it, and the traceback of its fault.

    Args:
        number: of its module in `modules()`.
        results: a results directory.
    """
    module = modules()[number]
    name = str(module.NAME)
    folder = results / "figures"
    for path in _files(folder, name):
        path.unlink()
    said, wrong = io.StringIO(), io.StringIO()
    start, reason, fault = time.perf_counter(), "", False
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
        try:
            code = module.main([str(results)])
        except Exception as error:
            # One figure's fault must not cost the others.
            code, fault = 1, True
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            traceback.print_exc(file=wrong)
    paths = tuple(_files(folder, name)) if code == 0 else ()
    if not paths and not reason:
        lines = wrong.getvalue().strip().splitlines()
        reason = lines[-1].removeprefix(f"{name}: ") if lines else "it wrote no file"
        reason = reason.removeprefix(f"{results}: ")
    seconds = time.perf_counter() - start
    made = Made(name, command.headline(module), paths, reason, fault, seconds)
    return made, wrong.getvalue() if fault else ""


def _files(folder: Path, name: str) -> list[Path]:
    """The files of a figure or a table, pictures first."""
    kinds = ("png", "pdf", "csv", "txt")
    return [path for kind in kinds if (path := folder / f"{name}.{kind}").exists()]


if __name__ == "__main__":
    raise SystemExit(main())
