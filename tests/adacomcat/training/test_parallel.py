"""Two workers are one worker with twice the hands: same images, same plan, same losses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from adacomcat.config import TrialConfig, from_mapping
from adacomcat.data import build_splits
from adacomcat.training import dense_model, run_trial


class Keep:
    def __init__(self):
        self.epochs, self.searches = [], []

    def epoch(self, row):
        self.epochs.append(row)

    def search(self, row):
        self.searches.append(row)


def work(rank, world, folder):
    torch.set_num_threads(1)
    settings = json.loads((folder / "settings.json").read_text())
    if world > 1:
        rendezvous = f"file://{folder}/rendezvous"
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    config, rows = from_mapping(TrialConfig, settings), Keep()
    splits = build_splits(config.data)
    dense = dense_model(config, splits, folder / "cache")
    summary = run_trial(
        config, dense=dense, splits=splits, directory=folder / f"trial-{world}", reporter=rows
    )
    result = {"summary": summary, "epochs": rows.epochs, "searches": rows.searches}
    (folder / f"{world}-{rank}.json").write_text(json.dumps(result))
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.timeout(180)
def test_two_workers_equal_one(config, tmp_path):
    # Calibrated: the second moments, too, must be those of all images together.
    settings = config.to_json() | {"method": {**config.method, "calibrated": True}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    work(0, 1, tmp_path)
    command = [sys.executable, __file__]
    workers = [subprocess.Popen([*command, str(rank), "2", str(tmp_path)]) for rank in range(2)]
    assert [worker.wait(timeout=150) for worker in workers] == [0, 0]
    one, first, second = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")
    )
    for alone, row, other in zip(one["epochs"], first["epochs"], second["epochs"], strict=True):
        assert row["loss"] == other["loss"]
        for key in ("loss", "base_loss", "val_loss", "val_acc"):
            assert row[key] == pytest.approx(alone[key], abs=1e-5), (key, row["epoch"])
        assert (row["params"], row["macs"]) == (alone["params"], alone["macs"])
    for alone, row in zip(one["searches"], first["searches"], strict=True):
        assert row["plan"] == alone["plan"] and row["images"] == alone["images"]
        assert row["loss"] == pytest.approx(alone["loss"], abs=1e-5)
    assert first["summary"]["test_acc"] == one["summary"]["test_acc"]
    assert first["summary"]["test_loss"] == pytest.approx(one["summary"]["test_loss"], abs=1e-5)


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
