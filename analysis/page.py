"""Pieces of an HTML page that needs nothing but itself: no script, no network, no other file.

Every text goes through `text`, whatever it holds; what these functions return is HTML already.
"""

import base64
import html
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.image import imread

# Neither control characters nor surrogates nor non-characters may stand in HTML.
_LAST = "".join(f"{chr(end - 1)}{chr(end)}" for end in range(0xFFFF, 0x110000, 0x10000))
_FORBIDDEN = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_LAST}]")

STYLE = """
:root { --ink: #222; --quiet: #5c5c5c; --line: #d9d9d9; --warn: #8a3b00; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: #fff; color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .5rem; padding-top: .7rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; }
p, ul, ol, dl { margin: .4rem 0; }
a { color: #00527f; }
nav ul { columns: 18rem; padding-left: 1.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { color: var(--quiet); }
dd { margin: 0; min-width: 0; }
figure { margin: .5rem 0; }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid #00527f; }
.scroll > img { display: block; width: 100%; min-width: 38rem; max-width: 56rem; height: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); padding: .2rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .6rem .2rem 0; text-align: left;
  vertical-align: top; max-width: 26rem; }
th { font-weight: 600; }
#provenance td { white-space: nowrap; }
#provenance td:last-child { white-space: normal; }
#provenance td:last-child:not(:empty) { min-width: 26rem; }
td.number, th.number { text-align: right; white-space: nowrap; }
pre { font-size: .8rem; line-height: 1.4; background: #f6f6f6; padding: .6rem; margin: .4rem 0;
  overflow-x: auto; }
code { font-size: .9em; overflow-wrap: anywhere; }
summary { cursor: pointer; color: #00527f; }
.hint { display: none; }
.warn { border-left: 4px solid var(--warn); background: #fff4ea; padding: .5rem .8rem; }
.quiet { color: var(--quiet); }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  .hint { display: block; color: var(--quiet); font-size: .85rem; } }
@media print { details > * { display: block; } .scroll { overflow: visible; } }
"""


def text(value: Any) -> str:
    """A value as text of an element or of a quoted attribute, harmless whatever it is."""
    return html.escape(plain(str(value)), quote=True)


def plain(value: Any) -> Any:
    """A value out of JSON whose texts hold only what a page (and UTF-8) may hold."""
    if isinstance(value, dict):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return _FORBIDDEN.sub("\ufffd", value) if isinstance(value, str) else value


def page(title: str, body: Iterable[str]) -> str:
    """A whole document.

    Args:
        title: plain text.
        body: HTML.
    """
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # An icon of its own, or a browser looks for one beside the file.
        '<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    )
    return head + "\n".join(body) + "\n</body>\n</html>\n"


def section(anchor: str, title: str, *body: str) -> str:
    """A section with its heading; `anchor` is its id."""
    inside = "\n".join(part for part in body if part)
    return f'<section id="{text(anchor)}">\n<h2>{text(title)}</h2>\n{inside}\n</section>'


def paragraph(content: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{text(content)}</p>"


def pairs(entries: Iterable[tuple[str, str]]) -> str:
    """Names and plain texts, as a list of terms."""
    lines = [f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in entries]
    return f"<dl>{''.join(lines)}</dl>"


def bullets(items: Iterable[str]) -> str:
    """A list of plain texts."""
    return f"<ul>{''.join(f'<li>{text(item)}</li>' for item in items)}</ul>"


def code(content: str, name: str) -> str:
    """A block of preformatted text, reached and scrolled by keyboard under its name."""
    # The first line end of a `pre` is dropped by browsers.
    return f'<pre tabindex="0" role="region" aria-label="{text(name)}">\n{text(content)}</pre>'


def details(summary: str, *body: str) -> str:
    """What is there for whoever unfolds it."""
    inside = "\n".join(body)
    return f"<details><summary>{text(summary)}</summary>\n{inside}\n</details>"


def picture(path: Path, name: str) -> str:
    """A PNG file, inside of the page.

    Args:
        path: of the file.
        name: what a reader who does not see it hears.
    """
    height, width = imread(path).shape[:2]
    content = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><div class="scroll" tabindex="0" role="region" aria-label="{text(name)}">'
        f'<img src="data:image/png;base64,{content}" alt="{text(name)}" '
        f'width="{width}" height="{height}"></div>'
        '<figcaption class="hint">Wider than this window: scroll it sideways.</figcaption>'
        "</figure>"
    )


def table(rows: pd.DataFrame, name: str, limit: int | None = None) -> str:
    """A table; beyond `limit` rows it says how many are not shown.

    Args:
        rows: numbers are set right, nan and None are empty.
        name: its caption, plain text.
        limit: rows shown at most.
    """
    shown = rows if limit is None else rows.head(limit)
    numbers = [pd.api.types.is_numeric_dtype(rows[column].dtype) for column in rows.columns]
    kinds = [' class="number"' if number else "" for number in numbers]
    heads = [f'<th scope="col"{kind}>{text(c)}</th>' for c, kind in zip(rows, kinds, strict=True)]
    lines = [
        "<tr>" + "".join(f"<td{k}>{text(_cell(v))}</td>" for v, k in zip(row, kinds, strict=True))
        for row in shown.itertuples(index=False, name=None)
    ]
    hidden = len(rows) - len(shown)
    more = f"; the first {len(shown)} of {len(rows):,} rows" if hidden else ""
    body = "</tr>\n".join([*lines, ""])
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(name)}"><table>'
        f"<caption>{text(name + more)}</caption>\n<thead><tr>{''.join(heads)}</tr></thead>\n"
        f"<tbody>\n{body}</tbody></table></div>"
    )


def links(entries: Sequence[tuple[str, str]]) -> str:
    """Links to sections: (anchor, plain text)."""
    items = [f'<li><a href="#{text(anchor)}">{text(name)}</a></li>' for anchor, name in entries]
    return f'<nav aria-label="Contents"><ul>{"".join(items)}</ul></nav>'


def _cell(value: Any) -> str:
    """A value of a table in so many digits as a reader can use."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.5g}"
    return str(value)
