"""Pretrained weights for a dense model: files, URLs, timm's tags.

Everything is loaded strictly: a key too many, a key too few or another shape is an error that
names it. Two things may differ, as in the finetuning of DeiT: positions are interpolated to another
image size (by timm), and a classifier for other classes stays at random weights where that is asked
for.
"""

import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.config import DenseConfig, ModelConfig
from adacomcat.files import sha256_file
from adacomcat.models.pickles import load_pickle
from adacomcat.models.registry import family_for, family_of
from adacomcat.models.tensors import check_tensors

TIMM = "timm"
"""Value of `dense.weights` for the tag in `model.name`."""
SCHEMES = ("https", "file")
HOLDERS = ("model", "state_dict")
"""Keys under which training scripts keep a model's state dict."""


def load_dense_weights_(
    model: nn.Module, config: DenseConfig, name: ModelConfig, cache: Path
) -> None:
    """Load the weights that a configuration names into a dense model.

    Args:
        model: as `create_model` made it; where its classifier is kept, that stays as it is.
        config: names them.
        name: the model's name, for a tag of timm.
        cache: folder that downloads are kept in, under `weights`.

    Raises:
        ValueError: weights that cannot be had, have another hash, or are not of this model (the
            key, its shape and the model's are named) or for other classes.
    """
    where, state = read_dense_weights(config, name, cache)
    load_state_(model, state, where, new_head=config.new_head)


def read_dense_weights(
    config: DenseConfig, name: ModelConfig, cache: Path
) -> tuple[str, dict[str, Tensor]]:
    """Source of the weights that a configuration names, and their state dict.

    Raises:
        ValueError: weights that cannot be had, or have another hash.
    """
    assert config.weights is not None
    if config.weights == TIMM:
        return f"timm's {name.name}", _tagged(name)
    path = _local(config, cache)
    return str(path), read_weights(path)


def image_size_of_weights(config: DenseConfig, name: ModelConfig, cache: Path) -> int | None:
    """Side in pixels of the images that given weights are for, by their positions.

    Args:
        config: names a file or a URL.
        name: of the model that the weights are for.
        cache: as in `load_dense_weights_`.

    Returns:
        None where the weights do not tell.

    Raises:
        ValueError: weights that cannot be had or have another hash, or an unknown model.
    """
    state = read_weights(_local(config, cache))
    return family_for(name.name).image_size_of(name, state)


