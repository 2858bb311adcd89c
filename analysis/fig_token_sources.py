"""Which patches of an image each surviving token stands for, block by block, on the image.

`python analysis/fig_token_sources.py FOLDER` draws FOLDER/tokens.npz, which
`python -m adacomcat trace --from DIR --image F... --output FOLDER/tokens.npz` writes.
"""

import argparse
import colorsys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from adacomcat.checks import require
from analysis import command, style

NAME = "token_sources"

FILE = "tokens.npz"
ENTRIES = frozenset({"images", "names", "tokens", "counts", "model", "container"})

COLUMNS = ("name", "image", "block", "row", "column", "token", "patches")

DROPPED = -1
"""The token of a patch that no token stands for."""

MOST = 6
"""Blocks that are drawn where nobody says which."""

KEPT, SLATE = 0.2, (0.2, 0.2, 0.27)
"""A dropped patch keeps this share of its colors, and has the rest of this one: it must be told
from a black background."""

WIDTH, LEFT, GAP, BELOW = 7.4, 0.12, 0.06, 0.24
"""Of the figure, the air at its sides, and that between its columns and its rows; in inches."""

SMALL = 6.5
"""Points of what stands above a picture."""

GOLDEN = (5**0.5 - 1) / 2
"""Of the circle of hues, from one token to the next: neighbors differ most."""

Pixels = NDArray[np.float64]


def data(results: Path, blocks: Sequence[int] | None = None) -> pd.DataFrame:
    """One row an image, block and patch, with the columns `COLUMNS`.

    `row` and `column` say where the patch is; `token` names the token that stands for it (`DROPPED`
    for none), the same in all blocks, and `patches` for how many that one stands (0 for none).
    `attrs` has what the drawing needs besides: `images` (I, H, W, C) as bytes, `model`,
    `container`, and `patches`, those of a whole image.

    Args:
        results: a folder with `FILE`.
        blocks: which to show; None: those in which tokens are dropped or merged, `MOST` of them,
            evenly spread, where there are more.

    Raises:
        ValueError: no such file, one that is damaged or of something else, or blocks that the model
            does not have.
    """
    found = _read(results / FILE)
    tokens = found["tokens"]
    images, depth, patches = tokens.shape
    chosen = _falling(found["counts"]) if blocks is None else list(blocks)
    for block in chosen:
        require(0 <= block < depth, "--blocks", block, f"from 0 to {depth - 1}")
    side = round(patches**0.5)
    assert side**2 == patches, patches
    tables = []
    for image, block in np.ndindex(images, len(chosen)):
        own = tokens[image, chosen[block]]
        sizes = np.where(own == DROPPED, 0, (own[:, None] == own).sum(axis=1))
        places = np.arange(patches)
        tables.append(
            pd.DataFrame(
                {
                    "name": str(found["names"][image]),
                    "image": image,
                    "block": chosen[block],
                    "row": places // side,
                    "column": places % side,
                    "token": own,
                    "patches": sizes,
                }
            )
        )
    table = pd.concat(tables, ignore_index=True)[list(COLUMNS)]
    table.attrs = {
        "images": found["images"],
        "model": str(found["model"]),
        "container": str(found["container"]),
        "patches": patches,
    }
    return table


def _read(path: Path) -> dict[str, NDArray[Any]]:
    made = "what `python -m adacomcat trace --from DIR --image F --output FILE` writes"
    if not path.is_file():
        raise ValueError(f"{path.parent}: {FILE}: got no such file, allowed: {made}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: got a file that does not read ({error}), allowed: {made}"
        ) from None
    missing = sorted(ENTRIES - found.keys())
    require(not missing, f"{path}: without", missing, made)
    return found


def _falling(counts: NDArray[Any]) -> list[int]:
    """The blocks that leave fewer patches than came in; some of them where there are many."""
    falling = np.flatnonzero(counts[:, 2] < counts[:, 0])
    picked = np.linspace(0, len(falling) - 1, min(MOST, len(falling))).round().astype(int)
    return [int(block) for block in falling[picked]] or [len(counts) - 1]


def axes(table: pd.DataFrame) -> NDArray[Any]:
    """An array of axes, (images, 1 + blocks), with the note below."""
    images, columns = table["image"].nunique(), 1 + table["block"].nunique()
    side = _side(columns)
    room = columns * side + (columns - 1) * GAP
    return style.new_figure(
        images,
        columns,
        width=WIDTH,
        height=images * side + (images - 1) * BELOW,
        left=LEFT,
        right=WIDTH - LEFT - room,
        top=0.55,
        below=0.08,
        across=GAP,
        down=BELOW,
        note=note(table),
    )


def _side(columns: int) -> float:
    """Of a picture, in inches; few blocks would make pictures larger than they need be."""
    return min((WIDTH - 2 * LEFT - GAP * (columns - 1)) / columns, 1.5)


def note(table: pd.DataFrame) -> str:
    """What a reader must know of the figure, as one paragraph."""
    return (
        "As the image where a token stands for that patch alone; one color, the mean of its "
        "pixels, with an outline, where one stands for several (the same hue in all blocks); dark "
        "slate where a patch was dropped. Counts: tokens left of as many patches."
    )


