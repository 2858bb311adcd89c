"""What timm's models are made of and made from; `tokens` beside it says where their tokens run.

Checked against timm 1.0: `VisionTransformer` (ViT, DeiT, DeiT III, MAE) and
`VisionTransformerDistilled` (two prefix tokens, two classifiers), with class-token, average or
maximum pooling. Whatever would make the factorization wrong is refused by name: normalized queries
and keys, gates, rotary or relative positions, gated or convolutional MLPs, attention pooling.
MetaFormers can be made, saved and loaded, but not factorized.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
from timm.layers import Attention, Mlp, PatchEmbed
from timm.models import model_entrypoint
from timm.models.deit import VisionTransformerDistilled
from timm.models.metaformer import MetaFormer
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from adacomcat.checks import require
from adacomcat.config import ModelConfig

METAFORMER = "metaformer"
FAMILIES = ("vision_transformer", "deit", METAFORMER)
"""Modules of `timm.models` whose models can be made by name."""
POOLS = ("token", "avg", "avgmax", "max")


@dataclass(frozen=True)
class VisionTransformerView:
    """Names and sizes of the parts of a supported model.

    Attributes:
        width: channels of a token, D.
        heads: attention heads of a block, H.
        head_width: channels of a head, d.
        depth: blocks.
        tokens: tokens of a block at the model's input size, prefix tokens included.
        attentions: module names of the attention of each block.
        linears: (site name, module name, kind) of fc1 and fc2 of each block and the classifiers.
    """

    width: int
    heads: int
    head_width: int
    depth: int
    tokens: int
    attentions: tuple[str, ...]
    linears: tuple[tuple[str, str, str], ...]


def create_model(
    config: ModelConfig, *, num_classes: int, in_chans: int, image_size: int
) -> nn.Module:
    """Build a timm model with random weights, for a data set's images and classes.

    What it was made from stays with it, as `model.model_args` (see `creation`).

    Raises:
        ValueError: unknown model or option, or sizes that do not go together.
    """
    require(timm.is_model(config.name), "model.name", config.name, "a name of timm.list_models()")
    home = model_entrypoint(config.name).__module__.rpartition(".")[2]
    require(
        home in FAMILIES,
        "model.name",
        config.name,
        f"models of timm's {', '.join(FAMILIES)}; this one is of {home}",
    )
    sizes: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans}
    if home != METAFORMER:
        sizes["img_size"] = image_size
    options: Mapping[str, Any] = {**sizes, **config.options}
    _check_sides(options, image_size)
    try:
        model: Any = timm.create_model(config.name, pretrained=False, **options)
    except (TypeError, AssertionError) as error:
        raise ValueError(f"model.options: {error}") from error
    embedding = getattr(model, "patch_embed", None)
    if isinstance(embedding, PatchEmbed):
        # The model's own patches, where no option names them.
        for side, pixels in zip(embedding.img_size, embedding.patch_size, strict=True):
            allowed = f"a multiple of {pixels}, the side of a patch of {config.name}"
            require(side % pixels == 0, "data.image_size", side, allowed)
    if home == METAFORMER:
        size = (options["in_chans"], image_size, image_size)
        model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, "input_size": size}
    model.model_args = {k: v for k, v in options.items() if not k.startswith("pretrained_cfg")}
    assert isinstance(model, nn.Module)
    return model


def _check_sides(options: Mapping[str, Any], image_size: int) -> None:
    """Raise unless sizes among the options of a model divide each other as they have to."""
    width, heads = options.get("embed_dim"), options.get("num_heads")
    if width is not None and heads is not None:
        require(
            width % heads == 0,
            "model.options.embed_dim",
            width,
            f"a multiple of model.options.num_heads ({heads})",
        )
    patch = options.get("patch_size")
    if patch is not None:
        side = options.get("img_size", image_size)
        require(
            side % patch == 0, "model.options.patch_size", patch, f"a divisor of the image's {side}"
        )


def creation(model: Any) -> tuple[str, dict[str, Any]]:
    """(architecture, arguments) with which `timm.create_model` makes a model's dense shape anew.

    For a model that `create_model` did not make, arguments are read off it, as far as that goes:
    sizes of the data, but no options.

    Raises:
        ValueError: the model is not one that timm made.
    """
    known: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    name = known.get("architecture")
    require(name is not None, "model", type(model).__name__, "a model that timm made")
    arguments = getattr(model, "model_args", None)
    if arguments is None:
        channels, *sides = input_shape(model)
        arguments = {"in_chans": channels, "global_pool": pooling(model)}
        if not isinstance(model, MetaFormer):
            arguments["img_size"] = sides[0] if sides[0] == sides[1] else sides
    # `reset_classifier` may have been called since.
    return str(name), {**arguments, "num_classes": model.num_classes}


def describe(
    model: nn.Module, factorized: tuple[type[nn.Module], ...] = ()
) -> VisionTransformerView:
    """Check that a model is supported and name its parts.

    Args:
        model: dense, or with modules of the given types.
        factorized: what may stand in the place of an Attention or a Linear; an attention among
            them has `num_heads` and the `head_dim` of the dense one.

    Raises:
        ValueError: the model is no timm vision transformer, or has what is not supported (named).
    """
    require(
        type(model) in (VisionTransformer, VisionTransformerDistilled),
        "model",
        type(model).__name__,
        "timm's VisionTransformer or VisionTransformerDistilled",
    )
    assert isinstance(model, VisionTransformer)
    embedding = type(model.patch_embed)
    require(embedding is PatchEmbed, "model.patch_embed", embedding.__name__, "timm's PatchEmbed")
    require(model.global_pool in POOLS, "model.global_pool", model.global_pool, ", ".join(POOLS))
    linears: list[tuple[str, str, str]] = []
    for index, block in enumerate(model.blocks):
        _check_block(block, f"blocks.{index}", factorized)
        for kind in ("fc1", "fc2"):
            linears.append((f"blocks.{index}.{kind}", f"blocks.{index}.mlp.{kind}", kind))
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, *factorized)
    linears += [(c, c, "head") for c in classifiers(model) if isinstance(getattr(model, c), kinds)]
    attention: Any = model.blocks[0].attn
    # DeiT III embeds positions before the prefix tokens are added: count tokens, not positions.
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    return VisionTransformerView(
        width=model.embed_dim,
        heads=attention.num_heads,
        head_width=attention.head_dim,
        depth=len(model.blocks),
        tokens=tokens,
        attentions=tuple(f"blocks.{i}.attn" for i in range(len(model.blocks))),
        linears=tuple(linears),
    )


def pooling(model: nn.Module) -> str:
    """How a model pools its tokens: timm's `global_pool`."""
    parts: Any = model.head if isinstance(model, MetaFormer) else model
    pool = parts.global_pool
    return str(getattr(pool, "pool_type", pool))


