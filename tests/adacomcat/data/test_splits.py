import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import adacomcat
from adacomcat.config import DataConfig
from adacomcat.data import Split, Splits, build_splits
from adacomcat.data.images import MemoryImages

NAMES = ("train", "search", "val", "test")


def parts(splits: Splits) -> list[Split]:
    return [getattr(splits, name) for name in NAMES]


def test_digits_are_cut_into_four_disjoint_splits_that_cover_it() -> None:
    splits = build_splits(DataConfig())
    sets = [set(split.indices.tolist()) for split in parts(splits)]
    for one, other in combinations(sets, 2):
        assert not one & other
    assert set.union(*sets) == set(range(1797))
    identities = [{row.tobytes() for row in split.images.digests()} for split in parts(splits)]
    for one, other in combinations(identities, 2):
        assert not one & other  # no picture twice under two indices either


def test_images_and_labels_are_those_of_scikit_learn() -> None:
    bunch = load_digits()
    for split in parts(build_splits(DataConfig())):
        assert isinstance(split.images, MemoryImages)
        gray = split.images.pixels[:, 0].numpy() * (16 / 255)
        np.testing.assert_allclose(gray, bunch.images[split.indices], atol=0.05)
        np.testing.assert_array_equal(split.labels, bunch.target[split.indices])


def test_every_class_has_its_share_of_every_split() -> None:
    config = DataConfig(search_fraction=0.2, val_fraction=0.1, test_fraction=0.3)
    splits = build_splits(config)
    total = np.bincount(load_digits().target)
    counts = {n: np.bincount(s.labels) for n, s in zip(NAMES, parts(splits), strict=True)}
    np.testing.assert_allclose(counts["test"], total * 0.3, atol=0.5)
    rest = total - counts["test"]
    np.testing.assert_allclose(counts["search"], rest * 0.2, atol=0.5)
    np.testing.assert_allclose(counts["val"], rest * 0.1, atol=0.5)
    np.testing.assert_array_equal(counts["train"], rest - counts["search"] - counts["val"])


def test_mean_and_std_are_those_of_the_train_images_alone() -> None:
    splits = build_splits(DataConfig(name="synthetic", options={"images": 200, "in_chans": 2}))
    assert isinstance(splits.train.images, MemoryImages)
    pixels = splits.train.images.pixels.double() / 255
    assert splits.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert splits.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())
    assert (splits.in_chans, splits.image_size, splits.num_classes) == (2, 16, 10)


def test_hashes_follow_from_the_split_seed() -> None:
    config = DataConfig()
    first, again = build_splits(config).hashes, build_splits(config).hashes
    other = build_splits(config.replace(split_seed=1)).hashes
    assert first == again
    assert list(first) == list(NAMES)
    assert len({*first.values(), *other.values()}) == 8


def test_hashes_follow_from_pixels_and_labels() -> None:
    options = {"images": 100, "num_classes": 5}
    config = DataConfig(name="synthetic", options=options)
    noisier = config.replace(options={**options, "noise": 0.21})
    first, other = build_splits(config), build_splits(noisier)
    np.testing.assert_array_equal(first.train.indices, other.train.indices)
    assert set(first.hashes.values()).isdisjoint(other.hashes.values())


def test_hashes_are_equal_in_another_process() -> None:
    code = (
        "from adacomcat.config import DataConfig; from adacomcat.data import build_splits;"
        "print(build_splits(DataConfig(name='synthetic')).hashes)"
    )
    root = str(Path(adacomcat.__path__[0]).parent)
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": root}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == str(build_splits(DataConfig(name="synthetic")).hashes)


def test_folder_hashes_do_not_depend_on_where_the_folder_is(image_folder, tmp_path: Path) -> None:
    root = image_folder()
    config = DataConfig(name="imagefolder", root=str(root))
    before = build_splits(config).hashes
    moved = root.rename(tmp_path / "elsewhere")
    config = config.replace(root=str(moved))
    assert build_splits(config).hashes == before
    last = moved / "val" / "bee" / "2.png"
    last.write_bytes(last.read_bytes() + b"\0")
    after = build_splits(config).hashes
    assert after["test"] != before["test"]
    assert {**after, "test": None} == {**before, "test": None}


def test_max_images_keeps_the_classes_shares() -> None:
    splits = build_splits(DataConfig(max_images=301))
    assert sum(len(split) for split in parts(splits)) == 301
    kept = np.concatenate([split.labels for split in parts(splits)])
    expected = np.bincount(load_digits().target) * (301 / 1797)
    assert np.abs(np.bincount(kept) - expected).max() < 1
    sets = [set(split.indices.tolist()) for split in parts(splits)]
    assert len(set.union(*sets)) == 301


