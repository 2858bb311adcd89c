import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import FashionMNIST

from adacomcat.config import DataConfig
from adacomcat.data import build_splits
from adacomcat.data.builtin import DEBIAN_FASHION_MNIST
from adacomcat.data.datasets import load_source
from adacomcat.data.images import MemoryImages


def write_idx(folder: Path, *, compress: bool, images: int = 60) -> None:
    """The four files of Fashion-MNIST, random and small."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", images), ("t10k", 20)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        contents = {
            "images-idx3": struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes(),
            "labels-idx1": struct.pack(">II", 0x801, count) + labels.tobytes(),
        }
        for name, data in contents.items():
            path = folder / f"{prefix}-{name}-ubyte{'.gz' if compress else ''}"
            path.write_bytes(gzip.compress(data) if compress else data)


def fashion(root: Path) -> DataConfig:
    return DataConfig(name="fashion_mnist", root=str(root))


def test_fashion_mnist_in_torchvisions_layout(tmp_path: Path) -> None:
    write_idx(tmp_path / "FashionMNIST" / "raw", compress=False)
    source = load_source(fashion(tmp_path))
    for part, train in ((source.train, True), (source.test, False)):
        expected = FashionMNIST(str(tmp_path), train=train)
        assert part is not None and isinstance(part.images, MemoryImages)
        assert torch.equal(part.images.pixels[:, 0], expected.data)
        np.testing.assert_array_equal(part.labels, expected.targets)
    assert source.classes == tuple(FashionMNIST.classes)


def test_compressed_files_give_the_same_splits(tmp_path: Path) -> None:
    write_idx(tmp_path / "plain", compress=False)
    write_idx(tmp_path / "gz", compress=True)
    plain, gz = (build_splits(fashion(tmp_path / name)) for name in ("plain", "gz"))
    assert plain.hashes == gz.hashes
    np.testing.assert_array_equal(plain.test.indices, np.arange(20))
    assert len(plain.train) + len(plain.search) + len(plain.val) == 60


@pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_debians_fashion_mnist_is_found_by_itself() -> None:
    splits = build_splits(DataConfig(name="fashion_mnist"))
    sizes = [len(s) for s in (splits.train, splits.search, splits.val, splits.test)]
    assert sizes == [45000, 9000, 6000, 10000]
    # The published statistics of the training images.
    assert splits.mean == pytest.approx((0.2860,), abs=2e-3)
    assert splits.std == pytest.approx((0.3530,), abs=2e-3)
    assert np.bincount(splits.test.labels).tolist() == [1000] * 10


def damaged(folder: Path, name: str, change) -> DataConfig:
    write_idx(folder, compress=name.endswith(".gz"))
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    return fashion(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda d: d[:-5], r"cannot read .*train-images-idx3-ubyte: "),
        ("train-images-idx3-ubyte.gz", lambda d: d[:50], r"cannot read .*idx3-ubyte.gz: "),
        ("train-images-idx3-ubyte.gz", lambda d: b"<html>", r"cannot read .*idx3-ubyte.gz: "),
        (
            "t10k-labels-idx1-ubyte",
            lambda d: b"<html>" + d,
            r"cannot read .*t10k-labels-idx1-ubyte: ",
        ),
        ("t10k-labels-idx1-ubyte", lambda d: d[:5], r"cannot read .*t10k-labels-idx1-ubyte: "),
        ("t10k-labels-idx1-ubyte", lambda d: d[:-1] + b"\x0b", r"idx1-ubyte holds the label 11"),
        (
            "t10k-labels-idx1-ubyte",
            lambda d: struct.pack(">II", 0x801, 19) + d[8:-1],
            r"t10k-images.* has 20 images, .*t10k-labels.* 19",
        ),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path: Path, name: str, change, message: str) -> None:
    with pytest.raises(ValueError, match=f"data.root: .*{message}"):
        load_source(damaged(tmp_path, name, change))


def test_a_missing_idx_file_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path, compress=False)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        ValueError, match="data.root: cannot read .*t10k-labels-idx1-ubyte: FileNotFoundError"
    ):
        load_source(fashion(tmp_path))


def test_a_failed_download_says_where_the_files_could_come_from(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(FashionMNIST, "mirrors", [])
    with pytest.raises(ValueError, match=r"data.root: no IDX files .*dataset-fashion-mnist"):
        load_source(fashion(tmp_path))


def test_synthetic_is_seeded_and_learnable() -> None:
    config = DataConfig(name="synthetic", options={"images": 600, "noise": 0.3, "num_classes": 4})
    splits = build_splits(config)
    assert build_splits(config).hashes == splits.hashes
    assert build_splits(config.replace(options={**config.options, "seed": 1})).hashes != (
        splits.hashes
    )

    def nearest_mean_accuracy(noise: float) -> float:
        noisy = build_splits(config.replace(options={**config.options, "noise": noise}))
        train, test = noisy.train, noisy.test
        x, z = (s.images.pixels.flatten(1).float() for s in (train, test))  # type: ignore[union-attr]
        means = torch.stack([x[train.labels == c].mean(0) for c in range(4)])
        return float((torch.cdist(z, means).argmin(1) == test.labels).float().mean())

    assert nearest_mean_accuracy(0.3) > 0.95
    assert nearest_mean_accuracy(200.0) < 0.6  # the noise does hide the classes: chance is 0.25


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(name="digit"), r"data.name: got 'digit', allowed: digits, fashion_mnist"),
        (DataConfig(name="timm/"), r"data.name: got 'timm/'"),
        (DataConfig(name="digits", options={"noise": 1}), r"data.options: .*digits has no options"),
        (DataConfig(name="digits", root="/x"), r"data.root: got '/x', allowed: None"),
        (
            DataConfig(name="synthetic", options={"nois": 1}),
            r"data.options: got 'nois' \(did you mean 'noise'\?\)",
        ),
        (DataConfig(name="synthetic", options={"images": 0}), r"data.options.images: got 0"),
        (DataConfig(name="synthetic", options={"images": 1.5}), r"options.images: got 1.5, .* int"),
        (DataConfig(name="synthetic", options={"noise": -1}), r"data.options.noise: got -1"),
        (DataConfig(name="imagefolder"), r"data.root: got None, allowed: a folder with train/"),
        (DataConfig(name="imagefolder", root="/no/such"), r"data.root: got '/no/such'"),
        (DataConfig(name="fashion_mnist", root="/no/such"), r"data.root: got '/no/such'"),
    ],
)
def test_a_bad_setting_is_named(config: DataConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_splits(config)


def test_imagefolder_lists_the_files_under_train_and_val(image_folder) -> None:
    root = image_folder(classes=("bee", "ant"))
    source = load_source(DataConfig(name="imagefolder", root=str(root)))
    assert source.classes == ("ant", "bee")
    assert source.test is not None
    for part, folder in ((source.train, "train"), (source.test, "val")):
        files = sorted((root / folder).rglob("*.png"))
        names = [part.images.name(i) for i in range(len(part.images))]
        assert names == [path.relative_to(root).as_posix() for path in files]
        digests = [hashlib.sha256(path.read_bytes()).digest() for path in files]
        assert [row.tobytes() for row in part.images.digests()] == digests
        assert [source.classes[label] for label in part.labels] == [p.parent.name for p in files]


def test_bad_folders_are_named(image_folder) -> None:
    root = image_folder()
    config = DataConfig(name="imagefolder", root=str(root))
    steps = [
        (lambda: (root / "train" / "cat").mkdir(), r"class 'cat' of .*train is missing from val/"),
        (lambda: (root / "val" / "cat").mkdir(), r"data.root: got .*train/cat'.*in every class"),
        (lambda: (root / "train" / "cat").rmdir(), r"class 'cat' of .*val is missing from train/"),
        (lambda: (root / "val" / "cat").rmdir(), None),
        (lambda: (root / "val" / "ant" / "0.png").write_bytes(b""), r"val/ant/0.png'.*not empty"),
        (
            lambda: (root / "val").rename(root / "test"),
            r"images', allowed: .*of which val/ is missing",
        ),
    ]
    for change, message in steps:
        change()
        if message is None:
            build_splits(config)
            continue
        with pytest.raises(ValueError, match=message):
            build_splits(config)


def test_crop_pct_is_above_0(image_folder) -> None:
    root = str(image_folder())
    with pytest.raises(ValueError, match=r"data.crop_pct: got -1"):
        build_splits(DataConfig(name="imagefolder", root=root, crop_pct=-1))


def test_a_root_below_a_home_that_is_unknown_is_named() -> None:
    config = DataConfig(name="imagefolder", root="~nobody-of-this-name/images")
    with pytest.raises(ValueError, match=r"data.root: got '~nobody-of-this-name/images'"):
        build_splits(config)
