"""Starting models of a command: model directories, or folders of the reference."""

import argparse
import math
from pathlib import Path
from typing import Any

from torch import nn

import adacomcat
from adacomcat.cli.folder import skeleton
from adacomcat.cli.request import Origin, model_options
from adacomcat.config import ModelConfig
from adacomcat.data.preprocessing import Preprocessing
from adacomcat.io.comcat import BLOCK_KINDS, CHECKPOINT, LAYER, RANKS, load_comcat, read_numbers
from adacomcat.io.directory import dense_skeleton, read_config, read_plan
from adacomcat.io.run import Run
from adacomcat.models.pickles import load_pickle
from adacomcat.models.registry import input_shape
from adacomcat.models.weights import plain_state

SIZES = ("num_classes", "in_chans", "img_size")
"""Arguments of a model that its data gives."""


def stored_model(arguments: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """The model that `--from` or `--comcat-dir` names, and the dense one without weights.

    Raises:
        ValueError: a directory that is damaged, foreign or of another model.
    """
    if arguments.source is not None:
        Run(arguments.source).require_finished()
        config = read_config(arguments.source)
        model = adacomcat.load(arguments.source)
        return model, dense_skeleton(config)
    return comcat_model(arguments.comcat_dir, arguments.model, model_options(arguments))


def comcat_model(folder: Path, name: str, options: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """The model of a folder of the reference, and the dense one without weights.

    Args:
        folder: with checkpoint.pth and ranks.txt.
        name: timm's, of the dense model.
        options: of that model; they win over what the files tell.

    Raises:
        ValueError: a file that is missing or damaged, or of another model.
    """
    dense = skeleton(ModelConfig(name=name, options={**comcat_sizes(folder), **options}))
    model: Any = load_comcat(folder, dense)
    # The reference evaluates as DeiT does, not as timm's entry of that name says.
    images = Preprocessing(image_size=input_shape(model)[-1]).to_pretrained_cfg()
    model.pretrained_cfg = {**model.pretrained_cfg, **images}
    return model, dense


def comcat_sizes(folder: Path) -> dict[str, Any]:
    """Options of the dense model, inferred from a folder of the reference.

    Its width and its heads are for the name to say, so that another model's checkpoint is refused.

    Raises:
        ValueError: a file that is missing or damaged.
    """
    state = plain_state(load_pickle(folder / CHECKPOINT), folder / CHECKPOINT)
    sizes: dict[str, Any] = {}
    head = state.get(f"head.{LAYER}.last_factor.weight")
    if head is not None:
        sizes["num_classes"] = head.shape[0]
    patches, positions = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    if patches is not None and positions is not None:
        prefix = 2 if "dist_token" in state else 1
        patch = patches.shape[-1]
        side = math.isqrt(positions.shape[1] - prefix)
        sizes |= {"in_chans": patches.shape[1], "patch_size": patch, "img_size": side * patch}
    ranks = folder / RANKS
    if ranks.is_file():
        sizes["depth"] = max(1, len(read_numbers(ranks)) // BLOCK_KINDS)
    return sizes


def origin_of(directory: Path) -> Origin:
    """Origin of a model, as its directory records it.

    Raises:
        ValueError: a directory that is damaged or foreign, or of a run that is not finished.
    """
    run = Run(directory)
    run.require_finished()
    config = read_config(directory)
    options = {key: value for key, value in config["model_args"].items() if key not in SIZES}
    known = config["pretrained_cfg"]
    channels, *_, side = known["input_size"]
    images = {"data.image_size": side, "data.label_names": known.get("label_names")}
    # Of a model for other channels than its published weights, timm knows no mean.
    if len(known.get("mean") or ()) == channels:
        found = Preprocessing.of_model(known).settings()
        images |= {f"data.{name}": value for name, value in found.items()}
    stored = run.record()["config"] if run.exists else None
    model = ModelConfig(name=config["architecture"], options=options)
    method, macs = read_plan(directory).method, config["adacomcat"]["macs"]
    return Origin(model, method, macs, images, stored)
