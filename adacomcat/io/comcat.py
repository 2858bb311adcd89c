"""Reading and writing checkpoints of the reference implementation of (Adaptive-)ComCAT.

A folder holds `checkpoint.pth`, a pickle with the state dict under `model`, and `ranks.txt`, the
ranks in one line: qk, vo, fc1 and fc2 of each block, then the classifier, those of attention over
all heads. A factorized module is kept under its dense name and `selected_rank_layer`:

    blocks.0.attn            w_qs, w_ks (H r_qk, D), w_vs (H r_vo, D), proj (D, H r_vo)
    blocks.0.mlp.fc1, head   first_factor (r, in), last_factor (out, r)

D channels, H heads whose rows lie one after the other, r a rank. Scores have the scale of the dense
head. Attention has four biases or, as the search leaves it, none. The key bias has no effect and is
left out on reading; the value bias moves into the output bias (see `lowrank.attention`): the model
is the same function with fewer numbers. Of what a search leaves beside the weights, the logits
`rank_alpha` are left out.
"""

import copy
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.files import atomic_write_bytes
from adacomcat.methods.lowrank.attention import LowRankAttention
from adacomcat.methods.lowrank.linear import LowRankLinear
from adacomcat.methods.lowrank.spec import model_sites, shape_, shapes_for, shapes_of
from adacomcat.methods.lowrank.spec import plan_of as ranks_of
from adacomcat.methods.specs import plan_of
from adacomcat.models.pickles import load_pickle
from adacomcat.models.registry import family_of, view_of
from adacomcat.models.tensors import check_tensors
from adacomcat.models.weights import plain_state
from adacomcat.plan import Plan

CHECKPOINT, RANKS = "checkpoint.pth", "ranks.txt"
LAYER = "selected_rank_layer"
ATTENTION = ("w_qs", "w_ks", "w_vs", "proj")
BLOCK_KINDS = 4
"""Ranks a block in `ranks.txt`."""
PLAIN = re.compile(
    r"(cls_token|dist_token|pos_embed|patch_embed\.proj\.\w+|norm\.\w+|head_dist\.(weight|bias)"
    r"|blocks\.\d+\.norm[12]\.\w+)"
)
"""Keys of tensors that the reference's model has beside the factorized ones."""


def read_ranks(path: Path, model: nn.Module) -> Plan:
    """The plan in a `ranks.txt`; a second classifier (distilled models) stays dense.

    Args:
        path: the file; numbers between commas or white space.
        model: the dense model that the ranks are for, on any device, the meta device too.

    Raises:
        ValueError: no such file, another count of numbers, or a rank that a site cannot have.
    """
    ranks = read_numbers(path)
    sites = [site for site in model_sites(model) if site.name != "head_dist"]
    depth = len(sites) // BLOCK_KINDS
    require(
        len(ranks) == len(sites),
        str(path),
        f"{len(ranks)} ranks",
        f"{len(sites)}: {BLOCK_KINDS} for each of the model's {depth} blocks"
        + " and 1 for its classifier" * (len(sites) % BLOCK_KINDS),
    )
    for site, rank in zip(sites, ranks, strict=True):
        require(site.has_rank(rank), f"{path}: {site.name}", rank, site.ranks)
    return Plan("lowrank", {s.name: r for s, r in zip(sites, ranks, strict=True)})


def insert_ranks_(model: nn.Module, path: Path, *, biases: bool) -> None:
    """Factorize a dense model at the ranks of a `ranks.txt`, without weights yet.

    Args:
        model: on any device, the meta device too.
        path: of the file.
        biases: whether those of the attention fold into the factors, or are dropped.

    Raises:
        ValueError: as `read_ranks`.
    """
    shape_(model, shapes_for(model, read_ranks(path, model), biases=biases))


def read_numbers(path: Path) -> list[int]:
    """The numbers in a `ranks.txt`.

    Raises:
        ValueError: no such file, or anything else in it; the file is named.
    """
    require(path.is_file(), RANKS, str(path), "a file that exists")
    try:
        words = path.read_text("utf-8-sig").replace(",", " ").split()
        return [int(word) for word in words]
    except ValueError as error:
        raise ValueError(f"{path}: {error}, allowed: integers with commas between") from error


