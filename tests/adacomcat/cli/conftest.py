"""A small folder of JPEGs, weights of a small DeiT, and the command line called in this process."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from adacomcat.cli.main import main
from adacomcat.testing.images import write_image_folder

SIZES = {"depth": 2, "embed_dim": 48, "num_heads": 3, "patch_size": 8}
CLASSES, SIDE = 4, 32
MODEL = ["--model", "deit_tiny_patch16_224", "--set", f"data.image_size={SIDE}"] + [
    part for key, value in SIZES.items() for part in ("--set", f"model.options.{key}={value}")
]
RECIPE = [
    "--target-reduction",
    "0.5",
    "--epochs",
    "2",
    "--batch-size",
    "16",
    "--search-batch-size",
    "8",
    "--workers",
    "0",
    "--device",
    "cpu",
]


@dataclass(frozen=True)
class Done:
    """What a command left on the console."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Calls the command line with its arguments."""

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return Done(status, *capfd.readouterr())

    return call


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose by a second thread, on a busy machine a lot."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/ and val/."""
    root = tmp_path_factory.mktemp("images") / "data"
    write_image_folder(root, classes=CLASSES, train=20, val=4, side=SIDE)
    return root


@pytest.fixture(scope="session")
def dense() -> torch.nn.Module:
    """The small DeiT as timm makes it."""
    torch.manual_seed(0)
    model = timm.create_model(
        "deit_tiny_patch16_224", num_classes=CLASSES, img_size=SIDE, drop_path_rate=0.1, **SIZES
    )
    return model.eval()


@pytest.fixture(scope="session")
def weights(dense: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights, in a file as DeiT's."""
    path = tmp_path_factory.mktemp("weights") / "deit.pth"
    torch.save({"model": dense.state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def asked(images: Path, weights: Path) -> list[str]:
    """Model, weights, data and recipe of a search of seconds."""
    return [*MODEL, "--weights", str(weights), "--data", str(images), *RECIPE]


@pytest.fixture(scope="session")
def searched(asked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What such a search leaves; not to be changed."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    assert main(["search", *asked, "--output", str(folder)]) == 0
    return folder
