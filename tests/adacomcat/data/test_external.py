import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torchvision.transforms.v2 import functional as tv

from adacomcat.config import DataConfig
from adacomcat.data import build_splits, external, make_loader
from adacomcat.data.datasets import load_source
from adacomcat.data.images import DecodedImages, MemoryImages


def write_cifar10(root: Path) -> np.ndarray:
    """A small CIFAR-10 in its own layout; returns the training pixels, N x H x W x C."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    batches = []
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        entry = {"data": pixels, "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(entry))
        batches.append(pixels)
    meta = {"label_names": [f"class {i}" for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    return np.concatenate(batches[:5]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


@pytest.fixture
def cifar_root(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    return tmp_path


def test_pixels_that_a_data_set_holds_stay_in_memory(cifar_root: Path) -> None:
    expected = write_cifar10(cifar_root)
    source = load_source(DataConfig(name="timm/torch/cifar10", root=str(cifar_root)))
    assert isinstance(source.train.images, MemoryImages)
    got = source.train.images.pixels.permute(0, 2, 3, 1)
    np.testing.assert_array_equal(got, expected)
    assert source.test is not None and len(source.test.labels) == 20
    assert source.classes[3] == "class 3"
    assert source.train.labels[:12].tolist() == [*range(10), 0, 1]


def test_a_missing_data_set_is_downloaded_into_the_cache(cifar_root: Path, monkeypatch) -> None:
    monkeypatch.setenv("ADACOMCAT_CACHE", str(cifar_root))
    asked = []

    def download(dataset: torchvision.datasets.CIFAR10) -> None:
        asked.append(dataset.root)
        write_cifar10(cifar_root)

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    there = (cifar_root / "cifar-10-batches-py").exists
    check = torchvision.datasets.CIFAR10
    monkeypatch.setattr(check, "_check_integrity", lambda self: there())
    splits = build_splits(DataConfig(name="timm/torch/cifar10"))
    assert asked == [str(cifar_root)] and len(splits.test) == 20


class Items(torchvision.datasets.FakeData):
    """A data set that only gives items, as those of the Hugging Face hub."""

    def __init__(self, split: str) -> None:
        offset = 0 if split == "train" else 1000
        super().__init__(60, (3, 24, 24), num_classes=3, random_offset=offset)


@pytest.fixture
def items(monkeypatch) -> None:
    monkeypatch.setattr(external, "create_dataset", lambda name, root, split, **_: Items(split))


@pytest.mark.usefixtures("items")
def test_items_without_a_list_of_labels_are_read_once_and_split() -> None:
    # 24 pixels stay 24 with the whole picture kept: then nothing is resampled.
    whole = DataConfig(
        name="timm/hfds/things", crop_pct=1.0, image_size=24, mean=(0, 0, 0), std=(1, 1, 1)
    )
    splits, data = build_splits(whole), Items("train")
    assert isinstance(splits.val.images, DecodedImages)
    assert splits.num_classes == 3 and splits.leakage == ()
    for split in (splits.train, splits.search, splits.val):
        assert [data[i][1] for i in split.indices] == split.labels.tolist()
    val = splits.val
    ((pixels, _),) = make_loader(val, whole, batch_size=len(val), seed=0, train=False)
    for i, index in enumerate(val.indices):
        torch.testing.assert_close(pixels[i] * 255, tv.pil_to_tensor(data[index][0]).float())


def test_timm_folder_gives_the_images_of_imagefolder(image_folder) -> None:
    root = str(image_folder())
    one = build_splits(DataConfig(name="imagefolder", root=root, image_size=16))
    other = build_splits(DataConfig(name="timm/folder", root=root, image_size=16))
    assert one.hashes == other.hashes
    loaders = [
        make_loader(s.test, DataConfig(), batch_size=4, seed=0, train=False) for s in (one, other)
    ]
    for (x, y), (z, labels) in zip(*loaders, strict=True):
        assert torch.equal(x, z) and torch.equal(y, labels)


def test_timm_folder_without_split_folders_has_its_test_cut_off(image_folder) -> None:
    root = image_folder() / "train"
    source = load_source(DataConfig(name="timm/folder", root=str(root)))
    assert source.test is None  # timm gives the same images for both splits
    assert len(source.train.labels) == 16


def test_timm_folder_with_other_classes_in_val_is_refused(image_folder) -> None:
    root = image_folder()
    (root / "val" / "bee").rename(root / "val" / "wasp")
    with pytest.raises(ValueError, match=r"data.root: got \['bee', 'wasp'\].*the same classes"):
        load_source(DataConfig(name="timm/folder", root=str(root)))


def test_a_test_split_that_holds_training_images_is_refused(image_folder, cifar_root) -> None:
    root = image_folder()
    (root / "val").rename(root / "other")  # timm then reads the whole folder for "validation"
    with pytest.raises(ValueError, match=r"data: got .*'train/ant/0.png' in train and in test"):
        build_splits(DataConfig(name="timm/folder", root=str(root)))
    write_cifar10(cifar_root)
    config = DataConfig(
        name="timm/torch/cifar10", root=str(cifar_root), options={"test_split": "train"}
    )
    with pytest.raises(ValueError, match=r"data: got .*'image 0' in train and in test, as all"):
        build_splits(config)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision/CIFAR10", {}, r"data.name: got 'torchvision/CIFAR10', allowed: digits, fa"),
        ("timm/torch/cifar11", {}, r"data.root: got '/no/such'"),
        ("timm/wds/things", {}, r"data.name: got 'timm/wds/things', allowed: timm/folder"),
        ("timm/folder", {"splitt": 1}, r"data.options: got 'splitt'"),
        ("timm/folder", {}, r"data.root: got '/no/such'"),
    ],
)
def test_a_bad_setting_is_named(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_splits(DataConfig(name=name, root="/no/such", options=options))


def test_data_that_cannot_be_had_is_named(tmp_path: Path, monkeypatch) -> None:
    def offline(*_, **__):
        raise OSError("network unreachable")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", offline)
    with pytest.raises(
        ValueError,
        match=r"data.root: timm cannot open split 'train' of torch/cif.*network unreachable",
    ):
        build_splits(DataConfig(name="timm/torch/cifar10", root=str(tmp_path)))
    with pytest.raises(ValueError, match=r"Unknown torchvision dataset cifar11"):
        build_splits(DataConfig(name="timm/torch/cifar11", root=str(tmp_path)))
    with pytest.raises(ValueError, match=r"data.root: timm cannot open split 'train' of folder"):
        build_splits(DataConfig(name="timm/folder", root=str(tmp_path)))


@pytest.mark.usefixtures("items")
def test_a_data_set_without_classes_is_refused(monkeypatch) -> None:
    boxes = lambda self, index: (torchvision.datasets.FakeData.__getitem__(self, index)[0], {})  # noqa: E731
    monkeypatch.setattr(Items, "__getitem__", boxes)
    with pytest.raises(ValueError, match=r"data.name: item 0 of timm/hfds/things is not"):
        build_splits(DataConfig(name="timm/hfds/things"))
