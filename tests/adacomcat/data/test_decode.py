"""Images from files: what is drawn for them, and what cannot be decoded."""

import itertools
import logging
import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from timm.data.distributed_sampler import RepeatAugSampler

from adacomcat.config import DataConfig, RuntimeConfig
from adacomcat.data import Loader, Split, Splits, build_splits, decode, make_loader
from adacomcat.data.decode import LoaderProcessError
from adacomcat.testing.images import write_image_folder

DEIT = DataConfig(
    name="imagefolder",
    augment="resized_crop",
    auto_augment="rand-m9-mstd0.5-inc1",
    random_erasing=0.5,
    repeats=3,
    image_size=24,
)
SKIPPING = RuntimeConfig(skip_unreadable=True)
Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    return write_image_folder(root, classes=3, train=16, val=4, side=32)


@pytest.fixture(scope="module")
def splits(folder: Path) -> Splits:
    return build_splits(DEIT.replace(root=str(folder)))


def train_loader(splits: Splits, data: DataConfig = DEIT, **options: Any) -> Loader:
    settings: dict[str, Any] = {"batch_size": 12, "seed": 3, "train": True, "augment": True}
    return make_loader(splits.train, data, **(settings | options))


def epoch_of(loader: Loader, epoch: int = 0) -> Batches:
    loader.set_epoch(epoch)
    return list(loader)


def assert_equal(one: Batches, other: Batches) -> None:
    assert len(one) == len(other) > 0
    for (x, y), (z, labels) in zip(one, other, strict=True):
        assert torch.equal(x, z) and torch.equal(y, labels)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world", [2, 3])
def test_deits_augmentation_is_the_same_on_every_number_of_workers(
    splits: Splits, world: int, num_workers: int
) -> None:
    runtime = RuntimeConfig(num_workers=num_workers)
    alone = train_loader(splits)
    shared = [
        train_loader(splits, runtime=runtime, rank=rank, world=world) for rank in range(world)
    ]
    for epoch in (0, 4):
        whole = epoch_of(alone, epoch)
        shares = [epoch_of(loader, epoch) for loader in shared]
        for batch, (x, y) in enumerate(whole):
            for rank, share in enumerate(shares):
                assert torch.equal(x[rank::world], share[batch][0])
                assert torch.equal(y[rank::world], share[batch][1])


def test_every_image_and_epoch_is_augmented_anew(splits: Splits) -> None:
    loader = train_loader(splits)
    images = [image for epoch in range(2) for x, _ in epoch_of(loader, epoch) for image in x]
    assert len({image.numpy().tobytes() for image in images}) == len(images) == 72
    other = epoch_of(train_loader(splits, seed=4))
    assert not torch.equal(other[0][0], images[0])


def test_loading_leaves_every_global_generator_alone(splits: Splits) -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # type: ignore[index]
    first = epoch_of(train_loader(splits))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    assert_equal(first, epoch_of(train_loader(splits)))


def indices(split: Split, batches: Batches) -> list[int]:
    """Which images a loader gave, told by pixels, without any augmentation."""
    plain = make_loader(split, DataConfig(), batch_size=len(split), seed=0, train=False)
    ((images, _),) = plain
    known = {image.numpy().tobytes(): i for i, image in enumerate(images)}
    return [known[image.numpy().tobytes()] for x, _ in batches for image in x]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_repeats_are_those_of_deits_sampler(splits: Splits, world: int) -> None:
    """timm's copy of DeiT's RASampler, from the same permutation."""
    split, data = splits.train, DataConfig(repeats=3)
    given = [
        indices(split, list(train_loader(splits, data, rank=rank, world=world)))
        for rank in range(world)
    ]
    ours = list(itertools.chain.from_iterable(zip(*given, strict=True)))
    expected: list[list[int]] = []
    for rank in range(world):
        sampler = RepeatAugSampler(
            range(len(split)), num_replicas=world, rank=rank, num_repeats=3, selected_round=12
        )
        expected.append(list(sampler))
    theirs = list(itertools.chain.from_iterable(zip(*expected, strict=True)))

    def by_appearance(order: list[int]) -> list[int]:
        names = {image: i for i, image in reversed(list(enumerate(dict.fromkeys(order))))}
        return [names[image] for image in order]

    assert by_appearance(ours) == by_appearance(theirs)
    assert len(ours) == len(split) // 12 * 12
    if world == 4:  # the copies of an image go to different workers
        assert given[0][0] == given[1][0] == given[2][0] != given[3][0]