def weights_identity(config: DenseConfig) -> str | None:
    """Identity of weights: a hash of the file's content, not its path.

    Raises:
        ValueError: no such file, or one with another hash than `dense.sha256`.
    """
    if config.weights is None or config.weights == TIMM:
        return config.weights
    if "://" in config.weights:
        return config.sha256
    return _checked(Path(config.weights), config.sha256)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of weights, without `module.` before its keys.

    Args:
        path: safetensors, or a pickle of PyTorch with the state dict at its top or under `model`
            (as DeiT's) or `state_dict`.

    Raises:
        ValueError: no such file, a damaged one, one that would run code, or one with no weights.
    """
    require(path.is_file(), "weights", str(path), "a file that exists")
    content: Any
    if path.suffix == ".safetensors":
        try:
            content = safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path}: no safetensors file, or a damaged one: {error}") from error
    else:
        content = load_pickle(path)
    return plain_state(content, path)


def plain_state(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint, without the prefix `module.`.

    Raises:
        ValueError: none is there (what is there is named).
    """
    for holder in HOLDERS:
        if isinstance(content, Mapping) and isinstance(content.get(holder), Mapping):
            content = content[holder]
    is_mapping = isinstance(content, Mapping)
    found = sorted(map(str, content))[:5] if is_mapping else type(content).__name__
    sound = is_mapping and all(isinstance(v, Tensor) for v in content.values())
    require(sound and len(content) > 0, str(path), found, "tensors, under model or state_dict")
    wrapped = all(key.startswith("module.") for key in content)
    return {k.removeprefix("module.") if wrapped else k: v for k, v in content.items()}


def load_state_(model: Any, state: dict[str, Tensor], where: str, *, new_head: bool) -> None:
    """Load a state dict of timm's or the authors' naming into a dense model, strictly.

    Args:
        model: the dense model.
        state: its weights, as timm, DeiT, MAE (fine-tuned) or CAFormer name them.
        where: what they were read from, for messages.
        new_head: whether a classifier for other classes leaves the model's as it is.

    Raises:
        ValueError: other keys or shapes, or other classes without `new_head`.
    """
    converted = family_of(model).convert_weights(model, state, where)
    converted = _with_head(converted, model, where, new_head)
    check_tensors(converted, model.state_dict(), where)
    model.load_state_dict(converted)


def _with_head(
    state: dict[str, Tensor], model: Any, where: str, new_head: bool
) -> dict[str, Tensor]:
    """The state dict with the model's own classifier, if needed and configured."""
    heads = family_of(model).classifiers(model)
    first = f"{heads[0]}.weight"
    rows = state[first].shape[0] if first in state else 0
    if rows == model.num_classes:
        return state
    inside = tuple(f"{name}." for name in heads)
    own, body = model.state_dict(), {k: v for k, v in state.items() if not k.startswith(inside)}
    check_tensors(body, {k: v for k, v in own.items() if not k.startswith(inside)}, where)
    require(
        new_head,
        "dense.weights",
        f"{where}, for {rows} classes",
        f"weights for {model.num_classes} classes, those of the data "
        "(or dense.new_head true, for a classifier with random weights)",
    )
    return own | body


def _local(config: DenseConfig, cache: Path) -> Path:
    """The file of weights on this machine, downloaded if it is not there yet."""
    source = str(config.weights)
    if "://" not in source:
        path = Path(source)
        _checked(path, config.sha256)
        return path
    scheme = source.partition("://")[0]
    require(scheme in SCHEMES, "dense.weights", source, f"a URL of {' or '.join(SCHEMES)}")
    assert config.sha256 is not None, "DenseConfig wants one with a URL"
    folder = cache / "weights"
    path = folder / f"{config.sha256[:16]}-{source.rpartition('/')[2]}"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _download(source, path, config.sha256)
    _checked(path, config.sha256)
    return path


def _download(url: str, path: Path, sha256: str) -> None:
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
    except urllib.error.URLError as error:
        raise ValueError(f"dense.weights: {url} cannot be downloaded: {error.reason}") from error
    except RuntimeError as error:
        got = str(error).rpartition("got ")[2].strip('")')
        allowed = f"{got}, the SHA-256 of the file at {url}"
        raise ValueError(f"dense.sha256: got {sha256!r}, allowed: {allowed}") from error


def _checked(path: Path, sha256: str | None) -> str:
    """The hash of a file, which must be the expected one, if any."""
    require(path.is_file(), "dense.weights", str(path), "a file that exists")
    found = sha256_file(path)
    same = sha256 is None or found == sha256
    require(same, "dense.sha256", sha256, f"{found}, the SHA-256 of {path}")
    return found


def _tagged(name: ModelConfig) -> dict[str, Tensor]:
    """The weights of a tag, through timm: those of the model as timm has it, of any size."""
    overlay = {k: v for k, v in name.options.items() if k.startswith("pretrained_cfg")}
    plain: Any = timm.create_model(name.name, **overlay)
    known: Mapping[str, Any] = plain.pretrained_cfg
    has = any(known.get(key) for key in ("url", "file", "hf_hub_id", "state_dict"))
    tags = ", ".join(timm.list_pretrained(f"{known['architecture']}.*")) or "none of this model"
    require(has, "model.name", name.name, f"with dense.weights 'timm', one of {tags}")
    try:
        pretrained = timm.create_model(name.name, pretrained=True, **overlay)
    except Exception as error:
        # Half a dozen libraries may fail on the way to a file, each with exceptions of its own.
        why = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"dense.weights: the weights of {name.name} are not on this machine and cannot be "
            f"downloaded, or are damaged ({type(error).__name__}: {why}); a file of them will do"
        ) from error
    return dict(pretrained.state_dict())