def load_comcat(folder: Path, model: nn.Module) -> nn.Module:
    """The model in a folder of the reference, committed, in evaluation mode.

    Its plan is that of `read_ranks`, or of `adacomcat.methods.specs.plan_of`.

    Args:
        folder: with `checkpoint.pth` and `ranks.txt`.
        model: the dense model that was compressed; gives sizes and device, stays as it is. On the
            meta device, the result is on the CPU.

    Raises:
        ValueError: a file is missing, damaged or would run code, ranks are not those of the file
            or the model is another (the key, its shape and the model's are named).
    """
    path = folder / CHECKPOINT
    state = plain_state(load_pickle(path), path)
    state = {key: value for key, value in state.items() if not key.endswith("rank_alpha")}
    # Before the ranks, which would be blamed for a model of another width.
    _check_sizes(model, state, path)
    plan = read_ranks(folder / RANKS, model)
    committed = copy.deepcopy(model)
    shape_(committed, _shapes(model, plan, state))
    factorized = shapes_of(committed)
    check_tensors(state, _expected(committed, factorized, state), f"{path} with {RANKS}")
    for name, shape in factorized.items():
        state |= _from_attention(name, state) if shape["kind"] == "attention" else {}
    renamed = {_own_name(key): value for key, value in state.items()}
    device = next(model.parameters()).device
    committed.load_state_dict(renamed, assign=True)
    return (committed if device.type == "meta" else committed.to(device)).eval()


def save_comcat(model: nn.Module, folder: Path) -> None:
    """Write a committed model in the reference's format, which `load_comcat` reads back exactly.

    Attention with biases gets a key and a value bias of zeros, which the reference has and we fold.

    Raises:
        ValueError: what the format cannot hold: tokens that are dropped, a dense site, a second
            classifier that is factorized, a pooling or a part that the reference's models lack
            (each is named).
    """
    plan, sites = plan_of(model), model_sites(model)
    own = ranks_of(model).method
    require(plan.method == own, "model", plan.method, f"{own}: the format has no more")
    pool = family_of(model).pooling(model)
    require(pool == "token", "model.global_pool", pool, "token, all that the reference has")
    require("head" in plan.decisions, "model.head", None, "a classifier: the format has its rank")
    for name, rank in plan.decisions.items():
        if name == "head_dist":
            require(rank is None, name, rank, "a dense one: the format has no rank for it")
        else:
            require(rank is not None, name, "dense", "a factorized site: the format has a rank")
    for name, view in view_of(model).attentions.items():
        allowed = "nothing between queries and keys: the format has no more"
        require(view.between == "nothing", name, view.between, allowed)
    state: dict[str, Tensor] = {}
    rest = dict(model.state_dict())
    for name in shapes_of(model):
        written = _to_reference(name, model.get_submodule(name))
        state |= written
        rest = {key: value for key, value in rest.items() if not key.startswith(f"{name}.")}
    for key, value in rest.items():
        require(
            PLAIN.fullmatch(key) is not None,
            "model",
            key,
            "a ViT of class token, positions, blocks and classifier: the reference's has no more",
        )
        state[key] = value
    ranks = [str(plan.decisions[site.name]) for site in sites if site.name != "head_dist"]
    buffer = io.BytesIO()
    torch.save({"model": {k: v.detach().cpu().clone() for k, v in state.items()}}, buffer)
    atomic_write_bytes(folder / CHECKPOINT, buffer.getvalue())
    atomic_write_bytes(folder / RANKS, ",".join(ranks).encode())


