"""timm's vision transformers: ViT, DeiT, DeiT III, MAE, DINOv2, CLIP and distilled DeiT.

Checked against timm 1.0: `VisionTransformer` and `VisionTransformerDistilled` (two prefix tokens,
two classifiers), with class-token, average or maximum pooling. Whatever would make another function
of a factorized model is refused by name.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import Attention, Mlp, PatchEmbed
from timm.models import vision_transformer
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from adacomcat.checks import require, require_known
from adacomcat.config import ModelConfig
from adacomcat.models.base import (
    AttentionView,
    BlockView,
    ModelView,
    Support,
)
from adacomcat.models.heads import HeadAttention
from adacomcat.models.plain import require_exact, require_no_hooks, require_unshared
from adacomcat.models.registry import register_family
from adacomcat.models.tensors import check_tensors
from adacomcat.models.timm_base import TimmFamily
from adacomcat.models.timm_parts import (
    TimmSteps,
    check_attention,
    check_container,
    check_sizes,
    fused_view,
    linear_view,
    resize_attention_,
    resized,
    stand_in_view,
)
from adacomcat.models.tokens import TokenSequence

POSITIONS = ("pos_embed", "visual.positional_embedding", "position_embeddings")
"""Ends of the names of positions in checkpoints of timm, DINOv2, CLIP and others."""
POOLS = ("token", "avg", "avgmax", "max")
PATCHES = "patch_embed.proj.weight"
PARTS = ("qkv", "q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop")
"""Children of timm's Attention."""


