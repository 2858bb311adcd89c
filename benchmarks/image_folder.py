"""Command line from a folder of JPEGs to a finetuned model, timed step by step.

Makes 1 000 JPEGs of 20 classes at 224 pixels and a DeiT-Tiny cut to 4 blocks, with random weights
in a file as DeiT's. Then: search until the first epoch is stored, an interrupt, resume, finetune,
eval, info, each a process of its own, as a user would type it.

    python benchmarks/image_folder.py
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch
from record import write_record
from rich.console import Console
from rich.table import Table
from timing import Bar, print_bars

from adacomcat.testing.images import write_image_folder

AT_MOST_S = 360.0
CLASSES, TRAIN, VAL, SIDE = 20, 40, 10, 224
MODEL, DEPTH = "deit_tiny_patch16_224", 4


def main() -> int:
    """Run all steps; the exit status says whether they met the bar."""
    arguments = _arguments()
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        steps, results = _run(Path(name), arguments)
    total_s = sum(steps.values())
    table = Table("step", "seconds", title="command line on 1 000 JPEGs")
    for step, seconds in [*steps.items(), ("all", total_s)]:
        table.add_row(step, f"{seconds:.1f}")
    console.print(table)
    console.print_json(json.dumps(results))
    settings = {
        "classes": CLASSES,
        "images": CLASSES * (TRAIN + VAL),
        "side": SIDE,
        "model": MODEL,
        "depth": DEPTH,
        **{k: v for k, v in vars(arguments).items() if k != "output"},
    }
    found = {"seconds": steps, "total_s": total_s, "results": results}
    bar = Bar("seconds of all steps", total_s, "at most", AT_MOST_S)
    print_bars([bar])
    write_record(arguments.output, "image_folder", settings, **found, bars=[bar.to_json()])
    return 0 if bar.met else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--epochs", type=int, default=2, help="of the search phase")
    add("--finetune-epochs", type=int, default=1)
    add("--batch-size", type=int, default=64)
    add("--search-batch-size", type=int, default=32)
    add("--workers", type=int, default=2, help="processes that load images")
    add("--device", default="cpu")
    add("--output", type=Path, default=Path("results/image_folder.json"))
    return parser.parse_args()


def _run(root: Path, arguments: argparse.Namespace) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds by step, and what eval and info said."""
    write_image_folder(root / "data", classes=CLASSES, train=TRAIN, val=VAL, side=SIDE)
    torch.manual_seed(0)
    dense = timm.create_model(MODEL, num_classes=CLASSES, depth=DEPTH)
    torch.save({"model": dense.state_dict()}, root / "deit.pth")
    found, tuned = root / "found", root / "tuned"
    machine = ["--device", arguments.device]
    search = [
        "search",
        "--model",
        MODEL,
        "--set",
        f"model.options.depth={DEPTH}",
        "--weights",
        root / "deit.pth",
        "--data",
        root / "data",
        "--target-reduction",
        0.5,
        "--schedule",
        "adaptive",
        "--epochs",
        arguments.epochs,
        "--batch-size",
        arguments.batch_size,
        "--search-batch-size",
        arguments.search_batch_size,
        "--workers",
        arguments.workers,
        *machine,
        "--output",
        found,
    ]
    finetune = [
        "finetune",
        "--from",
        found,
        "--epochs",
        arguments.finetune_epochs,
        "--batch-size",
        arguments.batch_size,
        *machine,
        "--output",
        tuned,
    ]
    steps = {"search, to the first epoch": _interrupted(search, found / "epochs.jsonl")}
    steps["search --resume"], _ = _timed(["search", "--resume", found, *machine])
    steps["finetune"], _ = _timed(finetune)
    steps["eval"], scored = _timed(["eval", "--from", tuned, "--json", *machine])
    steps["info"], counted = _timed(["info", "--from", tuned, "--json"])
    results = json.loads(scored) | {"sites": len(json.loads(counted)["sites"])}
    return steps, results


def _timed(words: list[Any]) -> tuple[float, str]:
    """Seconds of a command, and what it printed."""
    started = time.perf_counter()
    done = subprocess.run(_command(words), check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - started, done.stdout


def _interrupted(words: list[Any], trace: Path) -> float:
    """Seconds until a command has stored its first epoch and has been stopped by Ctrl-C."""
    started = time.perf_counter()
    driver = subprocess.Popen(_command(words), preexec_fn=_hear_interrupts)
    while driver.poll() is None and not (trace.exists() and trace.read_text()):
        time.sleep(0.1)
    driver.send_signal(signal.SIGINT)
    status = driver.wait()
    if status != 130:
        raise RuntimeError(f"status {status}, not 130, after an interrupt")
    return time.perf_counter() - started


def _hear_interrupts() -> None:
    # A benchmark in the background ignores the interrupt, and its children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _command(words: list[Any]) -> list[str]:
    return [sys.executable, "-m", "adacomcat", *map(str, words)]


if __name__ == "__main__":
    sys.exit(main())