def _check_sizes(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Raise if a size that does not depend on ranks differs between file and model."""
    dense = model.state_dict()
    for key in (key for key in state if key in dense):
        check_tensors({key: state[key]}, {key: dense[key]}, str(path))
    wanted: dict[str, tuple[int | None, ...]] = {}
    for site in model_sites(model):
        layer = f"{site.module}.{LAYER}"
        if site.attention:
            wanted[f"{layer}.w_qs.weight"] = (None, site.inputs)
        else:
            wanted[f"{layer}.first_factor.weight"] = (None, site.inputs)
            wanted[f"{layer}.last_factor.weight"] = (site.outputs, None)
    for key, sizes in wanted.items():
        shape = tuple(state[key].shape) if key in state else sizes
        same = len(shape) == 2 and all(b in (None, a) for a, b in zip(shape, sizes, strict=True))
        allowed = ", ".join("its rank" if size is None else str(size) for size in sizes)
        require(same, f"{path}: {key}", shape, f"shape ({allowed})")


def _shapes(model: nn.Module, plan: Plan, state: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Descriptions of the plan's modules, with the biases that the file has."""
    shapes = shapes_for(model, plan)
    for name, shape in shapes.items():
        layer = f"{name}.{LAYER}"
        if shape["kind"] == "attention":
            shape["query_bias"] = f"{layer}.w_qs.bias" in state
            shape["out_bias"] = any(f"{layer}.{part}.bias" in state for part in ("w_vs", "proj"))
        else:
            shape["bias"] = f"{layer}.last_factor.bias" in state
    return shapes


def _expected(
    committed: nn.Module,
    shapes: Mapping[str, Mapping[str, Any]],
    state: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Expected tensors for a model, by the reference's names, on the meta device."""
    expected = {}
    for key, value in committed.state_dict().items():
        name = next((name for name in shapes if key.startswith(f"{name}.")), None)
        if name is None or shapes[name]["kind"] == "linear":
            expected[_reference_name(key, name)] = value.to("meta")
    for name, shape in shapes.items():
        if shape["kind"] == "attention":
            expected |= _expected_attention(f"{name}.{LAYER}", shape, state)
    return expected


def _expected_attention(
    layer: str, shape: Mapping[str, Any], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    width, heads = shape["width"], shape["heads"]
    queries, values = heads * shape["qk_rank"], heads * shape["vo_rank"]
    rows = {"w_qs": queries, "w_ks": queries, "w_vs": values, "proj": width}
    expected = {}
    for part in ATTENTION:
        columns = values if part == "proj" else width
        expected[f"{layer}.{part}.weight"] = torch.empty(rows[part], columns, device="meta")
        # Any of the four biases may be there: a missing one is zero, as in the reference.
        if f"{layer}.{part}.bias" in state:
            expected[f"{layer}.{part}.bias"] = torch.empty(rows[part], device="meta")
    return expected


def _from_attention(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take an attention of the reference out of `state`; gives it in the names of ours."""
    layer = f"{name}.{LAYER}"
    weights = {part: state.pop(f"{layer}.{part}.weight") for part in ATTENTION}
    biases = {part: state.pop(f"{layer}.{part}.bias", None) for part in ATTENTION}
    own = {
        f"{name}.qkv.weight": torch.cat([weights[part] for part in ATTENTION[:3]]),
        f"{name}.proj.weight": weights["proj"],
    }
    if biases["w_qs"] is not None:
        own[f"{name}.q_bias"] = biases["w_qs"]
    out, values = biases["proj"], biases["w_vs"]
    if values is not None:
        # Rows of attention sum to one: what every value has, every output has.
        moved = (weights["proj"].double() @ values.double()).to(values.dtype)
        out = moved if out is None else out + moved
    if out is not None:
        own[f"{name}.proj.bias"] = out
    return own


def _to_reference(name: str, module: nn.Module) -> dict[str, Tensor]:
    """A factorized module in the reference's names."""
    layer = f"{name}.{LAYER}"
    if isinstance(module, LowRankLinear):
        own = module.state_dict()
        return {_reference_name(f"{name}.{key}", name): value for key, value in own.items()}
    assert isinstance(module, LowRankAttention)
    parts = module.qkv.weight.split(module.sizes)
    state = {f"{layer}.{p}.weight": w for p, w in zip(ATTENTION[:3], parts, strict=True)}
    state[f"{layer}.proj.weight"] = module.proj.weight
    queries = module.state_dict().get("q_bias")
    if queries is not None:
        state |= {f"{layer}.w_qs.bias": queries, f"{layer}.w_ks.bias": torch.zeros_like(queries)}
    if module.proj.bias is not None:
        state[f"{layer}.w_vs.bias"] = module.proj.bias.new_zeros(module.sizes[2])
        state[f"{layer}.proj.bias"] = module.proj.bias
    return state


def _reference_name(key: str, module: str | None) -> str:
    """Our key of a factorized linear layer, or of a plain one, in the reference's names."""
    if module is None:
        return key
    part = key.removeprefix(f"{module}.").replace("first.", "first_factor.", 1)
    return f"{module}.{LAYER}." + re.sub(r"^last\.", "last_factor.", part)


def _own_name(key: str) -> str:
    """The reference's key of a linear layer, or a plain one, in our names."""
    key = key.replace(f"{LAYER}.first_factor.", "first.")
    return key.replace(f"{LAYER}.last_factor.", "last.")