class VisionTransformerSteps(TimmSteps):
    """Halves of timm's Block."""

    def attention(self, block: Any) -> nn.Module:
        found = block.attn
        assert isinstance(found, nn.Module)
        return found

    def add_attention(self, block: Any, x: Tensor, y: Tensor) -> Tensor:
        return x + block.drop_path1(block.ls1(y))

    def add_mlp(self, block: Any, x: Tensor) -> Tensor:
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

    def dense_project(self, attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().dense_project(attention, x)
        return attention.q_norm(q), attention.k_norm(k), v

    def dense_finish(self, attention: Any, heads: Tensor) -> Tensor:
        joined = attention.norm(heads.transpose(1, 2).flatten(2))
        output: Tensor = attention.proj_drop(attention.proj(joined))
        return output


@register_family
class TimmVisionTransformer(TimmFamily):
    """`VisionTransformer` and `VisionTransformerDistilled` of timm."""

    name = "timm ViT"
    types = (VisionTransformer, VisionTransformerDistilled)
    homes = ("vision_transformer", "deit")

    def support(self) -> Support:
        return Support(
            names=("vit_*", "deit_*", "deit3_*", "flexivit_*", "and other plain ViTs of timm"),
            searched={
                "qk, vo": "ranks of the attention's two products, by heads",
                "fc1, fc2": "ranks of the MLP's layers",
                "head": "ranks of the classifiers",
                "tokens": "tokens kept by each block; with a class token, or the mean over patches",
            },
            refused={
                "qk with norms of queries and keys": "a norm stands between Wq and Wk: their "
                "product is no bilinear form; vo and all else is searched",
                "rotary or relative positions": "they stand between queries and keys",
                "gated attention, a norm of its output": "not read by heads",
                "SwiGLU and other MLPs, parallel blocks": "not plain blocks of fc1 and fc2",
                "attention pooling": "an attention with a query of its own reads the tokens",
                "subclasses, hooks, adapters, parametrizations, shared weights": "they would be "
                "lost; adapters (LoRA) have to be merged first",
            },
        )

    def convert_weights(
        self, model: nn.Module, state: Mapping[str, Tensor], where: str
    ) -> dict[str, Tensor]:
        own = model.state_dict()
        if PATCHES in own and PATCHES in state and state[PATCHES].ndim == own[PATCHES].ndim:
            # timm would resample them, which makes another model of it.
            check_tensors({PATCHES: state[PATCHES]}, {PATCHES: own[PATCHES]}, where)
        convert: Any = vision_transformer.checkpoint_filter_fn
        try:
            return dict(convert(dict(state), model, adapt_layer_scale=True))
        except (RuntimeError, ValueError, KeyError, AttributeError):
            # Weights of another model: what differs says more than where timm gave up.
            check_tensors(state, own, where)
            raise

    def image_size_of(self, config: ModelConfig, state: Mapping[str, Tensor]) -> int | None:
        """Image size by the number of positions and the patch size; None if they form no square."""
        with torch.device("meta"):
            size = self.image_size(config.name)
            model: Any = self.create(config, num_classes=0, in_chans=3, image_size=size)
        if model.pos_embed is None:
            return None
        own_prefix = model.pos_embed.shape[1] - model.patch_embed.num_patches
        patch = model.patch_embed.patch_size[0]
        for key, positions in state.items():
            if not key.endswith(POSITIONS) or positions.shape[-1] != model.embed_dim:
                continue
            # Registers and distillation tokens have positions or not, by who trained them.
            for prefix in (own_prefix, 1, 0, 2):
                side = math.isqrt(max(0, positions.shape[-2] - prefix))
                if side > 0 and side**2 == positions.shape[-2] - prefix:
                    return int(side * patch)
        return None

    def input_shape(self, model: nn.Module) -> tuple[int, int, int]:
        parts: Any = model
        height, width = parts.patch_embed.img_size
        # Not `model.in_chans`, which timm 1.0.16 lacks.
        return parts.patch_embed.proj.in_channels, height, width

    def classifiers(self, model: nn.Module) -> tuple[str, ...]:
        distilled = isinstance(model, VisionTransformerDistilled)
        return ("head", "head_dist") if distilled else ("head",)

    def embeddings(self, model: nn.Module) -> tuple[str, ...]:
        return (PATCHES,)

    def blocks(self, model: nn.Module) -> tuple[str, ...]:
        parts: Any = model
        return tuple(f"blocks.{name}" for name, _ in parts.blocks.named_children())

    def view(self, model: nn.Module) -> ModelView:
        parts: Any = model
        self._check_model(model)
        tokens = self._tokens(model)
        blocks = [
            self._block(block, f"blocks.{name}", tokens)
            for name, block in parts.blocks.named_children()
        ]
        classifiers = []
        for name in self.classifiers(model):
            layer = model.get_submodule(name)
            # A model without a classifier has an Identity there.
            if type(layer) is not nn.Identity:
                classifiers.append(linear_view(layer, name, name, "head", 1))
        return ModelView(tuple(blocks), tuple(classifiers))

    def tokens(self, model: nn.Module) -> TokenSequence:
        parts: Any = model
        self._check_model(model)
        pool = parts.global_pool
        require(pool in ("token", "avg"), "model.global_pool", pool, "token, avg")
        # timm then calls the blocks one by one, past the container that compresses.
        whole = parts.grad_checkpointing
        require(not whole, "model.grad_checkpointing", whole, "False with compressed tokens")
        dropped = type(parts.patch_drop).__name__
        require(dropped == "Identity", "model.patch_drop", dropped, "no patch_drop_rate")
        if pool == "avg":
            # The mean is by sizes, which are multiplied in before it: a norm would undo them.
            norm = type(parts.norm).__name__
            require(norm == "Identity", "model.norm", norm, "a norm after the mean (fc_norm)")
            prefix = parts.pool_include_prefix
            require(not prefix, "model.pool_include_prefix", prefix, "False: patches alone")
        check_container(parts.blocks, "blocks")
        for name, block in parts.blocks.named_children():
            _check_block(block, f"blocks.{name}")
            require_no_hooks(block, f"blocks.{name}")
            check_attention(block.attn, f"blocks.{name}.attn", Attention, PARTS)
        distilled = isinstance(model, VisionTransformerDistilled)
        return TokenSequence(
            container="blocks",
            depth=len(parts.blocks),
            patches=self._tokens(model) - parts.num_prefix_tokens,
            prefix=parts.num_prefix_tokens,
            # Registers are prefix tokens too, but nothing reads them in the end.
            scoring=2 if distilled else int(parts.has_class_token),
            pooled=pool == "avg",
            width=parts.embed_dim,
            steps=VisionTransformerSteps(),
        )

    def resize_(self, model: nn.Module, sizes: Mapping[str, Mapping[str, Any]]) -> None:
        view = self.view(model)
        for name, wanted in sizes.items():
            parts = {**view.attentions, **view.linears}
            require_known(name, parts, "sizes")
            if name in view.attentions:
                check_sizes(wanted, ("heads", "head_width"), f"sizes.{name}", also=("scale",))
                resize_attention_(model.get_submodule(name), wanted)
            else:
                check_sizes(wanted, ("inputs", "outputs"), f"sizes.{name}")
                model.set_submodule(name, resized(model.get_submodule(name), **wanted))

    def _check_made(self, model: Any, name: str) -> None:
        embedding = getattr(model, "patch_embed", None)
        if isinstance(embedding, PatchEmbed):
            # The model's own patches, where no option names them.
            for side, pixels in zip(embedding.img_size, embedding.patch_size, strict=True):
                allowed = f"a multiple of {pixels}, the side of a patch of {name}"
                require(side % pixels == 0, "data.image_size", side, allowed)

    def _check_model(self, model: nn.Module) -> None:
        parts: Any = model
        require_exact(model, "model", self.types)
        embedding = type(parts.patch_embed)
        require(
            embedding is PatchEmbed, "model.patch_embed", embedding.__name__, "timm's PatchEmbed"
        )
        pool = parts.global_pool
        require(pool in POOLS, "model.global_pool", pool, ", ".join(POOLS))
        require_unshared(model)

    def _tokens(self, model: nn.Module) -> int:
        parts: Any = model
        # DeiT III embeds positions before the prefix tokens are added: count tokens, not positions.
        return int(parts.patch_embed.num_patches + parts.num_prefix_tokens)

    def _block(self, block: Any, name: str, tokens: int) -> BlockView:
        _check_block(block, name)
        attention = _attention(block.attn, name, tokens)
        linears = tuple(
            linear_view(
                getattr(block.mlp, kind), f"{name}.mlp.{kind}", f"{name}.{kind}", kind, tokens
            )
            for kind in ("fc1", "fc2")
        )
        return BlockView(name, attention.width, tokens, attention, linears)


def _check_block(block: Any, name: str) -> None:
    require_exact(block, name, (Block,), "timm's plain Block")
    require_exact(block.mlp, f"{name}.mlp", (Mlp,), "timm's plain Mlp")


def _attention(attention: Any, block: str, tokens: int) -> AttentionView:
    name = f"{block}.attn"
    check_attention(attention, name, Attention, PARTS)
    if isinstance(attention, HeadAttention):
        return stand_in_view(attention, block, name, tokens)
    found = type(attention.norm).__name__
    require(found == "Identity", f"{name}.norm", found, "no scale_norm")
    return fused_view(attention, block, name, tokens)
