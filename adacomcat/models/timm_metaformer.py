"""timm's MetaFormers: PoolFormer, ConvFormer and CAFormer (arXiv 2210.13452).

They can be made, saved and loaded. Tokens of a CAFormer can be merged in its third stage, and are
put back before the fourth, as DiffRate (arXiv 2305.17997) has it; its weights are not factorized.
"""

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from timm.models import metaformer
from timm.models.metaformer import Attention, Downsampling, MetaFormer, MetaFormerBlock
from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.models.base import ModelView, Support
from adacomcat.models.plain import require_exact, require_no_hooks, require_unshared
from adacomcat.models.registry import register_family
from adacomcat.models.timm_base import TimmFamily
from adacomcat.models.timm_parts import TimmSteps, check_attention, check_container
from adacomcat.models.tokens import TokenSequence

STAGES, COMPRESSED = 4, 2
"""Stages of a CAFormer, and the index of the one whose tokens are merged."""
PARTS = ("qkv", "attn_drop", "proj", "proj_drop")
"""Children of the MetaFormer's Attention."""


class MetaFormerSteps(TimmSteps):
    """Halves of timm's MetaFormerBlock with attention."""

    def attention(self, block: Any) -> nn.Module:
        found = block.token_mixer
        assert isinstance(found, nn.Module)
        return found

    def add_attention(self, block: Any, x: Tensor, y: Tensor) -> Tensor:
        return block.res_scale1(x) + block.layer_scale1(block.drop_path1(y))

    def add_mlp(self, block: Any, x: Tensor) -> Tensor:
        y = block.mlp(block.norm2(x))
        return block.res_scale2(x) + block.layer_scale2(block.drop_path2(y))


@register_family
class TimmMetaFormer(TimmFamily):
    """`MetaFormer` of timm."""

    name = "timm MetaFormer"
    types = (MetaFormer,)
    homes = ("metaformer",)
    sized = False

    def support(self) -> Support:
        return Support(
            names=("caformer_*", "convformer_*", "poolformer*"),
            searched={"tokens": "of CAFormers: tokens merged in the third stage"},
            refused={
                "ranks": "weights of MetaFormers are not factorized",
                "tokens of PoolFormer, ConvFormer": "no attention in the third and fourth stage",
            },
        )

    def sizes(self, model: nn.Module) -> dict[str, dict[str, Any]]:
        """None are read; they are those that the arguments make."""
        return {}

    def convert_weights(
        self, model: nn.Module, state: Mapping[str, Tensor], where: str
    ) -> dict[str, Tensor]:
        convert: Any = metaformer.checkpoint_filter_fn
        try:
            return dict(convert(dict(state), model))
        except KeyError as key:
            raise ValueError(f"{where}: has {key.args[0]}, unknown to the model") from key

    def input_shape(self, model: nn.Module) -> tuple[int, int, int]:
        """A MetaFormer takes images of any size: that which it was made for is noted with it."""
        parts: Any = model
        known: Any = getattr(model, "pretrained_cfg", None) or {}
        size = known.get("input_size", ())
        allowed = "(channels, height, width)"
        require(len(size) == 3, "model.pretrained_cfg.input_size", size, allowed)
        return parts.stem.conv.in_channels, size[1], size[2]

    def pooling(self, model: nn.Module) -> str:
        head: Any = model.head
        return super().pooling(head)

    def classifiers(self, model: nn.Module) -> tuple[str, ...]:
        return ("head.fc.fc2",) if model.use_mlp_head else ("head.fc",)

    def embeddings(self, model: nn.Module) -> tuple[str, ...]:
        return ("stem.conv.weight",)

    def blocks(self, model: nn.Module) -> tuple[str, ...]:
        stages: Any = model.stages
        return tuple(
            f"stages.{stage}.blocks.{name}"
            for stage, part in stages.named_children()
            for name, _ in part.blocks.named_children()
        )

    def view(self, model: nn.Module) -> ModelView:
        allowed = "timm's VisionTransformer or VisionTransformerDistilled: low-rank weights of a "
        require(False, "model", type(model).__name__, f"{allowed}MetaFormer are not supported")
        raise AssertionError

    def tokens(self, model: nn.Module) -> TokenSequence:
        stages: Any = model.stages
        require_exact(model, "model", self.types)
        require(len(stages) == STAGES, "model.stages", len(stages), f"{STAGES}, as a CAFormer has")
        require_unshared(model)
        for index in range(COMPRESSED, STAGES):
            for number, block in stages[index].blocks.named_children():
                _check_block(block, f"stages.{index}.blocks.{number}")
        stage = stages[COMPRESSED]
        name = f"stages.{COMPRESSED}"
        # timm then calls the blocks one by one, past the container that compresses.
        whole = stage.grad_checkpointing
        require(not whole, f"{name}.grad_checkpointing", whole, "False with compressed tokens")
        check_container(stage.blocks, f"{name}.blocks")
        return TokenSequence(
            container=f"{name}.blocks",
            depth=len(stage.blocks),
            patches=_positions(model, self.input_shape(model)),
            prefix=0,
            scoring=0,
            pooled=False,
            merges_only=True,
            width=stage.blocks[0].mlp.fc1.weight.shape[1],
            steps=MetaFormerSteps(),
        )

    def macs_outside_by_width(self, model: nn.Module, tokens: TokenSequence) -> int:
        """Convolutions, and the blocks outside the container; grids halve evenly."""
        parts: Any = model
        convolutions = [parts.stem.conv] + [
            getattr(stage.downsample, "conv", None) for stage in parts.stages[1:]
        ]
        # Where two stages are of the same width timm does not downsample.
        halvings = list(accumulate(int(conv is not None) for conv in convolutions))
        total = 0
        for index, (stage, conv) in enumerate(zip(parts.stages, convolutions, strict=True)):
            positions = tokens.patches * 4 ** halvings[COMPRESSED] // 4 ** halvings[index]
            total += 0 if conv is None else positions * conv.weight.numel()
            if index == COMPRESSED:
                continue
            width = stage.blocks[0].mlp.fc1.weight.shape[1]
            attends = isinstance(stage.blocks[0].token_mixer, Attention)
            # Attention's two products, or a convolution over 7 x 7 of twice the width.
            mixing = 2 * positions * width if attends else 2 * 7 * 7 * width
            total += len(stage.blocks) * positions * (12 * width**2 + mixing)
        return int(total + 8 * parts.num_features * parts.num_classes)


def _check_block(block: Any, name: str) -> None:
    require_exact(block, name, (MetaFormerBlock,), "timm's MetaFormerBlock")
    require_no_hooks(block, name)
    mixer = type(block.token_mixer)
    attends = mixer is Attention
    require(attends, f"{name}.token_mixer", mixer.__name__, "Attention, as a CAFormer has")
    check_attention(block.token_mixer, f"{name}.token_mixer", Attention, PARTS)


def _positions(model: Any, shape: tuple[int, int, int]) -> int:
    """Tokens of the compressed stage at the model's input size."""
    downsamplings = [stage.downsample for stage in model.stages[: COMPRESSED + 1]]
    # Between stages of one width timm does not downsample.
    convolutions = [m.conv for m in downsamplings if isinstance(m, Downsampling)]
    _, *sides = shape
    for conv in (model.stem.conv, *convolutions):
        kernel, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
    return math.prod(sides)
