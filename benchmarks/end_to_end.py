"""Training with its loader: images/s of the loader alone, of the step alone, of both.

    python benchmarks/end_to_end.py
    python benchmarks/end_to_end.py --data digits
    python benchmarks/end_to_end.py --device cuda --dtype bfloat16 --batch-size 256 \\
        --images 10240 --workers 16 --model deit_small_patch16_224

`jpeg` trains on a folder of made-up JPEGs with DeiT's augmentation, decoded by `--workers`
processes; `digits` on scikit-learn's digits, held in memory, with the small model of that recipe.
One call is an epoch of `adacomcat.training`. The step is that of the dense model without a teacher,
the lightest there is: a loader that keeps up with it keeps up with all.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models import add_sizes, drawn_model
from record import write_record
from timing import parser_of, positive, print_table, run, settings_of

from adacomcat.config import DataConfig, DistillConfig, PhaseConfig, RuntimeConfig
from adacomcat.data import Loader, build_splits, make_loader
from adacomcat.overrides import build_config
from adacomcat.recipes import deit_augmentation, find_recipe
from adacomcat.testing.images import write_image_folder
from adacomcat.timing import Times, Variant, take_turns
from adacomcat.training.dense import build_dense
from adacomcat.training.epoch import train_epoch
from adacomcat.training.phase import Phase

CLASSES, SIDE = 10, 224
LOADER, STEP, BOTH = "loader alone", "step alone", "both"
Data = tuple[Any, Loader]
"""A dense model, and the loader of what it trains on."""


def jpeg(arguments: argparse.Namespace, folder: Path) -> Data:
    """JPEGs of 224 pixels or more."""
    side = arguments.image_size or SIDE
    # Of each class one image or more is kept for the search and for the selection.
    each = -(-arguments.images // CLASSES) + 2
    write_image_folder(folder, classes=CLASSES, train=each, val=1, side=side)
    held_back = {"search_fraction": 1 / each, "val_fraction": 1 / each}
    data = DataConfig(
        name="imagefolder",
        root=str(folder),
        image_size=side,
        **held_back,
        **deit_augmentation(),
    )
    model = drawn_model(arguments, num_classes=CLASSES)
    return model, _loader(data, arguments)


def digits(arguments: argparse.Namespace, folder: Path) -> Data:
    """The recipe of that name, model and data."""
    config = build_config(find_recipe("digits", "--data").settings)
    model = build_dense(config, build_splits(config.data)).to(arguments.device)
    return model, _loader(config.data, arguments)


DATA: dict[str, Callable[[argparse.Namespace, Path], Data]] = {"jpeg": jpeg, "digits": digits}


def _loader(data: DataConfig, arguments: argparse.Namespace) -> Loader:
    return make_loader(
        build_splits(data).train,
        data,
        runtime=RuntimeConfig(num_workers=arguments.workers),
        batch_size=arguments.batch_size,
        seed=0,
        train=True,
        augment=True,
        device=arguments.device,
    )


def epochs_of(model: Any, loader: Loader, arguments: argparse.Namespace) -> dict[str, Variant]:
    """An epoch of each of the three."""
    nothing = DistillConfig(kind="none", align_blocks=())
    bf16 = arguments.dtype == "bfloat16"
    recipe = PhaseConfig(lr=1e-6, min_lr=0.0, bf16=bf16, distill=nothing)
    phase = Phase(model, recipe)
    batch = next(iter(loader))
    classes = model.num_classes

    def load() -> None:
        for _ in loader:
            pass

    def step() -> None:
        train_epoch(phase, [batch] * len(loader), num_classes=classes)

    def both() -> None:
        train_epoch(phase, loader, num_classes=classes)

    return {LOADER: load, STEP: step, BOTH: both}


def measure(name: str, arguments: argparse.Namespace) -> tuple[dict[str, Times], int]:
    """Times of an epoch, and its images."""
    with tempfile.TemporaryDirectory() as folder:
        model, loader = DATA[name](arguments, Path(folder))
        epochs = epochs_of(model, loader, arguments)
        repeats, device = arguments.repeats, arguments.device
        return take_turns(epochs, repeats=repeats, device=device, warm_up=1), loader.images


def report(name: str, times: dict[str, Times], images: int) -> dict[str, Any]:
    """Print the table of one data set; returns its part of the record."""
    rates = {variant: [images / s for s in found.seconds] for variant, found in times.items()}
    rows: list[Sequence[object]] = []
    for variant, found in times.items():
        low, high = found.quartiles
        rows.append((variant, images / found.median, images / high, images / low))
    print_table((f"{name}, {images} images", "images/s", "1st quartile", "3rd quartile"), rows)
    kept = times[STEP].over(times[BOTH]).median
    print(f"with the loader, training keeps {kept:.1%} of the speed of the step alone")
    return {
        "images": images,
        "epochs": {variant: found.to_json() for variant, found in times.items()},
        "images_per_s": rates,
        "kept": kept,
    }


def compare(arguments: argparse.Namespace) -> None:
    """Measure each data set, print its table and write the record."""
    chosen = arguments.data or list(DATA)
    found = {name: report(name, *measure(name, arguments)) for name in chosen}
    write_record(arguments.output, "end_to_end", settings_of(arguments), data=found)


def main() -> None:
    parser = parser_of(
        __doc__, benchmark="end_to_end", model="deit_tiny_patch16_224", batch_size=32, repeats=3
    )
    add_sizes(parser)
    add = parser.add_argument
    add("--data", nargs="+", choices=DATA, help="(default: all)")
    add("--images", type=positive, default=256, help="JPEGs of an epoch (default: 256)")
    add("--workers", type=int, default=2, help="processes that decode JPEGs (default: 2)")
    run(compare, parser.parse_args())


if __name__ == "__main__":
    main()