def test_other_splits_and_evaluation_are_not_augmented(splits: Splits) -> None:
    evaluated = make_loader(splits.test, DEIT, batch_size=12, seed=0, train=False)
    plain = make_loader(splits.test, DataConfig(), batch_size=12, seed=0, train=False)
    assert_equal(list(evaluated), list(plain))
    searched = make_loader(splits.search, DEIT, batch_size=2, seed=0, train=True)
    assert sorted(indices(splits.search, list(searched))) == list(range(len(splits.search)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"augment": "resized_crop"},
            r"data.augment: got 'resized_crop', allowed: none, affine or crop_flip for digits",
        ),
        ({"auto_augment": "rand-m9"}, r"data.auto_augment: got 'rand-m9', allowed: None for digit"),
    ],
)
def test_what_images_in_memory_cannot_have_is_refused(changes: dict, message: str) -> None:
    data = DataConfig(**changes)
    split = build_splits(DataConfig()).train
    with pytest.raises(ValueError, match=message):
        make_loader(split, data, batch_size=8, seed=0, train=True, augment=True)


def test_images_in_memory_are_repeated_and_erased_alike_on_two_workers() -> None:
    data = DataConfig(augment="crop_flip", random_erasing=0.5, repeats=2, image_size=16)
    split = build_splits(data).train
    options: dict[str, Any] = {"batch_size": 64, "seed": 1, "train": True, "augment": True}
    whole = epoch_of(make_loader(split, data, **options))
    for rank in range(2):
        share = epoch_of(make_loader(split, data, **options, rank=rank, world=2))
        assert_equal([(x[rank::2], y[rank::2]) for x, y in whole], share)
    plain = epoch_of(make_loader(split, data.replace(random_erasing=0), **options))
    changed = torch.cat(
        [(x != z).flatten(1).any(1) for (x, _), (z, _) in zip(whole, plain, strict=True)]
    )
    assert 0.4 < float(changed.double().mean()) < 0.6
    labels = torch.cat([y for _, y in whole])
    assert torch.equal(labels[::2], labels[1::2])


def spoil(folder: Path, target: Path, names: list[str], how=lambda data: data[:-2]) -> Path:
    """A copy of a folder in which some images are damaged."""
    for path in folder.rglob("*.jpg"):
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        copy.write_bytes(how(data) if str(path.relative_to(folder)) in names else data)
    return target


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda data: data[:-2], "[Tt]runcated"),  # all pixels are there, the end is not
        (lambda data: data[: len(data) // 2], "[Tt]runcated"),
        (lambda data: b"<html>" + data, "cannot identify image file"),
    ],
)
def test_a_damaged_jpeg_is_an_error_that_names_it(
    folder: Path, tmp_path: Path, how, reason: str, num_workers: int, monkeypatch
) -> None:
    # As another library may have left it: Hugging Face's data sets do.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    root = spoil(folder, tmp_path, ["val/class_001/0002.jpg"], how)
    split = build_splits(DEIT.replace(root=str(root))).test
    runtime = RuntimeConfig(num_workers=num_workers)
    loader = make_loader(split, DEIT, batch_size=4, seed=0, train=False, runtime=runtime)
    message = (
        r"^data.root: cannot decode the image 'val/class_001/0002.jpg': "
        rf".*{reason}.*; runtime.skip_unreadable: true leaves such images out$"
    )
    with pytest.raises(ValueError, match=message):
        list(loader)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


