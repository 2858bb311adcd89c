"""Source patches of each remaining token, block by block, drawn on the image.

`python analysis/fig_token_sources.py FOLDER` draws FOLDER/tokens.npz, which
`adacomcat trace --from DIR --image F... --output FOLDER/tokens.npz` writes.
"""

import argparse
import colorsys
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from adacomcat.checks import require
from analysis import command, style

QUESTION = "Which patches of an image does each surviving token stand for?"

FILE = "tokens.npz"
ENTRIES = frozenset({"images", "names", "tokens", "counts", "model", "container"})

COLUMNS = ("name", "image", "block", "row", "column", "token", "patches")

DROPPED = -1
"""Index for a dropped patch."""

MOST = 6
"""Blocks that are drawn by default at most."""

KEPT, SLATE = 0.2, (0.2, 0.2, 0.27)
"""A dropped patch keeps this share of its colors and has the rest of this one, so that it differs
from a black background."""

GOLDEN = (5**0.5 - 1) / 2
"""Step in hue from one token to the next, as a share of the circle: neighbors differ most."""

Pixels = NDArray[np.float64]


def data(results: Path, blocks: Sequence[int] | None = None) -> pd.DataFrame:
    """One row per image, block and patch, with the columns `COLUMNS`.

    `row` and `column` say where the patch is; `token` names the token that stands for it (`DROPPED`
    for none), the same in all blocks, and `patches` is how many patches that one stands for.
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
    places = np.arange(patches)
    tables = []
    for image, block in np.ndindex(images, len(chosen)):
        own = tokens[image, chosen[block]]
        part = {
            "name": str(found["names"][image]),
            "image": image,
            "block": chosen[block],
            "row": places // side,
            "column": places % side,
            "token": own,
            "patches": np.where(own == DROPPED, 0, (own[:, None] == own).sum(axis=1)),
        }
        tables.append(pd.DataFrame(part))
    table = pd.concat(tables, ignore_index=True)[list(COLUMNS)]
    table.attrs = {name: str(found[name]) for name in ("model", "container")}
    table.attrs |= {"images": found["images"], "patches": patches}
    return table


def _read(path: Path) -> dict[str, NDArray[Any]]:
    made = "what `adacomcat trace --from DIR --image F --output FILE` writes"
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


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """Draw the table of `data` into an empty figure: a row per image, a column per block."""
    shown, whole = table.attrs["images"], table.attrs["patches"]
    rows, columns = table["image"].nunique(), 1 + table["block"].nunique()
    # Few blocks would make pictures larger than they need be.
    side = min(7.4 / columns, 1.5)
    figure.set_size_inches(max(columns * side, 4.5), rows * (side + 0.2) + 0.9)
    panels = figure.subplots(rows, columns, squeeze=False)
    for ax, (image, of_image) in zip(panels, table.groupby("image", sort=True), strict=True):
        pixels = _colors(shown[image])
        _show(ax[0], pixels, style.short(str(of_image["name"].iloc[0]), int(side * 14)))
        for own, (block, patches) in zip(ax[1:], of_image.groupby("block", sort=True), strict=True):
            left = patches.loc[patches["token"] != DROPPED, "token"].nunique()
            grids = (
                patches.pivot(index="row", columns="column", values=v) for v in ("token", "patches")
            )
            tokens, sizes = (grid.to_numpy() for grid in grids)
            _show(own, filled(pixels, tokens, sizes), f"block {block}: {left} of {whole}")
            _outline(own, tokens, sizes, pixels.shape[0] / len(tokens))
    name, container = table.attrs["model"], table.attrs["container"]
    where = "" if container == "blocks" else f", {container}"
    style.title(figure, f"What each token stands for, {name}{where}")


def filled(pixels: Pixels, tokens: NDArray[Any], sizes: NDArray[Any]) -> Pixels:
    """An image with one color for each token of several patches.

    Args:
        pixels: (H, W, 3), from 0 to 1.
        tokens: (rows, columns) of patches.
        sizes: (rows, columns), how many patches the token of each patch stands for.

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


def _colors(image: NDArray[Any]) -> Pixels:
    """Bytes (H, W, C) as (H, W, 3), from 0 to 1; gray has all three colors."""
    return np.broadcast_to(image / 255, (*image.shape[:2], 3))


def _show(ax: Axes, pixels: Pixels, text: str) -> None:
    high, wide = pixels.shape[:2]
    ax.imshow(pixels, interpolation="nearest", extent=(0, wide, high, 0))
    ax.set_title(text, fontsize=6.5, pad=2)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _outline(ax: Axes, tokens: NDArray[Any], sizes: NDArray[Any], side: float) -> None:
    """Outline the tokens of several patches; `side` is that of a patch, in pixels."""
    for token in np.unique(tokens[sizes > 1]):
        lines = np.array(borders(tokens, token), float) * side
        # The same hue in all blocks.
        color = colorsys.hsv_to_rgb(token * GOLDEN % 1, 0.9, 1.0)
        how: dict[str, Any] = {"colors": [color], "linewidths": 0.7, "capstyle": "projecting"}
        ax.add_collection(LineCollection(list(lines), gid=f"token:{token}", **how), autolim=False)


def note(table: pd.DataFrame) -> str:
    """Note below the figure, as one paragraph."""
    return (
        "As the image where a token stands for that patch alone; one color, the mean of its "
        "pixels, with an outline, where one stands for several (the same hue in all blocks); dark "
        "slate where a patch was dropped. Counts: tokens left of as many patches."
    )


def summarize(table: pd.DataFrame) -> command.Summary:
    """One row per image and block: tokens left, and patches merged and dropped."""
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
    return {"": pd.DataFrame(rows)}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--blocks", type=int, nargs="+", metavar="N", help="which to show, from 0")


EXHIBITS = (command.Exhibit("token_sources", QUESTION, data, summarize, note, draw, _options),)

main = partial(command.run, EXHIBITS)

if __name__ == "__main__":
    raise SystemExit(main())
