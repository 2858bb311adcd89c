"""The folders of JPEGs that tests and benchmarks are made from."""

from pathlib import Path

import torch
from PIL import Image

from adacomcat.config import DataConfig
from adacomcat.data import build_splits, make_loader
from adacomcat.data.images import pack
from adacomcat.testing.images import write_image_folder


def test_a_written_folder_has_what_was_asked_for(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "new", classes=3, train=4, val=2, side=20)
    for part, count in (("train", 4), ("val", 2)):
        folders = sorted((root / part).iterdir())
        assert [len(list(folder.iterdir())) for folder in folders] == [count] * 3
    sizes = set()
    for path in root.rglob("*.*"):
        with Image.open(path) as image:
            assert image.format == "JPEG" and image.mode == "RGB" and min(image.size) == 20
            sizes.add(image.size)
    assert max(max(size) for size in sizes) <= 30
    assert any(wide > high for wide, high in sizes) and any(wide < high for wide, high in sizes)


def test_the_same_seed_writes_the_same_folder(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        root = write_image_folder(tmp_path / name, classes=2, train=5, val=2, side=16, seed=seed)
        files = sorted(root.rglob("*.jpg"))
        hashes.append([path.read_bytes() for path in files])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_written_folder_can_be_learnt(tmp_path: Path) -> None:
    """The nearest mean of the training images, of 20 classes."""
    root = write_image_folder(tmp_path, classes=20, train=10, val=4, side=32)
    data = DataConfig(name="imagefolder", root=str(root), image_size=16)
    splits = build_splits(data)
    held = []
    for split in (splits.train, splits.test):
        ((x, y),) = make_loader(split, data, batch_size=len(split), seed=0, train=False)
        held.append((x.flatten(1), y))
    (train, labels), (test, answers) = held
    means = torch.stack([train[labels == label].mean(0) for label in range(20)])
    right = torch.cdist(test, means).argmin(1) == answers
    assert float(right.double().mean()) > 0.9
    noise = torch.cdist(test, means.roll(1, 0)).argmin(1) == answers
    assert float(noise.double().mean()) < 0.5


def test_packed_texts_come_back() -> None:
    texts = ["a", "", "größer, 3 bytes", "x" * 50, "not utf-8: \udcff"]
    packed = pack(texts)
    assert [bytes(entry).decode("utf-8", "surrogateescape") for entry in packed] == texts
