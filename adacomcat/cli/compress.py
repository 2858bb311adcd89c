"""`compress`: one-shot compression of a model."""

import argparse
import shlex

from torch import Tensor, nn

from adacomcat.cli.console import Display
from adacomcat.cli.folder import skeleton
from adacomcat.cli.request import one_shot_config
from adacomcat.cli.workers import Workers
from adacomcat.compression import Report, compress
from adacomcat.config import TrialConfig
from adacomcat.files import default_cache
from adacomcat.io.run import Run
from adacomcat.models.registry import create_model, family_of
from adacomcat.models.weights import load_state_, read_dense_weights
from adacomcat.seeds import seed_everything


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
    with display.shown():
        compressed = compress(
            model.to(device),
            reduction=arguments.target_reduction,
            unit=arguments.unit,
            method=config.method,
            strategy=arguments.strategy,
        )
    compressed.model.cpu()
    # By its name alone: a path of this machine says nothing elsewhere.
    weights = {"weights": arguments.weights.rpartition("/")[2], "sha256": config.dense.sha256}
    compressed.save(output.path, extra={"dense": weights})
    for line in _lines(compressed.report):
        display.say(line)
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


def _lines(report: Report) -> list[str]:
    """Human-readable summary of the result."""
    asked = 1 - report.target / report.dense_cost
    lines = [
        f"{report.method}, {report.strategy} plan for {len(report.decisions)} sites: "
        f"{report.reduction:.1%} of the dense {report.unit} removed (at least {asked:.1%} asked), "
        f"in {report.seconds:.1f} s"
    ]
    for name, cost, dense in (
        ("parameters", report.params, report.dense_params),
        ("MACs", report.macs, report.dense_macs),
    ):
        lines.append(f"{name} {cost:,} of {dense:,} ({cost / dense - 1:+.1%})")
    return lines
