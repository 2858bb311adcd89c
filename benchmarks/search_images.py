"""How few images a search needs for the plan that it finds with many.

    python benchmarks/search_images.py
    python benchmarks/search_images.py --workload digits --images 500 1000 2000 --seeds 3
    python benchmarks/search_images.py --batch-size 64 --images 3136 6272 12544 25024 50048 \\
        --set data.max_images=20000 data.search_images=10000 search.lr=0.01 search.steps=782

Every search starts from one state: the dense model of a workload, trained as its recipe says (or
out of the cache), and logits that are zero. A seed names the order of the images, which are gone
round where there are fewer, and the noise. The largest search is long enough for a logit to move as
far as in the recipe's (`search.lr` times its steps). Smaller ones are

    cut      the largest one, left after so many images;
    scaled   at a rate as many times higher as there are fewer steps;
    stable   the largest one, ended by `search.stable_steps`.

Distances are those between plans: to the full plan (of the largest search) of the same seed, and to
those of the other seeds. Full plans of different seeds are apart as well: that is the noise floor,
mean and standard deviation over pairs. So many images give the same plan when theirs, and those of
every larger number, are on average no farther from full plans of other seeds than the floor and its
deviation. The default plan, which needs no search, shows how far apart plans can be. The loss is on
`val`, of the dense model committed to a plan and trained no further.
"""

import argparse
import copy
import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import write_record
from timing import positive, print_table, run, settings_of
from torch import nn

from adacomcat.checks import require
from adacomcat.config import TrialConfig
from adacomcat.data import Splits, build_splits, cycle, make_loader
from adacomcat.files import default_cache
from adacomcat.methods.base import CompressionMethod
from adacomcat.methods.registry import build_method
from adacomcat.plan import Plan
from adacomcat.recipes import find_recipe
from adacomcat.search.searcher import Searcher
from adacomcat.settings import build_config, parse_settings
from adacomcat.training import dense_model
from adacomcat.training.epoch import evaluate

FULL, CUT, SCALED, STABLE = "full", "cut", "scaled", "stable"


@dataclass(frozen=True)
class Found:
    """What a search found; `loss` is on `val`, of the model committed to the plan."""

    plan: Plan
    images: int
    steps: int
    loss: float


@dataclass(frozen=True)
class Kind:
    """A way to search.

    Attributes:
        steps: at most.
        lr: of the logits.
        stable_steps: as `SearchConfig`.
    """

    name: str
    steps: int
    lr: float
    stable_steps: int | None = None


class Bench:
    """One state, and searches from it."""

    def __init__(self, config: TrialConfig, splits: Splits, dense: nn.Module, device: str) -> None:
        self.config, self.splits, self.dense, self.device = config, splits, dense, device

    def search(self, kind: Kind, seed: int, epoch: int) -> Found:
        """Search from the state; `epoch` of the search phase gives the temperature."""
        method = self._method()
        settings = dataclasses.replace(
            self.config.search, lr=kind.lr, steps=None, images=None, stable_steps=kind.stable_steps
        )
        loader = make_loader(
            self.splits.search,
            self.config.data,
            batch_size=settings.batch_size,
            seed=seed,
            train=True,
            device=self.device,
        )
        method.calibrate(images for images, _ in loader)
        method.prepare_()
        budget = method.budget(self.config.budget)
        epochs = self.config.search_phase.epochs
        searcher = Searcher(method, settings, budget, epochs=epochs, seed=seed)
        report = searcher.search(cycle(loader, kind.steps), epoch)
        plan = report.proposal.plan
        return Found(plan, report.images, report.steps, self._loss(method, plan))

    def default(self) -> Found:
        """The plan without a search."""
        method = self._method()
        plan = method.default_plan(method.budget(self.config.budget))
        return Found(plan, 0, 0, self._loss(method, plan))

    def _method(self) -> CompressionMethod:
        return build_method(copy.deepcopy(self.dense), self.config.method)

    def _loss(self, method: CompressionMethod, plan: Plan) -> float:
        method.commit_(plan)
        loader = make_loader(
            self.splits.val,
            self.config.data,
            batch_size=256,
            seed=0,
            train=False,
            device=self.device,
        )
        return evaluate(method.model, loader, self.config.search_phase)[1]


