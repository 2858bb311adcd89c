import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from adacomcat.config import DataConfig
from adacomcat.data import build_splits, make_loader
from adacomcat.data.datasets import load_source
from adacomcat.data.images import DecodedImages, MemoryImages

FAKE = {"size": 60, "image_size": (3, 24, 24), "num_classes": 3}


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


def test_pixels_that_torchvision_holds_stay_in_memory(cifar_root: Path) -> None:
    expected = write_cifar10(cifar_root)
    source = load_source(DataConfig(name="torchvision/CIFAR10", root=str(cifar_root)))
    assert isinstance(source.train.images, MemoryImages)
    got = source.train.images.pixels.permute(0, 2, 3, 1)
    np.testing.assert_array_equal(got, expected)
    assert source.test is not None and len(source.test.labels) == 20
    assert source.classes[3] == "class 3"
    assert source.train.labels[:12].tolist() == [*range(10), 0, 1]


def test_timms_torch_data_sets_are_the_same(cifar_root: Path) -> None:
    write_cifar10(cifar_root)
    one = build_splits(DataConfig(name="torchvision/CIFAR10", root=str(cifar_root)))
    other = build_splits(DataConfig(name="timm/torch/cifar10", root=str(cifar_root)))
    assert one.hashes == other.hashes


def test_items_without_a_list_of_labels_are_read_once_and_split() -> None:
    config = DataConfig(name="torchvision/FakeData", options=FAKE, image_size=24)
    splits = build_splits(config)
    data = torchvision.datasets.FakeData(**FAKE)
    assert isinstance(splits.val.images, DecodedImages)
    assert splits.num_classes == 3
    for split in (splits.train, splits.search, splits.val, splits.test):
        assert [data[i][1] for i in split.indices] == split.labels.tolist()
    # 24 pixels stay 24 with the whole picture kept: then nothing is resampled.
    whole = DataConfig(
        name="torchvision/FakeData",
        options={**FAKE, "crop_pct": 1.0},
        image_size=24,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    val = build_splits(whole).val
    ((pixels, _),) = make_loader(val, whole, batch_size=len(val), seed=0, train=False)
    for i, index in enumerate(val.indices):
        torch.testing.assert_close(pixels[i] * 255, tv.pil_to_tensor(data[index][0]).float())


def test_flowers_takes_its_test_split_by_name(tmp_path: Path, monkeypatch) -> None:
    """A class with `split=` and a private list of files."""

    class Flowers102(torchvision.datasets.VisionDataset):
        def __init__(self, root: str, split: str = "train", transform=None) -> None:
            super().__init__(root)
            self._image_files = sorted((Path(root) / "images" / split).rglob("*.png"))
            if not self._image_files:
                raise ValueError(f"Unknown value {split!r} for argument split.")
            self._labels = [int(path.parent.name == "bee") for path in self._image_files]

    monkeypatch.setattr(torchvision.datasets, "Flowers102", Flowers102)
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in ("ant", "bee"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    config = DataConfig(name="torchvision/Flowers102", root=str(tmp_path), image_size=8)
    source = load_source(config)
    assert source.test is not None
    names = [name.decode() for name in source.test.images.identities()]
    assert [name.split(",")[0] for name in names] == [
        f"images/val/{c}/{i}.png" for c in ("ant", "bee") for i in range(2)
    ]
    with pytest.raises(ValueError, match="data.options.test_split: Flowers102 .*'nothing'"):
        load_source(
            DataConfig(
                name="torchvision/Flowers102",
                root=str(tmp_path),
                options={"test_split": "nothing"},
            )
        )


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
    with pytest.raises(ValueError, match=r"data: got .*'train/ant/0.png.* in train and in test"):
        build_splits(DataConfig(name="timm/folder", root=str(root)))
    write_cifar10(cifar_root)
    config = DataConfig(
        name="timm/torch/cifar10", root=str(cifar_root), options={"test_split": "train"}
    )
    with pytest.raises(ValueError, match=r"data: got .*all images.* in train and in test"):
        build_splits(config)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision/CIFAR11", {}, r"data.name.*'CIFAR11' \(did you mean 'CIFAR10'"),
        ("torchvision/FakeData", {"sise": 3}, r"data.options: got 'sise' \(did you mean 'size'"),
        ("torchvision/Imagenette", {}, r"data.root: got '/no/such'"),
        ("timm/wds/things", {}, r"data.name: got 'timm/wds/things', allowed: timm/folder"),
        ("timm/folder", {"splitt": 1}, r"data.options: got 'splitt'"),
        ("timm/folder", {}, r"data.root: got '/no/such'"),
    ],
)
def test_a_bad_setting_is_named(name: str, options: dict, message: str) -> None:
    root = None if name == "torchvision/FakeData" else "/no/such"
    with pytest.raises(ValueError, match=message):
        build_splits(DataConfig(name=name, root=root, options=options))


def test_data_that_cannot_be_had_is_named(tmp_path: Path, monkeypatch) -> None:
    def offline(*_, **__):
        raise OSError("network unreachable")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", offline)
    with pytest.raises(ValueError, match=r"data.root: no CIFAR10 in .*network unreachable"):
        build_splits(DataConfig(name="torchvision/CIFAR10", root=str(tmp_path)))
    with pytest.raises(ValueError, match=r"data.root: timm cannot open split 'train' of folder"):
        build_splits(DataConfig(name="timm/folder", root=str(tmp_path)))


def test_a_data_set_that_needs_more_than_a_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.options: Flickr8k: .*'ann_file'"):
        build_splits(DataConfig(name="torchvision/Flickr8k", root=str(tmp_path)))


def test_a_data_set_without_classes_is_refused(tmp_path: Path, monkeypatch) -> None:
    class Boxes(torchvision.datasets.FakeData):
        def __getitem__(self, index: int):
            return super().__getitem__(index)[0], {"boxes": []}

    monkeypatch.setattr(torchvision.datasets, "FakeData", Boxes)
    with pytest.raises(ValueError, match=r"data.name: item 0 of torchvision/FakeData is not"):
        build_splits(DataConfig(name="torchvision/FakeData", options=FAKE))
