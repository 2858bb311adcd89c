"""Figures and tables as commands."""

import argparse
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from adacomcat.cli.process import FAILED, OK, USAGE, tolerant_output
from adacomcat.files import WriteError, atomic_write_bytes
from analysis import style

KINDS = ("png", "pdf", "csv", "txt")
"""Endings of the files of an exhibit, pictures first."""

PLAIN = str.maketrans({"±": "+/-", "→": "->", "−": "-", "…": "...", "×": "x"})
"""ASCII replacements for terminals without Unicode."""

Summary = Mapping[str, pd.DataFrame]
"""Caption -> a small table of displayed texts."""


@dataclass(frozen=True)
class Exhibit:
    """A figure or a table of a results directory.

    Attributes:
        name: of its files, without an ending.
        question: the question that it answers.
        data: results directory, and `options` by keyword -> table; raises a ValueError that says
            what the results lack.
        summary: table -> the numbers in brief.
        note: table -> what a reader has to know, as one paragraph.
        draw: draws a table into an empty figure; None for a table.
        options: adds arguments to the parser of the command.
    """

    name: str
    question: str
    data: Callable[..., pd.DataFrame]
    summary: Callable[[pd.DataFrame], Summary]
    note: Callable[[pd.DataFrame], str]
    draw: Callable[[Figure, pd.DataFrame], None] | None = None
    options: Callable[[argparse.ArgumentParser], None] = field(default=lambda parser: None)

    def write(self, table: pd.DataFrame, results: Path) -> "Made":
        """Write the files of the exhibit into the folder `figures` of a results directory.

        Args:
            table: of `data`.
            results: the directory.

        Raises:
            WriteError: a file cannot be written.
        """
        summary, note = self.summary(table), self.note(table)
        path = results / "figures" / self.name
        paths = []
        if self.draw is not None:
            with style.shared_style():
                figure = style.new_figure()
                self.draw(figure, table)
                style.note(figure, note)
                paths = style.save(figure, path)
        csv, text = (path.with_name(f"{self.name}.{kind}") for kind in ("csv", "txt"))
        atomic_write_bytes(csv, table.to_csv(index=False).encode())
        paths.append(csv)
        if self.draw is None:
            atomic_write_bytes(text, f"{as_text(summary, note)}\n".encode())
            paths.append(text)
        return Made(self, tuple(paths), summary, note)


@dataclass(frozen=True)
class Made:
    """Outcome of an exhibit.

    Attributes:
        exhibit: what was to be made.
        paths: the files written; none where it is missing.
        summary: as `Exhibit.summary`.
        note: as `Exhibit.note`.
        reason: why it is missing, in a line; empty where it is there.
        fault: whether that is an error of this program and not of the results.
        seconds: that it took.
    """

    exhibit: Exhibit
    paths: tuple[Path, ...] = ()
    summary: Summary = field(default_factory=dict)
    note: str = ""
    reason: str = ""
    fault: bool = False
    seconds: float = 0.0


def as_text(summary: Summary, note: str) -> str:
    """A summary and its note for a terminal: texts set left, numbers right."""
    parts = []
    for caption, frame in summary.items():
        texts = frame.astype(str)
        left = text_columns(texts)
        widths = {c: max(len(c), *texts[c].str.len()) for c in left}
        shown = texts.assign(**{c: texts[c].str.ljust(width) for c, width in widths.items()})
        shown = shown.rename(columns={c: c.ljust(width) for c, width in widths.items()})
        lines = (line.rstrip() for line in shown.to_string(index=False).splitlines())
        parts.append("\n".join(filter(None, [caption, *lines])))
    return "\n\n".join([*parts, textwrap.fill(note, width=100)])


def text_columns(texts: pd.DataFrame) -> list[str]:
    """The columns of a table of texts that have a cell which begins with a letter."""
    return [str(c) for c in texts if texts[c].str.match(r"\s*[^\W\d]").any()]


def say(text: str) -> None:
    """Print a text, in ASCII where the terminal has no Unicode."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = text.translate(PLAIN)
    print(text, flush=True)


@tolerant_output()
def run(exhibits: Sequence[Exhibit], argv: Sequence[str] | None = None) -> int:
    """Make an exhibit of a results directory; print its summary and where its files are.

    Args:
        exhibits: those of a module; the first one, unless `--draw` names another.
        argv: the arguments; those of the process for None.

    Returns:
        The exit code: `USAGE` if the results lack something, `FAILED` if a file cannot be written;
        both are reported in one line.
    """
    first, *others = exhibits
    parser = argparse.ArgumentParser(description=first.question)
    parser.add_argument("results", type=Path, help="a results directory, with its study.json")
    names = {one.name: one for one in exhibits}
    if others:
        parser.add_argument(
            "--draw", choices=names, default=first.name, help="(default: %(default)s)"
        )
    first.options(parser)
    options = vars(parser.parse_args(argv))
    results, exhibit = options.pop("results"), names[options.pop("draw", first.name)]
    try:
        table = exhibit.data(results, **options)
    except ValueError as error:
        print(f"{exhibit.name}: {error}", file=sys.stderr)
        return USAGE
    try:
        made = exhibit.write(table, results)
    except WriteError as error:
        return unwritable(exhibit.name, error)
    say("\n".join([as_text(made.summary, made.note), "", *map(str, made.paths)]))
    return OK


def unwritable(command: str, error: WriteError) -> int:
    """Report in one line a file that cannot be written, and return the exit code."""
    print(f"{command}: cannot write {error.filename} ({error.strerror})", file=sys.stderr)
    return FAILED