def kinds_of(
    config: TrialConfig, batches: int, images: Sequence[int], stable: Sequence[int]
) -> list[Kind]:
    """The largest search, and then the smaller ones.

    Args:
        config: of the workload.
        batches: of a pass over the search split, for a recipe that searches for one pass.
        images: that the searches see.
        stable: steps without change that end the largest search.

    Raises:
        ValueError: fewer images than a step has, or only one number of them.
    """
    size = config.search.batch_size
    for count in images:
        require(count >= size, "--images", count, f"a batch of {size} images or more")
    *fewer, most = sorted({count // size for count in images})
    require(len(fewer) > 0, "--images", list(images), "two numbers or more, whole steps apart")
    reach = config.search.lr * config.search.most_steps(batches)
    kinds = [Kind(FULL, most, reach / most)]
    kinds += [Kind(CUT, steps, reach / most) for steps in fewer]
    kinds += [Kind(SCALED, steps, reach / steps) for steps in fewer]
    return kinds + [Kind(STABLE, most, reach / most, steps) for steps in stable]


def distances(found: Sequence[Found], full: Sequence[Found]) -> dict[str, list[float]]:
    """Of one kind's plans, a seed each, to the full plans of the same seed and of the others."""
    pairs = itertools.product(enumerate(found), enumerate(full))
    apart: dict[str, list[float]] = {"same_seed": [], "other_seeds": []}
    for (seed, one), (other, whole) in pairs:
        apart["same_seed" if seed == other else "other_seeds"].append(one.plan.distance(whole.plan))
    return apart


def row_of(kind: Kind, found: Sequence[Found], full: Sequence[Found]) -> dict[str, Any]:
    """What a kind of search comes to, over the seeds."""
    apart = distances(found, full)
    return {
        "search": kind.name if kind.stable_steps is None else f"{kind.name} {kind.stable_steps}",
        "images": statistics.mean(each.images for each in found),
        "steps": statistics.mean(each.steps for each in found),
        "lr": kind.lr,
        "to_own_full": statistics.mean(apart["same_seed"]),
        "to_other_full": statistics.mean(apart["other_seeds"]),
        "same_plans": sum(distance == 0 for distance in apart["same_seed"]),
        "val_loss": statistics.mean(each.loss for each in found),
        "distances": apart,
        "plans": [dict(each.plan.decisions) for each in found],
    }


def fewest(rows: Sequence[Mapping[str, Any]], name: str, limit: float) -> float | None:
    """The least images from which on every search of that name stays within `limit`; or None."""
    found = None
    for row in sorted((r for r in rows if r["search"] == name), key=lambda r: -r["images"]):
        if row["to_other_full"] > limit:
            break
        found = row["images"]
    return found


def compare(arguments: argparse.Namespace) -> None:
    """Search, print the table and what it says, and write the record."""
    settings = {"search.batch_size": arguments.batch_size} if arguments.batch_size else {}
    recipe = find_recipe(arguments.workload, "--workload")
    config = build_config(recipe.settings, settings, parse_settings(arguments.set))
    require(arguments.seeds >= 3, "--seeds", arguments.seeds, "3 or more: a floor needs pairs")
    splits = build_splits(config.data)
    batches = len(splits.search) // config.search.batch_size
    kinds = kinds_of(config, batches, arguments.images, arguments.stable)
    dense = dense_model(
        config,
        splits,
        default_cache(),
        device=arguments.device,
        progress=lambda row: print(f"dense model: epoch {row['epoch'] + 1}/{row['epochs']}"),
    )
    bench = Bench(config, splits, dense, arguments.device)
    seeds = range(arguments.seeds)
    found = {kind: [bench.search(kind, seed, arguments.epoch) for seed in seeds] for kind in kinds}
    full = found[kinds[0]]
    rows = [row_of(kind, found[kind], full) for kind in kinds]
    rows.append(row_of(Kind("default plan", 0, 0.0), [bench.default()] * len(full), full))
    pairs = [a.plan.distance(b.plan) for a, b in itertools.combinations(full, 2)]
    floor, deviation = statistics.mean(pairs), statistics.stdev(pairs)
    names = {CUT: "cut", SCALED: "at a scaled rate"}
    enough = {name: fewest(rows, name, floor + deviation) for name in names}
    print_table(
        ("search", "images", "steps", "lr", "own full", "same plan", "other full", "val loss"),
        [
            (
                row["search"],
                row["images"],
                row["steps"],
                row["lr"],
                row["to_own_full"],
                f"{row['same_plans']} of {len(full)}",
                row["to_other_full"],
                row["val_loss"],
            )
            for row in rows
        ],
    )
    print(f"full plans of different seeds are {floor:.4f} apart, deviation {deviation:.4f}")
    for name, words in names.items():
        least = "none of these numbers" if enough[name] is None else f"{enough[name]:,.0f}"
        print(f"{words}: {least} of {full[0].images:,} images give the same plan within the noise")
    write_record(
        arguments.output,
        "search_images",
        settings_of(arguments) | {"config": config.to_json(), "search_split": len(splits.search)},
        rows=rows,
        floor={"mean": floor, "deviation": deviation, "pairs": pairs},
        fewest_images=enough,
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--workload", default="fashion_mnist", help="a recipe (default: fashion_mnist)")
    add("--images", type=positive, nargs="+", default=[200, 500, 1000, 2000, 4000, 8000])
    add("--stable", type=positive, nargs="*", default=[5, 10, 20], help="search.stable_steps")
    add("--seeds", type=positive, default=5, help="how many (default: 5)")
    add("--batch-size", type=positive, help="of a step (default: the recipe's)")
    add("--epoch", type=int, default=1, help="that gives the temperature (default: 1)")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the workload")
    add("--threads", type=positive, default=2, help="of PyTorch on the CPU (default: 2)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--output", type=Path, default=Path("results/search_images.json"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(compare, parse())
