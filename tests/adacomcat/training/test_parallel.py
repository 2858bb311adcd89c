"""Two workers are one worker with twice the hands: same images, same plan, same losses."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from adacomcat.config import DistillConfig, TrialConfig
from adacomcat.data import build_splits
from adacomcat.testing.images import write_image_folder
from adacomcat.training import dense_model, run_trial


class Keep:
    def __init__(self):
        self.epochs, self.searches = [], []

    def begin(self, epochs, searches):
        pass

    def epoch(self, row):
        self.epochs.append(row)

    def search(self, row):
        self.searches.append(row)


class Lines(logging.Handler):
    count = 0

    def emit(self, record):
        self.count += "phase, epoch" in record.getMessage()


def work(rank, world, folder):
    torch.set_num_threads(1)
    settings = json.loads((folder / "settings.json").read_text())
    if world > 1:
        rendezvous = f"file://{folder}/rendezvous"
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    config, rows, lines = TrialConfig.from_json(settings), Keep(), Lines()
    logger = logging.getLogger("adacomcat")
    logger.setLevel(logging.INFO)
    logger.addHandler(lines)
    splits = build_splits(config.data)
    dense = dense_model(config, splits, folder / "cache")
    summary = run_trial(
        config, dense=dense, splits=splits, directory=folder / f"trial-{world}", reporter=rows
    )
    logger.removeHandler(lines)
    result = {"summary": summary, "epochs": rows.epochs, "searches": rows.searches}
    result["lines"] = lines.count
    (folder / f"{world}-{rank}.json").write_text(json.dumps(result))
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.timeout(300)
def test_two_workers_equal_one(config, tmp_path):
    """Four trials: the two processes take longer to start than to train."""
    # Calibrated: the second moments, too, must be those of all images together.
    plain = config.to_json() | {"method": {**config.method, "metrics": "inputs"}}
    folders = [tmp_path / name for name in ("calibrated", "files", "short", "tokens")]
    settings_of = (plain, on_files(config, tmp_path), ending_early(config), token_rates(config))
    for folder, settings in zip(folders, settings_of, strict=True):
        folder.mkdir()
        (folder / "settings.json").write_text(json.dumps(settings))
        work(0, 1, folder)
    command = [sys.executable, __file__]
    workers = [subprocess.Popen([*command, str(rank), "2", *folders]) for rank in range(2)]
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    for folder in folders:
        compare(folder)
    searches = json.loads((folders[2] / "2-0.json").read_text())["searches"]
    assert any(row["steps"] < 12 for row in searches)


def on_files(config, tmp_path):
    """Augmented image files, batches in parts, and an average."""
    root = write_image_folder(tmp_path / "images", classes=2, train=40, val=8, side=20)
    data = {
        "name": "imagefolder",
        "root": str(root),
        "image_size": 16,
        "search_images": 16,
        "val_fraction": 0.2,
        "augment": "resized_crop",
        "auto_augment": "rand-m9-mstd0.5-inc1",
        "random_erasing": 0.25,
        "repeats": 3,
    }
    recipe = {"batch_size": 16, "accumulate": 2, "ema_decay": 0.8, "lr": 1e-2}
    alone = {"distill": {"kind": "none", "align_blocks": []}}
    return config.to_json() | {
        "data": data,
        "dense": {"recipe": {"epochs": 2, **recipe, **alone}},
        "search": {"batch_size": 8, "lr": 0.2, "temperature_start": 1.0},
        "search_phase": {"epochs": 3, **recipe},
        "finetune": {"epochs": 1, **recipe},
    }


def ending_early(config):
    """Soft distillation, and searches that end early."""
    search = config.search.replace(steps=12, stable_steps=2)
    data = config.data.replace(augment="none")
    distill = DistillConfig(kind="soft", align_blocks=())
    phase = config.search_phase.replace(distill=distill)
    whole = config.replace(search=search, data=data, search_phase=phase)
    return whole.to_json()


def token_rates(config):
    """Token rates, searched with frozen weights, and finetuning on what they leave."""
    sizes = {**config.model.options, "depth": 4, "patch_size": 2}
    search = {"steps": 6, "batch_size": 16, "lr": 0.2, "min_lr": 0.1, "penalty": "squared"}
    return config.to_json() | {
        "model": {"options": sizes},
        "method": {"name": "diffrate"},
        "budget": {"unit": "macs", "reduction": 0.3},
        "search": search,
        "schedule": {"kind": "explicit", "epochs": [0, 1]},
        "search_phase": {"epochs": 2, "frozen": True},
        "finetune": {"epochs": 2, "batch_size": 32, "distill": {"align_blocks": []}},
    }


def compare(folder):
    """One worker's trial with that of two."""
    one, first, second = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")
    )
    assert (one["lines"], first["lines"], second["lines"]) == (len(one["epochs"]),) * 2 + (0,)
    for alone, row, other in zip(one["epochs"], first["epochs"], second["epochs"], strict=True):
        assert row["loss"] == other["loss"]
        for key in ("loss", "base_loss", "val_loss", "val_acc"):
            assert row[key] == pytest.approx(alone[key], abs=1e-5), (key, row["epoch"])
        assert (row["params"], row["macs"]) == (alone["params"], alone["macs"])
    for alone, row in zip(one["searches"], first["searches"], strict=True):
        assert row["plan"] == alone["plan"] and row["images"] == alone["images"]
        assert row["steps"] == alone["steps"]
        assert row["loss"] == pytest.approx(alone["loss"], abs=1e-5)
    assert len(one["searches"]) >= 2
    assert first["summary"]["test_acc"] == one["summary"]["test_acc"]
    assert first["summary"]["test_loss"] == pytest.approx(one["summary"]["test_loss"], abs=1e-5)


if __name__ == "__main__":
    for argument in sys.argv[3:]:
        work(int(sys.argv[1]), int(sys.argv[2]), Path(argument))
