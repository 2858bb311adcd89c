from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adacomcat.config import DataConfig, RuntimeConfig
from adacomcat.data import Loader, Split, Splits, build_splits, cycle, make_loader
from adacomcat.data.images import MemoryImages

PLAIN, AFFINE = DataConfig(), DataConfig(augment="affine")
Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="module")
def digits() -> Splits:
    return build_splits(DataConfig())


def epoch_of(loader: Loader, epoch: int) -> Batches:
    loader.set_epoch(epoch)
    return list(loader)


def pixels_of(split: Split) -> torch.Tensor:
    assert isinstance(split.images, MemoryImages)
    return split.images.pixels


def interleaved(shares: list[Batches]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Global batches from the workers' shares: place i of a batch is worker i mod W's."""
    world = len(shares)
    for parts in zip(*shares, strict=True):
        size = sum(len(y) for _, y in parts)
        x = torch.empty(size, *parts[0][0].shape[1:])
        y = torch.empty(size, dtype=torch.int64)
        for rank, (images, labels) in enumerate(parts):
            x[rank::world], y[rank::world] = images, labels
        yield x, y


def assert_equal(one: Batches, other: Batches) -> None:
    assert len(one) == len(other)
    for (x, y), (z, labels) in zip(one, other, strict=True):
        assert torch.equal(x, z) and torch.equal(y, labels)


@pytest.mark.parametrize("augment", ["none", "affine", "crop_flip"])
@pytest.mark.parametrize("world", [2, 4])
def test_several_workers_see_the_batches_of_one(digits: Splits, augment, world: int) -> None:
    data = DataConfig(augment=augment)
    options: dict[str, Any] = {"batch_size": 64, "seed": 3, "train": True, "augment": True}
    alone = make_loader(digits.train, data, **options)
    shared = [make_loader(digits.train, data, **options, rank=r, world=world) for r in range(world)]
    for epoch in (0, 5):
        shares = [epoch_of(loader, epoch) for loader in shared]
        assert {len(y) for share in shares for _, y in share} == {64 // world}
        assert_equal(epoch_of(alone, epoch), list(interleaved(shares)))


def test_resized_and_decoded_images_are_shared_alike(image_folder) -> None:
    folder = build_splits(DataConfig(name="imagefolder", root=str(image_folder()), image_size=16))
    resized = build_splits(DataConfig(image_size=20))
    for split in (folder.train, resized.search):
        options: dict[str, Any] = {"batch_size": 4, "seed": 1, "train": True, "augment": True}
        shared = [make_loader(split, AFFINE, **options, rank=r, world=2) for r in range(2)]
        alone = make_loader(split, AFFINE, **options)
        assert_equal(list(alone), list(interleaved([list(loader) for loader in shared])))


def test_a_training_epoch_is_a_permutation_without_the_rest(digits: Splits) -> None:
    loader = make_loader(digits.train, PLAIN, batch_size=64, seed=0, train=True)
    assert (len(loader), loader.images, len(digits.train)) == (15, 960, 1010)
    mean, std = digits.mean[0], digits.std[0]
    rows = [x * std + mean for x, _ in loader]
    seen = torch.cat(rows).flatten(1).mul(255).round().to(torch.uint8)
    known = {bytes(row.tolist()): i for i, row in enumerate(pixels_of(digits.train).flatten(1))}
    places = [known[bytes(row.tolist())] for row in seen]
    assert len(set(places)) == 960
    labels = torch.cat([y for _, y in loader])
    assert torch.equal(labels, digits.train.labels[places])
    assert labels.dtype == torch.int64 and rows[0].dtype == torch.float32


def test_order_and_augmentation_follow_from_seed_and_epoch(digits: Splits) -> None:
    def loader(seed: int) -> Loader:
        options: dict[str, Any] = {"batch_size": 64, "train": True, "augment": True}
        return make_loader(digits.train, AFFINE, seed=seed, **options)

    straight, resumed = loader(0), loader(0)
    epochs = [epoch_of(straight, epoch) for epoch in range(3)]
    torch.manual_seed(99)  # no global random number takes part
    np.random.seed(99)
    assert_equal(epochs[2], epoch_of(resumed, 2))
    for other in (epochs[1], epoch_of(loader(1), 2)):
        assert not torch.equal(epochs[2][0][1], other[0][1])
    # The augmentation is of the place, not of the image: it is not the same in every epoch.
    plain = make_loader(digits.train, PLAIN, batch_size=64, seed=0, train=True)
    assert not torch.equal(epochs[2][0][0], epoch_of(plain, 2)[0][0])


def test_loading_leaves_the_global_random_state_alone(digits: Splits, image_folder) -> None:
    folder = build_splits(DataConfig(name="imagefolder", root=str(image_folder()), image_size=8))
    for split in (digits.search, folder.train):
        data = DataConfig(augment="crop_flip")
        loader = make_loader(split, data, batch_size=4, seed=0, train=True, augment=True)
        torch.manual_seed(7)
        before = torch.get_rng_state()
        list(loader)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 64, 149, 1000])
def test_evaluation_gives_every_image_exactly_once(
    digits: Splits, world: int, batch_size: int
) -> None:
    split = digits.test  # 450 images: 149 leaves a batch of 3, 64 one of 2
    loaders = [
        make_loader(split, PLAIN, batch_size=batch_size, seed=0, train=False, rank=r, world=world)
        for r in range(world)
    ]
    got = [list(loader) for loader in loaders]
    assert [len(batches) for batches in got] == [len(loader) for loader in loaders]
    assert all(len(y) > 0 for batches in got for _, y in batches)
    assert {loader.images for loader in loaders} == {450}
    expected = pixels_of(split).flatten(1)
    rows = torch.cat([x for batches in got for x, _ in batches]) * digits.std[0] + digits.mean[0]
    seen = sorted(bytes(row.tolist()) for row in rows.flatten(1).mul(255).round().to(torch.uint8))
    assert seen == sorted(bytes(row.tolist()) for row in expected)
    labels = torch.cat([y for batches in got for _, y in batches])
    assert torch.equal(labels.bincount(), split.labels.bincount())
    if world == 1:
        assert torch.equal(labels, split.labels)  # in order


def test_folders_evaluate_every_image_once_with_two_workers(image_folder) -> None:
    split = build_splits(
        DataConfig(name="imagefolder", root=str(image_folder(val=4)), image_size=8)
    ).test
    whole = torch.cat([x for x, _ in make_loader(split, PLAIN, batch_size=8, seed=0, train=False)])
    for batch_size in (3, 8):
        loaders = [
            make_loader(split, PLAIN, batch_size=batch_size, seed=0, train=False, rank=r, world=2)
            for r in range(2)
        ]
        rows = torch.cat([x for loader in loaders for x, _ in loader])
        distances = torch.cdist(whole.flatten(1), rows.flatten(1))
        assert sorted(distances.argmin(1).tolist()) == list(range(8))
        assert float(distances.min(1).values.max()) < 1e-3


def test_folder_images_are_what_pillow_decodes(image_folder) -> None:
    root = image_folder()
    Image.new("L", (50, 30), 77).save(root / "val" / "ant" / "gray.jpg")
    split = build_splits(DataConfig(name="imagefolder", root=str(root), image_size=28)).test
    ((x, y),) = make_loader(split, PLAIN, batch_size=100, seed=0, train=False)
    files = sorted((root / "val").rglob("*.*"))
    assert len(files) == len(x) == 7
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for i, path in enumerate(files):
        image = Image.open(path).convert("RGB")
        shorter = min(image.size)
        size = tuple(int(32 * side / shorter) for side in image.size)
        pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC))  # type: ignore[arg-type]
        top, left = (round((side - 28) / 2) for side in pixels.shape[:2])
        center = pixels[top : top + 28, left : left + 28] / 255
        np.testing.assert_allclose(x[i].permute(1, 2, 0), (center - mean) / std, atol=1e-5)
        assert y[i] == int(path.parent.name == "bee")


def test_loader_processes_change_nothing(image_folder) -> None:
    split = build_splits(
        DataConfig(name="imagefolder", root=str(image_folder()), image_size=8)
    ).train
    options: dict[str, Any] = {"batch_size": 4, "seed": 0, "train": True, "augment": True}
    here = make_loader(split, AFFINE, **options)
    processes = make_loader(split, AFFINE, **options, runtime=RuntimeConfig(num_workers=2))
    for epoch in (0, 1):
        assert_equal(epoch_of(here, epoch), epoch_of(processes, epoch))
    assert_equal(list(cycle(here, 3, 4)), list(cycle(processes, 3, 4)))  # left mid-epoch
    assert_equal(epoch_of(here, 2), epoch_of(processes, 2))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image_is_named(image_folder, num_workers: int) -> None:
    root: Path = image_folder()
    bad = root / "val" / "bee" / "1.png"
    bad.write_bytes(bad.read_bytes()[:200])
    split = build_splits(DataConfig(name="imagefolder", root=str(root), image_size=8)).test
    runtime = RuntimeConfig(num_workers=num_workers)
    options: dict[str, Any] = {"batch_size": 6, "seed": 0, "train": False, "runtime": runtime}
    loader = make_loader(split, DataConfig(), **options)
    with pytest.raises(ValueError, match=r"data.root: cannot decode the image 'val/bee/1.png'"):
        list(loader)


def test_cycle_goes_round_with_a_new_order_each_time(digits: Splits) -> None:
    loader = make_loader(digits.search, PLAIN, batch_size=64, seed=0, train=True)
    assert len(loader) == 3
    got = list(cycle(loader, 7, first_epoch=10))
    expected = epoch_of(loader, 10) + epoch_of(loader, 11) + epoch_of(loader, 12)[:1]
    assert_equal(got, expected)
    assert list(cycle(loader, 0)) == []


def test_batches_are_normalized(digits: Splits) -> None:
    loader = make_loader(digits.train, PLAIN, batch_size=len(digits.train), seed=0, train=True)
    ((x, _),) = loader
    assert float(x.mean()) == pytest.approx(0, abs=1e-4)
    assert float(x.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_images_are_resized_to_the_size_asked_for() -> None:
    split: Split = build_splits(DataConfig(image_size=12)).val
    x, _ = next(iter(make_loader(split, PLAIN, batch_size=5, seed=0, train=False)))
    native = pixels_of(split)[:5].float() / 255
    expected = torch.nn.functional.interpolate(native, (12, 12), mode="bilinear")
    torch.testing.assert_close(x * split.spec.std[0] + split.spec.mean[0], expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 137}, r"batch_size: got 137, allowed: at most 136, .*val split"),
        ({"batch_size": 0}, r"batch_size: got 0"),
        ({"batch_size": 9, "world": 2}, r"batch_size: got 9, allowed: a multiple of 2"),
        ({"rank": 2, "world": 2}, r"rank: got 2, allowed: 0 to 1"),
        ({"seed": -1}, r"seed: got -1"),
    ],
)
def test_a_bad_setting_is_named(digits: Splits, changes: dict, message: str) -> None:
    options: dict[str, Any] = {"batch_size": 8, "seed": 0, "train": True, **changes}
    with pytest.raises(ValueError, match=message):
        make_loader(digits.val, PLAIN, **options)


def test_cycling_a_loader_without_batches_is_refused(digits: Splits) -> None:
    loader = make_loader(digits.val, PLAIN, batch_size=1, seed=0, train=False, rank=1, world=2)
    with pytest.raises(ValueError, match="loader: got '136 images'"):
        next(cycle(loader, 1))
