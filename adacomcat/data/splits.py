"""Four splits of a data set, disjoint unless configured otherwise: train, search, val, test.

The weights train on `train`, the rank search sees `search` only, selection uses `val`, and reports
use `test`. The reference code searches on the set that it reports; here that happens only with
`DataConfig.search_from` or `val_from`. `Splits.leakage` names it, and images of `test` that other
splits hold too, byte for byte.

The cut depends on `DataConfig.split_seed` alone, never on a trial's seed: all trials of a study
report on the same images.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adacomcat.checks import require
from adacomcat.config import DataConfig
from adacomcat.data.datasets import load_source
from adacomcat.data.images import Images, MemoryImages
from adacomcat.data.preprocessing import Preprocessing
from adacomcat.data.source import Part, Source

LOGGER = logging.getLogger("adacomcat")
# Separate streams of random numbers from one seed.
THIN_STREAM, TEST_STREAM, TRAIN_STREAM = 0, 1, 2
USES = {"train": "training", "search": "search", "val": "selection"}
"""Split -> its use, in the words of `leakage_note`."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one purpose.

    Attributes:
        name: train, search, val or test.
        images: N images.
        labels: N, int64.
        indices: N, int64, which images of the source split these are (ascending).
        spec: how images become what a model is given.
        sha256: hash of the images' contents and labels, in order: of pixels held in memory, of the
            bytes of files.
    """

    name: str
    images: Images
    labels: Tensor
    indices: np.ndarray
    spec: Preprocessing
    sha256: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Splits:
    """The four splits of a data set.

    Attributes:
        train: what weights are trained on.
        search: what the rank search sees; a slice of the training images, or those of `test`.
        val: what selection uses; likewise.
        test: what is reported.
        classes: names, by label.
        seen: images of `test` that another split holds too, by its use: training, search,
            selection.
    """

    train: Split
    search: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    seen: Mapping[str, int]

    @property
    def leakage(self) -> tuple[str, ...]:
        """Uses of reported images elsewhere: some of training, search and selection."""
        return tuple(use for use, count in self.seen.items() if count > 0)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def in_chans(self) -> int:
        return self.train.spec.in_chans

    @property
    def image_size(self) -> int:
        return self.train.spec.image_size

    @property
    def mean(self) -> tuple[float, ...]:
        return self.train.spec.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.train.spec.std

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of every split, by name."""
        return {s.name: s.sha256 for s in (self.train, self.search, self.val, self.test)}


def build_splits(config: DataConfig) -> Splits:
    """Open a data set and cut it, class by class.

    Where the set has a test split of its own, `test` is that one; else `test_fraction` of the
    images. `search` and `val` are `search_fraction` and `val_fraction` of the other images of every
    class, rounded, with at least one image each; or `search` is `search_images` in all, of which
    each class has its share. Where `search_from` or `val_from` is `test`, what is cut off for it
    is not used, and a fraction of 0 cuts nothing off.

    Raises:
        ValueError: what `load_source` refuses, more `search_images` than there are, a class with
            too few images for its splits, a test split of training images, a `mean` or `std` for
            another number of channels.
    """
    source = load_source(config)
    _check_classes(source)
    kept = _thin(source.train.labels, config)
    parts: dict[str, tuple[Part, np.ndarray]] = {}
    if source.test is None:
        sizes = {"test": _share_of_each(_counts(source, kept), config.test_fraction)}
        kept, test = _carve(source, kept, sizes, config, TEST_STREAM)
        parts["test"] = source.train, test["test"]
    else:
        parts["test"] = source.test, _thin(source.test.labels, config)
    sizes = _slice_sizes(_counts(source, kept), config)
    train, slices = _carve(source, kept, sizes, config, TRAIN_STREAM)
    parts["train"] = source.train, train
    for name in ("search", "val"):
        origin = getattr(config, f"{name}_from")
        parts[name] = parts["test"] if origin == "test" else (source.train, slices[name])
    spec = _spec(source.train.select(train).images, config)
    digests = {name: part.images.select(chosen).digests() for name, (part, chosen) in parts.items()}
    cut = {
        name: _split(name, part, chosen, spec, digests[name])
        for name, (part, chosen) in parts.items()
    }
    seen = _seen(cut["test"], {split: digests[split] for split in ("test", *USES)})
    return Splits(cut["train"], cut["search"], cut["val"], cut["test"], source.classes, seen)


def _check_classes(source: Source) -> None:
    counts = _counts(source, np.arange(len(source.train.labels)))
    for name, count in zip(source.classes, counts, strict=True):
        require(count > 0, "data", f"no image of class {name!r} in train", "at least one")
    if source.test is not None:
        require(len(source.test.labels) > 0, "data", "a test split without images", "one or more")