def test_max_images_holds_for_each_source_split(image_folder) -> None:
    config = DataConfig(name="imagefolder", root=str(image_folder()), max_images=10)
    train, search, val, test = parts(build_splits(config))
    assert len(train) + len(search) + len(val) == 10
    assert len(test) == 6


def test_too_few_images_of_a_class_are_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"2 images of class '0'.*max_images=30.*train, search"):
        build_splits(DataConfig(max_images=30, test_fraction=0.1, search_fraction=0.6))


@pytest.mark.parametrize(("field", "value"), [("image_size", 0), ("split_seed", -1)])
def test_impossible_settings_name_their_field(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"data.{field}: got {value}"):
        DataConfig(**{field: value})


def test_a_larger_image_size_is_what_the_model_is_told() -> None:
    splits = build_splits(DataConfig(image_size=32))
    assert splits.image_size == 32
    assert splits.train.labels.dtype == torch.int64


@pytest.mark.parametrize("wanted", [1, 99, 400])
def test_search_images_are_exact_and_stratified(wanted: int) -> None:
    splits = build_splits(DataConfig(search_images=wanted))
    assert len(splits.search) == wanted
    rest = splits.train, splits.search, splits.val
    counts = sum(np.bincount(split.labels, minlength=10) for split in rest)
    share = np.bincount(splits.search.labels, minlength=10)
    assert np.abs(share - counts * (wanted / counts.sum())).max() < 1
    sets = [set(split.indices.tolist()) for split in parts(splits)]
    assert sum(len(one) for one in sets) == len(set.union(*sets)) == 1797
    plain = build_splits(DataConfig())
    assert splits.hashes["test"] == plain.hashes["test"]
    assert len(splits.val) == len(plain.val)


def test_more_search_images_than_train_can_spare_are_refused() -> None:
    plain = build_splits(DataConfig())
    left = len(plain.train) + len(plain.search)
    most = left - 10
    assert len(build_splits(DataConfig(search_images=most)).search) == most
    message = (
        rf"data.search_images: got {most + 1}, allowed: at most {most}: of the "
        rf"{left + len(plain.val)} images to train on, val takes {len(plain.val)}, and train keeps "
        r"at least one of each of the 10 classes"
    )
    with pytest.raises(ValueError, match=message):
        build_splits(DataConfig(search_images=most + 1))


@pytest.mark.parametrize("own_test", [False, True])
@pytest.mark.parametrize("leaks", [("search",), ("val",), ("search", "val")])
@pytest.mark.parametrize("keeps", [False, True])
def test_what_comes_from_test_is_the_test_images(
    image_folder, leaks: tuple[str, ...], own_test: bool, keeps: bool
) -> None:
    config = DataConfig()
    if own_test:
        config = DataConfig(name="imagefolder", root=str(image_folder(per_class=20)))
    plain = build_splits(config)
    changes: dict[str, Any] = {f"{name}_from": "test" for name in leaks}
    if keeps:
        changes |= {f"{name}_fraction": 0.0 for name in leaks}
    leaking = build_splits(config.replace(**changes))
    assert leaking.hashes["test"] == plain.hashes["test"]
    for name in leaks:
        assert leaking.hashes[name] == plain.hashes["test"]
        assert getattr(leaking, name).name == name
    if not keeps:
        # One thing at a time: what trains stays as it was.
        assert leaking.hashes["train"] == plain.hashes["train"]
        return
    trained = [getattr(leaking, name) for name in ("search", "val") if name not in leaks]
    kept = np.concatenate([split.indices for split in (leaking.train, *trained)])
    before = np.concatenate([s.indices for s in (plain.train, plain.search, plain.val)])
    assert sorted(kept) == sorted(before)
    assert len(leaking.train) > len(plain.train)


@pytest.mark.parametrize("name", ["search", "val"])
def test_a_slice_that_is_used_cannot_be_empty(name: str) -> None:
    changes: dict[str, Any] = {f"{name}_fraction": 0.0}
    with pytest.raises(ValueError, match=f"data.{name}_fraction: got 0.0"):
        DataConfig(**changes)


def test_a_given_mean_and_std_are_what_the_model_is_told(image_folder) -> None:
    gray = build_splits(DataConfig(mean=(0.5,)))
    assert gray.mean == (0.5,) and gray.std == build_splits(DataConfig()).std
    config = DataConfig(
        name="imagefolder", root=str(image_folder()), mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3)
    )
    color = build_splits(config)
    assert (color.mean, color.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))


@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_mean_for_other_channels_is_named(name: str) -> None:
    config = DataConfig.from_json({name: [0.5, 0.5, 0.5]}, "data")
    message = rf"data.{name}: got \(0.5, 0.5, 0.5\), allowed: 1 numbers, one a channel"
    with pytest.raises(ValueError, match=message):
        build_splits(config)
