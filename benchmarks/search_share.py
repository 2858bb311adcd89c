"""The share of a run that its searches take, at the published recipe, from step times here.

    python benchmarks/search_share.py
    python benchmarks/search_share.py --images 10000
    python benchmarks/search_share.py --device cuda --dtype bfloat16 --batch-size 64

The published run (Adaptive-ComCAT, DeiT-Small on ImageNet) trains 30 epochs on 1 231 167 images
each, with a teacher and the alignment of four blocks; a search every epoch but the first makes 29,
of 50 000 images each. Its log has 895 s a search and about 3 060 s an epoch of training. Here the
steps of both are measured, images already on the device, and multiplied out:

    searching = searches x (decompose + images x step / batch + propose)
    training  = epochs x images x step / batch

A search is that of the dense model, the largest there is: on factors in force it is cheaper.
Loading and evaluation are left out, so that the share is rather too large. Building the committed
modules is left out, too; it copies what was decomposed.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from models import add_sizes, commit_by_default_, drawn_batch, drawn_model, published_space
from record import write_record
from timing import (
    TIME_TITLES,
    Bar,
    parser_of,
    positive,
    print_bars,
    print_table,
    run,
    settings_of,
    time_cells,
)

from adacomcat.config import BudgetConfig, DistillConfig, PhaseConfig, SearchConfig
from adacomcat.search.searcher import Searcher
from adacomcat.timing import Times, Variant, take_turns
from adacomcat.training.phase import Trainee

PUBLISHED = 0.214
"""Share of the published run's time, evaluation included, had it searched every epoch."""
IMAGES = 50_000
AT_MOST, AT_MOST_FEWER = 0.04, 0.02
"""With the published number of images a search, and with fewer."""
SEARCH, PROPOSE, DECOMPOSE, TRAIN = "search", "propose", "decompose", "train"


@dataclass(frozen=True)
class Run:
    """What a run is made of."""

    epochs: int = 30
    searches: int = 29
    train_images: int = 1_231_167
    search_images: int = IMAGES

    def share(self, times: Mapping[str, Times], batch_size: int, steps: int) -> Times:
        """Of the searches in searching and training, round by round.

        Args:
            times: of the four parts; `search` is of so many `steps`, and proposes once.
            batch_size: images of a step, of either kind.
            steps: of the search that was measured.
        """
        parts = (times[name].seconds for name in (SEARCH, PROPOSE, DECOMPOSE, TRAIN))
        shares = []
        for search_s, propose_s, decompose_s, train_s in zip(*parts, strict=True):
            step_s = (search_s - propose_s) / steps
            one_search_s = decompose_s + self.search_images / batch_size * step_s + propose_s
            searching_s = self.searches * one_search_s
            training_s = self.epochs * self.train_images / batch_size * train_s
            shares.append(searching_s / (searching_s + training_s))
        return Times(tuple(shares))


def parts_of(arguments: argparse.Namespace) -> dict[str, Variant]:
    """What is measured, each part on models of its own."""
    bf16 = arguments.dtype == "bfloat16"
    searched, student = drawn_model(arguments), drawn_model(arguments)
    batch = drawn_batch(searched, arguments.batch_size, arguments.device)
    method = published_space(searched)
    budget = method.budget(BudgetConfig(reduction=arguments.reduction))
    config = SearchConfig(bf16=bf16)
    searcher = Searcher(method, config, budget, epochs=Run.epochs, seed=0)
    method.prepare_()

    def decompose() -> None:
        method.restore_()
        method.prepare_()

    commit_by_default_(student, arguments.reduction)
    recipe = PhaseConfig(lr=1e-6, min_lr=0.0, bf16=bf16, distill=DistillConfig())
    trainee = Trainee(student, recipe, drawn_model(arguments).requires_grad_(False))

    def train() -> None:
        with trainee.training():
            trainee.step(*batch, recipe.distill.align_weight)

    return {
        SEARCH: lambda: searcher.search([batch] * arguments.search_steps, 1),
        PROPOSE: lambda: method.propose(budget, config.decision),
        DECOMPOSE: decompose,
        TRAIN: train,
    }


def compare(arguments: argparse.Namespace) -> None:
    """Measure the parts, print the table and the share, and write the record."""
    parts = parts_of(arguments)
    times = take_turns(parts, repeats=arguments.repeats, device=arguments.device)
    print_table(("part", *TIME_TITLES), [(name, *time_cells(times[name])) for name in parts])
    shares = {}
    for images in sorted({IMAGES, arguments.images}, reverse=True):
        found = Run(search_images=images).share(times, arguments.batch_size, arguments.search_steps)
        low, high = found.quartiles
        shares[images] = found
        print(
            f"{Run.searches} searches of {images:,} images: {found.median:.2%} of the run "
            f"(quartiles {low:.2%} to {high:.2%}; published, of {IMAGES:,}: {PUBLISHED:.1%})"
        )
    bars = [
        Bar(
            f"share with {images:,} images",
            found.median,
            "at most",
            AT_MOST if images >= IMAGES else AT_MOST_FEWER,
        )
        for images, found in shares.items()
    ]
    print_bars(bars)
    write_record(
        arguments.output,
        "search_share",
        settings_of(arguments),
        run=asdict(Run()),
        parts={name: found.to_json() for name, found in times.items()},
        shares={images: list(found.seconds) for images, found in shares.items()},
        published=PUBLISHED,
        bars=[bar.to_json() for bar in bars],
    )


def main() -> None:
    parser = parser_of(
        __doc__, benchmark="search_share", model="deit_small_patch16_224", batch_size=8, repeats=5
    )
    add_sizes(parser)
    add = parser.add_argument
    add("--images", type=positive, default=IMAGES, help=f"of a search (default: {IMAGES})")
    add("--search-steps", type=positive, default=2, help="of a search that is timed (default: 2)")
    add("--reduction", type=float, default=0.5, help="of the student (default: 0.5)")
    run(compare, parser.parse_args())


if __name__ == "__main__":
    main()
