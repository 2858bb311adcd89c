"""`compress`: one-shot compression of a model."""

import argparse
import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.cli.console import Display
from adacomcat.cli.folder import skeleton
from adacomcat.cli.request import one_shot_config
from adacomcat.cli.workers import Workers
from adacomcat.compression import Report, compress, preprocessing_of
from adacomcat.config import PhaseConfig, TrialConfig
from adacomcat.data.sample import labeled_sample, unlabeled_sample
from adacomcat.files import default_cache
from adacomcat.io.run import Run
from adacomcat.models.registry import create_model, family_of
from adacomcat.models.weights import load_state_, read_dense_weights
from adacomcat.seeds import seed_everything
from adacomcat.timetable import read_timetable
from adacomcat.training.epoch import evaluate

BATCH = 16
"""Images of one forward."""


def compress_command(arguments: argparse.Namespace, display: Display) -> None:
    """Compress, write the model, and say what came out.

    Raises:
        ValueError: a model, weights or a setting that cannot be used.
    """
    output = Run(arguments.output)
    output.refuse_used()
    config = one_shot_config(arguments)
    model = _dense(config, random=config.dense.weights is None)
    device = Workers(arguments.device).device
    model.to(device)
    before = _accuracy(model, arguments, display) if arguments.evaluate is not None else None
    with display.shown():
        compressed = compress(
            model,
            _images(arguments, model, display),
            reduction=arguments.target_reduction,
            unit="latency" if arguments.latency_table is not None else arguments.unit,
            method=config.method,
            strategy=arguments.strategy,
            count=arguments.count,
            latency=_table(arguments),
            seed=arguments.seed,
        )
    notes: dict[str, Any] = {}
    if before is not None:
        after = _accuracy(compressed.model, arguments, display)
        notes["accuracy"] = {"dense": before, "compressed": after}
    compressed.model.cpu()
    # By its name alone: a path of this machine says nothing elsewhere.
    weights = {"weights": arguments.weights.rpartition("/")[2], "sha256": config.dense.sha256}
    compressed.save(output.path, extra={"dense": weights, **notes})
    for line in _lines(compressed.report):
        display.say(line)
    if before is not None:
        display.say(f"accuracy {after:.2%} of the dense model's {before:.2%}")
    where = shlex.quote(str(output.path))
    display.say(f"model in {where}")
    display.say(f"next: adacomcat info --from {where}")


def _dense(config: TrialConfig, *, random: bool) -> nn.Module:
    """The dense model, in the sizes of its weights where no option says otherwise."""
    plain = skeleton(config.model)
    family, options = family_of(plain), config.model.options
    classes, side = plain.num_classes, family.image_size(config.model.name)
    where, state = "", dict[str, Tensor]()
    if not random:
        where, state = read_dense_weights(config.dense, config.model, default_cache())
        rows = state.get(f"{family.classifiers(plain)[0]}.weight")
        classes = classes if rows is None else rows.shape[0]
        side = family.image_size_of(config.model, state) or side
    seed_everything(config.seed, "dense", "init")
    model = create_model(
        config.model, num_classes=classes, in_chans=3, image_size=options.get("img_size", side)
    )
    if not random:
        load_state_(model, state, where, new_head=False)
    return model.eval()


def _images(
    arguments: argparse.Namespace, model: nn.Module, display: Display
) -> Iterator[Tensor] | None:
    """The images to look at, with a bar."""
    if arguments.images is None:
        return None
    sample = unlabeled_sample(
        arguments.images, preprocessing_of(model), count=arguments.count, seed=arguments.seed
    )
    display.say(f"{len(sample)} of {sample.available:,} images of {arguments.images}")
    batches = display.counted(sample.batches(BATCH), "images", math.ceil(len(sample) / BATCH))
    return (images for images, _ in batches)


def _accuracy(model: nn.Module, arguments: argparse.Namespace, display: Display) -> float:
    """Share of right answers on the labeled folder."""
    classes = cast(int, model.num_classes)
    require(classes > 0, "--evaluate", str(arguments.evaluate), "nothing for a model without head")
    sample = labeled_sample(
        arguments.evaluate, preprocessing_of(model), classes=classes, field="--evaluate"
    )
    device = next(model.parameters()).device
    with display.shown():
        found = display.counted(sample.batches(BATCH), "evaluation", math.ceil(len(sample) / BATCH))
        batches = ((images.to(device), labels.to(device)) for images, labels in found)
        return evaluate(model, batches, PhaseConfig())[0]


def _table(arguments: argparse.Namespace) -> Mapping[str, Any] | None:
    path = arguments.latency_table
    return None if path is None else read_timetable(path)


def _lines(report: Report) -> list[str]:
    """Human-readable summary of the result."""
    asked = 1 - report.target / report.dense_cost
    lines = [
        f"{report.method}, {report.strategy} plan for {len(report.decisions)} sites: "
        f"{report.reduction:.1%} of the dense {report.unit} removed (at least {asked:.1%} asked), "
        f"in {report.seconds:.1f} s and {report.peak_bytes / 2**30:.1f} GiB"
    ]
    for name, cost, dense in (
        ("parameters", report.params, report.dense_params),
        ("MACs", report.macs, report.dense_macs),
    ):
        lines.append(f"{name} {cost:,} of {dense:,} ({cost / dense - 1:+.1%})")
    return lines