SPOILED = ["val/class_001/0002.jpg", "val/class_000/0000.jpg"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_evaluation_leaves_out_what_is_asked_for_and_counts_it(
    folder: Path, tmp_path: Path, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    split = build_splits(DEIT.replace(root=str(spoil(folder, tmp_path, SPOILED)))).test
    good = build_splits(DEIT.replace(root=str(folder))).test
    ((images, labels),) = make_loader(good, DEIT, batch_size=12, seed=0, train=False)
    runtime = RuntimeConfig(skip_unreadable=True, num_workers=num_workers)
    loader = make_loader(split, DEIT, batch_size=4, seed=0, train=False, runtime=runtime)
    kept = [i for i in range(12) if i not in (0, 6)]
    with caplog.at_level(logging.WARNING, logger="adacomcat"):
        for _ in range(2):
            batches = list(loader)
            assert [len(y) for _, y in batches] == [3, 3, 4]
            assert torch.equal(torch.cat([x for x, _ in batches]), images[kept])
            assert torch.equal(torch.cat([y for _, y in batches]), labels[kept])
            assert loader.unreadable == 2
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2  # once each
    for name, text in zip(sorted(SPOILED), sorted(told), strict=True):
        assert re.match(rf"left out of the test split: .*'{name}'", text)


def test_a_batch_that_loses_all_images_is_not_given_in_an_evaluation(
    folder: Path, tmp_path: Path
) -> None:
    lost = [f"val/class_001/{i:04d}.jpg" for i in range(4)]
    split = build_splits(DEIT.replace(root=str(spoil(folder, tmp_path, lost)))).test
    options: dict[str, Any] = {"batch_size": 4, "seed": 0, "train": False, "runtime": SKIPPING}
    loader = make_loader(split, DEIT, **options)
    assert [y.tolist() for _, y in loader] == [[0] * 4, [2] * 4]
    # Each of four workers loses the second of its three batches of one image.
    shares = [list(make_loader(split, DEIT, **options, rank=rank, world=4)) for rank in range(4)]
    assert [[len(y) for _, y in share] for share in shares] == [[1, 1]] * 4


@pytest.mark.parametrize("num_workers", [0, 2])
def test_in_training_the_next_image_takes_the_place(
    folder: Path, tmp_path: Path, num_workers: int
) -> None:
    """So that no worker lacks a batch, or has a smaller one, when others do not."""
    lost = [f"train/class_001/{i:04d}.jpg" for i in range(16)]  # a whole class
    lost.append("train/class_000/0003.jpg")
    broken = build_splits(DEIT.replace(root=str(spoil(folder, tmp_path, lost))))
    data = DEIT.replace(
        augment="none",
        auto_augment=None,
        repeats=1,
        random_erasing=0.0,
    )
    runtime = RuntimeConfig(skip_unreadable=True, num_workers=num_workers)
    names = [broken.train.images.name(i) for i in range(len(broken.train))]
    readable = np.array([name not in lost for name in names])
    count = len(names)
    stands_for = [
        next(j % count for j in range(i, i + count) if readable[j % count]) for i in range(count)
    ]
    whole = build_splits(DEIT.replace(root=str(folder)))
    assert whole.train.indices.tolist() == broken.train.indices.tolist()
    expected = indices(whole.train, epoch_of(train_loader(whole, data), 1))
    alone = train_loader(broken, data, runtime=runtime)
    got = indices(whole.train, batches := epoch_of(alone, 1))
    assert got == [stands_for[i] for i in expected]
    assert torch.cat([y for _, y in batches]).tolist() == whole.train.labels[got].tolist()
    assert [len(y) for _, y in batches] == [12] * len(alone)
    shares = [train_loader(broken, data, runtime=runtime, rank=rank, world=2) for rank in range(2)]
    for rank, share in enumerate(shares):
        assert_equal([(x[rank::2], y[rank::2]) for x, y in batches], epoch_of(share, 1))
    met = {i for i in expected if not readable[i]}
    assert 0 < len(met) <= alone.unreadable <= int((~readable).sum())


def test_a_split_without_any_image_that_can_be_decoded_is_an_error(
    folder: Path, tmp_path: Path
) -> None:
    every = [str(path.relative_to(folder)) for path in (folder / "train").rglob("*.jpg")]
    splits = build_splits(DEIT.replace(root=str(spoil(folder, tmp_path, every))))
    loader = train_loader(splits, runtime=SKIPPING)
    message = rf"cannot decode the image 'train/.*; nor can any other of the {len(splits.train)} im"
    with pytest.raises(ValueError, match=message):
        list(loader)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_is_gone_is_an_error_even_when_damaged_ones_are_skipped(
    folder: Path, tmp_path: Path, num_workers: int
) -> None:
    """A disk that fails must not look like a data set of damaged images."""
    root = spoil(folder, tmp_path, [])
    split = build_splits(DEIT.replace(root=str(root))).test
    (root / "val" / "class_001" / "0002.jpg").unlink()
    runtime = RuntimeConfig(skip_unreadable=True, num_workers=num_workers)
    loader = make_loader(split, DEIT, batch_size=4, seed=0, train=False, runtime=runtime)
    message = r"^data.root: cannot read the image 'val/class_001/0002.jpg': .*No such file"
    with pytest.raises(ValueError, match=message):
        list(loader)


def test_names_that_are_not_ascii_are_found(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path, classes=2, train=4, val=1, side=8)
    for part in ("train", "val"):
        (root / part / "class_001").rename(root / part / "vögel ü,1")
    Image.new("RGB", (9, 9)).save(root / "val" / "vögel ü,1" / "größer.png")
    split = build_splits(DataConfig(name="imagefolder", root=str(root), image_size=8)).test
    names = [split.images.name(i) for i in range(3)]
    assert names[1:] == ["val/vögel ü,1/0000.jpg", "val/vögel ü,1/größer.png"]
    ((x, _),) = make_loader(split, DataConfig(), batch_size=3, seed=0, train=False)
    assert len(x) == 3


@pytest.mark.parametrize("how", ["killed", "no shared memory"])
def test_a_loader_process_that_dies_is_one_line_that_helps(
    splits: Splits, how: str, monkeypatch
) -> None:
    """What a container with 64 MB of /dev/shm gives, and a machine that runs out of memory."""

    def fail(pixels: list[torch.Tensor]) -> torch.Tensor:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)")

    monkeypatch.setattr(decode, "default_collate", fail)
    loader = train_loader(splits, runtime=RuntimeConfig(num_workers=1))
    with pytest.raises(LoaderProcessError) as caught:
        list(loader)
    text = str(caught.value)
    reason = "(Killed|exited unexpectedly)" if how == "killed" else "No space left on device"
    assert "\n" not in text and re.search(rf"^a loader process failed \(.*{reason}", text)
    assert "/dev/shm, which has" in text and "--workers 0" in text
    if how != "killed":  # in this process the error is its own
        with pytest.raises(RuntimeError, match="^unable to write to file"):
            list(train_loader(splits))