def _seen(test: Split, digests: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Number of test images that each other split also holds, by its use.

    Args:
        test: the split.
        digests: content hashes of the images of every split, by its name.

    Raises:
        ValueError: all images of test are in splits that should be apart from it, or all of those
            are in test.
    """
    own = _as_bytes(digests["test"])
    wanted = set(own)
    others = {name: _as_bytes(digests[name]) for name in USES}
    found = {name: wanted & {*other} for name, other in others.items()}
    # With `search_from` or `val_from` test the split is that of test.
    apart = [name for name in USES if others[name] != own]
    shared = set().union(*(found[name] for name in apart))
    example = next((test.images.name(i) for i, digest in enumerate(own) if digest in shared), "")
    within = all(digest in wanted for name in apart for digest in others[name])
    if within or shared == wanted:
        raise ValueError(
            f"data: got {example!r} in train and in test, as all images of "
            f"{'train' if within else 'test'}, allowed: a test split without training images"
        )
    for name in apart:
        if found[name]:
            LOGGER.warning(
                "%d of %d images of the test split are in the %s split too, byte for byte: %s ...",
                *(len(found[name]), len(own), name, example),
            )
    return {use: sum(digest in found[name] for digest in own) for name, use in USES.items()}


def _as_bytes(digests: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in digests]


def _thin(labels: np.ndarray, config: DataConfig) -> np.ndarray:
    """Indices of at most `max_images` images, each class with its share, ascending."""
    most = config.max_images
    if most is None or most >= len(labels):
        return np.arange(len(labels))
    take = _apportion(np.bincount(labels), most)
    rng = np.random.default_rng((config.split_seed, THIN_STREAM))
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:count] for label, count in enumerate(take)
    ]
    return np.sort(np.concatenate(chosen))


def _counts(source: Source, kept: np.ndarray) -> np.ndarray:
    """Number of training images at `kept` in each class."""
    return np.bincount(source.train.labels[kept], minlength=len(source.classes))


def _apportion(counts: np.ndarray, total: int) -> np.ndarray:
    """Numbers per class that sum to `total`, in proportion to `counts`."""
    exact = counts * (total / counts.sum())
    take = np.floor(exact).astype(np.int64)
    # Largest remainders: what rounding down left goes to the classes that lost most.
    order = np.argsort(take - exact, kind="stable")
    take[order[: total - int(take.sum())]] += 1
    return take


def _share_of_each(counts: np.ndarray, share: float) -> np.ndarray:
    """Images per class for a share, rounded, at least one; 0 for a share of 0."""
    return np.maximum(np.rint(counts * share).astype(np.int64), 1 if share > 0 else 0)


def _slice_sizes(counts: np.ndarray, config: DataConfig) -> dict[str, np.ndarray]:
    """Images of each class in the slices that are cut off the training images.

    Raises:
        ValueError: `search_images` leaves less than one image of each class.
    """
    sizes = {
        "search": _share_of_each(counts, config.search_fraction),
        "val": _share_of_each(counts, config.val_fraction),
    }
    wanted = config.search_images
    if wanted is not None:
        val = int(sizes["val"].sum())
        most = int(counts.sum()) - val - len(counts)
        require(
            wanted <= most,
            "data.search_images",
            wanted,
            f"at most {most}: of the {counts.sum()} images to train on, val takes {val}, "
            f"and train keeps at least one of each of the {len(counts)} classes",
        )
        sizes["search"] = _apportion(counts, wanted)
    return sizes


def _carve(
    source: Source,
    kept: np.ndarray,
    sizes: dict[str, np.ndarray],
    config: DataConfig,
    stream: int,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Cut named slices off the training images at `kept`.

    Args:
        source: what is cut.
        kept: ascending indices.
        sizes: of each slice, how many images of each class.
        config: gives the seed.
        stream: sets the random numbers of this cut apart.

    Returns:
        what is left and the slices, as ascending indices.

    Raises:
        ValueError: a class has too few images to give every slice one and keep one.
    """
    rng = np.random.default_rng((config.split_seed, stream))
    labels = source.train.labels[kept]
    rest: list[np.ndarray] = []
    slices: dict[str, list[np.ndarray]] = {name: [] for name in sizes}
    for label, name in enumerate(source.classes):
        members = rng.permutation(kept[labels == label])
        taken = sum(int(size[label]) for size in sizes.values())
        require(
            len(members) > taken,
            "data",
            f"{len(members)} images of class {name!r} (data.max_images={config.max_images})",
            f"enough for {', '.join(['train', *sizes])}: above {taken}",
        )
        start = 0
        for key, size in sizes.items():
            slices[key].append(members[start : start + size[label]])
            start += size[label]
        rest.append(members[start:])
    return np.sort(np.concatenate(rest)), {
        key: np.sort(np.concatenate(found)) for key, found in slices.items()
    }


def _spec(images: Images, config: DataConfig) -> Preprocessing:
    """Preprocessing by the settings, over DeiT's or, in memory, the images' own size and mean."""
    names = ("image_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    if not isinstance(images, MemoryImages):
        return Preprocessing(**given)
    mean, std = images.statistics()
    own = {"image_size": images.pixels.shape[-1], "mean": mean, "std": std}
    fixed = {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear"}
    for name in fixed.keys() & given.keys():
        if given[name] != fixed[name]:
            LOGGER.warning(
                "data.%s %s is not used: images of %s are held in memory and scaled as a whole",
                *(name, given[name], config.name),
            )
    return Preprocessing(in_chans=images.in_chans, **{**own, **given, **fixed})


def _split(
    name: str, part: Part, indices: np.ndarray, spec: Preprocessing, digests: np.ndarray
) -> Split:
    chosen = part.select(indices)
    sha256 = hashlib.sha256()
    for digest, label in zip(_as_bytes(digests), chosen.labels, strict=True):
        sha256.update(len(digest).to_bytes(4, "big") + digest + int(label).to_bytes(4, "big"))
    labels = torch.from_numpy(chosen.labels)
    return Split(name, chosen.images, labels, indices, spec, sha256.hexdigest())
