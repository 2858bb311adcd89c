"""The only file that knows timm's classes: what a supported vision transformer is made of.

Checked against timm 1.0: `VisionTransformer` (ViT, DeiT, DeiT III) and `VisionTransformerDistilled`
(two prefix tokens, two classifiers), with class-token, average or maximum pooling. Whatever would
make
the factorisation wrong is refused by name: normalised queries and keys, gates, rotary or relative
positions, gated or convolutional MLPs, attention pooling.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
from timm.layers import Attention, Mlp, PatchEmbed
from timm.models import model_entrypoint
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from adacomcat.checks import require
from adacomcat.config import ModelConfig

FAMILIES = ("vision_transformer", "deit")
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

    Raises:
        ValueError: unknown model or option, or sizes that do not go together.
    """
    require(timm.is_model(config.name), "model.name", config.name, "a name of timm.list_models()")
    home = model_entrypoint(config.name).__module__.rpartition(".")[2]
    require(
        home in FAMILIES, "model.name", config.name,
        f"models of timm's {' and '.join(FAMILIES)}; this one is of {home}",
    )  # fmt: skip
    sizes: dict[str, Any] = {
        "num_classes": num_classes,
        "in_chans": in_chans,
        "img_size": image_size,
    }
    options: Mapping[str, Any] = {**sizes, **config.options}
    width, heads = options.get("embed_dim"), options.get("num_heads")
    if width is not None and heads is not None:
        require(
            width % heads == 0, "model.options.embed_dim", width,
            f"a multiple of model.options.num_heads ({heads})",
        )  # fmt: skip
    patch = options.get("patch_size")
    if patch is not None:
        side = options["img_size"]
        require(
            side % patch == 0, "model.options.patch_size", patch, f"a divisor of the image's {side}"
        )
    try:
        return timm.create_model(config.name, pretrained=False, **options)
    except (TypeError, AssertionError) as error:
        raise ValueError(f"model.options: {error}") from error


def describe(model: nn.Module) -> VisionTransformerView:
    """Check that a dense model is supported and name its parts.

    Raises:
        ValueError: the model is no timm vision transformer, or has what is not supported (named).
    """
    require(
        type(model) in (VisionTransformer, VisionTransformerDistilled),
        "model", type(model).__name__, "timm's VisionTransformer or VisionTransformerDistilled",
    )  # fmt: skip
    assert isinstance(model, VisionTransformer)
    embedding = type(model.patch_embed)
    require(embedding is PatchEmbed, "model.patch_embed", embedding.__name__, "timm's PatchEmbed")
    require(model.global_pool in POOLS, "model.global_pool", model.global_pool, ", ".join(POOLS))
    linears: list[tuple[str, str, str]] = []
    for index, block in enumerate(model.blocks):
        _check_block(block, f"blocks.{index}")
        for kind in ("fc1", "fc2"):
            linears.append((f"blocks.{index}.{kind}", f"blocks.{index}.mlp.{kind}", kind))
    classifiers = ["head", "head_dist"] if hasattr(model, "head_dist") else ["head"]
    linears += [(c, c, "head") for c in classifiers if isinstance(getattr(model, c), nn.Linear)]
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


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) of the images that a vision transformer takes."""
    assert isinstance(model, VisionTransformer)
    height, width = model.patch_embed.img_size
    return model.in_chans, height, width


def _check_block(block: nn.Module, name: str) -> None:
    require(type(block) is Block, name, type(block).__name__, "timm's plain Block")
    attention, mlp = block.attn, block.mlp
    require(
        type(attention) is Attention, f"{name}.attn", type(attention).__name__, "timm's Attention"
    )
    for part, what in (("q_norm", "qk_norm"), ("k_norm", "qk_norm"), ("norm", "scale_norm")):
        found = type(getattr(attention, part)).__name__
        require(found == "Identity", f"{name}.attn.{part}", found, f"no {what}")
    gate = getattr(attention, "gate", None)
    require(gate is None, f"{name}.attn.gate", type(gate).__name__, "no gate")
    require(type(mlp) is Mlp, f"{name}.mlp", type(mlp).__name__, "timm's plain Mlp")
    for part in ("fc1", "fc2"):
        found = type(getattr(mlp, part)).__name__
        require(found == "Linear", f"{name}.mlp.{part}", found, "Linear")