def draw(panels: NDArray[Any], table: pd.DataFrame) -> None:
    """Draw the table of `data` into the axes of `axes`: a row an image, a column a block."""
    shown, whole = table.attrs["images"], table.attrs["patches"]
    for row, (image, of_image) in enumerate(table.groupby("image", sort=True)):
        pixels = _colors(shown[image])
        _show(panels[row, 0], pixels)
        _head(panels[row, 0], str(of_image["name"].iloc[0]))
        for column, (block, patches) in enumerate(of_image.groupby("block", sort=True), start=1):
            ax = panels[row, column]
            left = patches.loc[patches["token"] != DROPPED, "token"].nunique()
            _head(ax, f"block {block}: {left} of {whole}")
            tokens = patches.pivot(index="row", columns="column", values="token").to_numpy()
            sizes = patches.pivot(index="row", columns="column", values="patches").to_numpy()
            _show(ax, filled(pixels, tokens, sizes))
            _outline(ax, tokens, sizes, pixels.shape[0] / len(tokens))
    name, container = table.attrs["model"], table.attrs["container"]
    where = "" if container == "blocks" else f", {container}"
    style.headline(panels[0, 0].figure, f"What each token stands for, {name}{where}")


def filled(pixels: Pixels, tokens: NDArray[Any], sizes: NDArray[Any]) -> Pixels:
    """An image with a color for each token that stands for several patches.

    Args:
        pixels: (H, W, 3), from 0 to 1.
        tokens: (rows, columns) of patches.
        sizes: likewise, for how many patches the token of each stands.

    Returns:
        (H, W, 3).
    """
    found = pixels.copy()
    high, wide = len(pixels) // len(tokens), pixels.shape[1] // tokens.shape[1]
    owners = tokens.repeat(high, axis=0).repeat(wide, axis=1)
    for token in np.unique(tokens[sizes > 1]):
        found[owners == token] = pixels[owners == token].mean(axis=0)
    dropped = owners == DROPPED
    found[dropped] = KEPT * pixels[dropped] + (1 - KEPT) * np.array(SLATE)
    return found


def borders(tokens: NDArray[Any], token: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The sides of patches between a token and all else: (x, y) of both ends, in patches."""
    own = np.pad(tokens == token, 1)
    upright = [
        ((int(x), int(y)), (int(x), int(y) + 1))
        for y, x in np.argwhere(own[1:-1, 1:] != own[1:-1, :-1])
    ]
    level = [
        ((int(x), int(y)), (int(x) + 1, int(y)))
        for y, x in np.argwhere(own[1:, 1:-1] != own[:-1, 1:-1])
    ]
    return upright + level


def hue(token: int) -> tuple[float, float, float]:
    """The color of a token's outline, the same in all blocks."""
    return colorsys.hsv_to_rgb(token * GOLDEN % 1, 0.9, 1.0)


def _colors(image: NDArray[Any]) -> Pixels:
    """Bytes (H, W, C) as (H, W, 3), from 0 to 1; gray has all three colors."""
    return np.broadcast_to(image / 255, (*image.shape[:2], 3))


def _head(ax: Axes, text: str) -> None:
    """Write above a picture, in one line and no further than it goes."""
    title = ax.set_title(text, fontsize=SMALL, loc="left", pad=2)
    room = ax.get_window_extent().width
    while title.get_window_extent().width > room:
        text = text[:-1]
        title.set_text(f"{text}\u2026")


def _show(ax: Axes, pixels: Pixels) -> None:
    high, wide = pixels.shape[:2]
    ax.imshow(pixels, interpolation="nearest", extent=(0, wide, high, 0))
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def _outline(ax: Axes, tokens: NDArray[Any], sizes: NDArray[Any], side: float) -> None:
    """Outline the tokens that stand for several patches; `side` is that of a patch, in pixels."""
    for token in np.unique(tokens[sizes > 1]):
        lines = np.array(borders(tokens, token), float) * side
        made = LineCollection(
            list(lines),
            colors=[hue(int(token))],
            linewidths=0.7,
            capstyle="projecting",
            gid=f"token:{token}",
        )
        ax.add_collection(made, autolim=False)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--blocks", type=int, nargs="+", metavar="N", help="which to show, from 0")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a folder into its folder `figures`; print table and paths."""
    return command.run(NAME, data, draw, argv, axes=axes, say=as_text, options=_options)


def as_text(table: pd.DataFrame) -> str:
    """The table of `data` for a terminal: an image and a block a line."""
    rows = [
        {
            "image": name,
            "block": block,
            "tokens": some.loc[some["token"] != DROPPED, "token"].nunique(),
            "patches merged": int((some["patches"] > 1).sum()),
            "dropped": int((some["token"] == DROPPED).sum()),
        }
        for (name, _, block), some in table.groupby(["name", "image", "block"], sort=False)
    ]
    return pd.DataFrame(rows).to_string(index=False)


if __name__ == "__main__":
    raise SystemExit(main())