def classifiers(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules whose outputs are classes."""
    if isinstance(model, MetaFormer):
        return ("head.fc.fc2",) if model.use_mlp_head else ("head.fc",)
    return ("head", "head_dist") if hasattr(model, "head_dist") else ("head",)


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) of the images that a model takes.

    A MetaFormer takes images of any size: that which it was made for stands in its
    `pretrained_cfg`.

    Raises:
        ValueError: it stands nowhere.
    """
    if isinstance(model, MetaFormer):
        known: Any = getattr(model, "pretrained_cfg", None) or {}
        size = known.get("input_size", ())
        allowed = "(channels, height, width)"
        require(len(size) == 3, "model.pretrained_cfg.input_size", size, allowed)
        return model.stem.conv.in_channels, size[1], size[2]
    assert isinstance(model, VisionTransformer)
    height, width = model.patch_embed.img_size
    # Not `model.in_chans`, which timm 1.0.16 lacks.
    return model.patch_embed.proj.in_channels, height, width


def _check_block(block: Any, name: str, factorized: tuple[type[nn.Module], ...]) -> None:
    require(type(block) is Block, name, type(block).__name__, "timm's plain Block")
    attention, mlp = block.attn, block.mlp
    if type(attention) not in factorized:
        _check_attention(attention, f"{name}.attn")
    require(type(mlp) is Mlp, f"{name}.mlp", type(mlp).__name__, "timm's plain Mlp")
    for part in ("fc1", "fc2"):
        found = type(getattr(mlp, part))
        plain = found is nn.Linear or found in factorized
        require(plain, f"{name}.mlp.{part}", found.__name__, "Linear")


def _check_attention(attention: nn.Module, name: str) -> None:
    require(type(attention) is Attention, name, type(attention).__name__, "timm's Attention")
    for part, what in (("q_norm", "qk_norm"), ("k_norm", "qk_norm"), ("norm", "scale_norm")):
        found = type(getattr(attention, part)).__name__
        require(found == "Identity", f"{name}.{part}", found, f"no {what}")
    gate = getattr(attention, "gate", None)
    require(gate is None, f"{name}.gate", type(gate).__name__, "no gate")
