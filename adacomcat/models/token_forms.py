"""Where the tokens of timm's models run: what the token method has to know beside the modules.

Vision transformers that `describe` supports, whose head reads the class token (and the distillation
token) or the mean over patches with its norm after it, as MAE's fine-tuned models do; and CAFormer
(arXiv 2210.13452), of which DiffRate (arXiv 2305.17997) merges tokens in the third stage and puts
them back before the fourth.
"""

import math
from typing import Any

from timm.layers import Attention
from timm.models import metaformer
from timm.models.deit import VisionTransformerDistilled
from timm.models.metaformer import Downsampling, MetaFormer, MetaFormerBlock
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from adacomcat.checks import require
from adacomcat.methods.tokens.form import TokenForm
from adacomcat.models.timm_vit import describe, input_shape

KINDS = (VisionTransformer, VisionTransformerDistilled, MetaFormer)
STAGES, COMPRESSED = 4, 2
"""Stages of a CAFormer, and the index of the one whose tokens are merged."""


def describe_tokens(model: nn.Module, factorized: tuple[type[nn.Module], ...] = ()) -> TokenForm:
    """Check that tokens of a model can be dropped and merged, and say where they run.

    Args:
        model: dense or with modules of the given types, its tokens compressed already or not.
        factorized: what may stand in the place of an Attention or a Linear, as in `describe`.

    Raises:
        ValueError: the model is none of the above, or has what is not supported (named).
    """
    allowed = " or ".join(kind.__name__ for kind in KINDS)
    require(type(model) in KINDS, "model", type(model).__name__, f"timm's {allowed}")
    if isinstance(model, MetaFormer):
        return _caformer(model)
    return _vision_transformer(model, factorized)


def _vision_transformer(model: Any, factorized: tuple[type[nn.Module], ...]) -> TokenForm:
    # Normalized queries and keys, which cannot be factorized, are no matter to tokens: any plain
    # Attention may stand.
    view = describe(model, (*factorized, Attention))
    for name in view.attentions:
        gate = getattr(model.get_submodule(name), "gate", None)
        require(gate is None, f"{name}.gate", type(gate).__name__, "no gate")
    pool = model.global_pool
    require(pool in ("token", "avg"), "model.global_pool", pool, "token, avg")
    _check_whole(model, "model")
    dropped = type(model.patch_drop).__name__
    require(dropped == "Identity", "model.patch_drop", dropped, "no patch_drop_rate")
    if pool == "avg":
        # The mean is by sizes, which are multiplied in before it: a norm would undo them.
        norm = type(model.norm).__name__
        require(norm == "Identity", "model.norm", norm, "a norm after the mean (fc_norm)")
        with_prefix = model.pool_include_prefix
        require(not with_prefix, "model.pool_include_prefix", with_prefix, "False: patches alone")
    distilled = isinstance(model, VisionTransformerDistilled)
    return TokenForm(
        container="blocks",
        depth=view.depth,
        patches=view.tokens - model.num_prefix_tokens,
        prefix=model.num_prefix_tokens,
        # Registers are prefix tokens too, but nothing reads them in the end.
        scoring=2 if distilled else int(model.has_class_token),
        pooled=pool == "avg",
    )


def _caformer(model: MetaFormer) -> TokenForm:
    stages: Any = model.stages
    require(len(stages) == STAGES, "model.stages", len(stages), f"{STAGES}, as a CAFormer has")
    for index in range(COMPRESSED, STAGES):
        for number, block in enumerate(stages[index].blocks):
            name, found = f"stages.{index}.blocks.{number}", type(block)
            require(found is MetaFormerBlock, name, found.__name__, "timm's MetaFormerBlock")
            mixer = type(block.token_mixer)
            attends = mixer is metaformer.Attention
            require(attends, f"{name}.token_mixer", mixer.__name__, "Attention, as a CAFormer has")
    _check_whole(stages[COMPRESSED], f"stages.{COMPRESSED}")
    return TokenForm(
        container=f"stages.{COMPRESSED}.blocks",
        depth=len(stages[COMPRESSED].blocks),
        patches=_positions(model),
        prefix=0,
        scoring=0,
        pooled=False,
        merges_only=True,
    )


def _positions(model: MetaFormer) -> int:
    """Tokens of the compressed stage at the model's input size."""
    downsamplings = [stage.downsample for stage in model.stages[: COMPRESSED + 1]]
    # Between stages of one width timm does not downsample.
    convolutions = [m.conv for m in downsamplings if isinstance(m, Downsampling)]
    _, *sides = input_shape(model)
    for conv in (model.stem.conv, *convolutions):
        kernel, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
    return math.prod(sides)


def _check_whole(part: Any, name: str) -> None:
    # timm then calls the blocks one by one, past the container that compresses.
    found = part.grad_checkpointing
    require(not found, f"{name}.grad_checkpointing", found, "False with compressed tokens")
