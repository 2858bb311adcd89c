"""One search step: the supernet's one product against the candidates computed one by one.

    python benchmarks/search_step.py
    python benchmarks/search_step.py --model deit_tiny_patch16_224 --batch-size 16 --threads 4

A step draws the mixture, runs the images forward, takes the cross-entropy and goes back to the
logits; weights take no gradient. Both variants use the same random model, the same spectra (the
published menus, biases kept) and the same draw, so that logits and gradients must agree. The plain
variant is ComCAT's search as the paper writes it (arXiv 2305.17235, equation 8): a head's scores
are the weighted sum over its candidates of `x (W_qk,r) x^T`, its outputs that of
`attention x W_vo,r`, and a linear layer's that of `x W_r`, with W_r the truncated matrix, whole and
computed beforehand.

Each variant runs in processes of its own, one after the other. Times are medians over the repeats
after a warm-up step. Memory is the peak of one step: of the whole process, and above what it held
once its model stood (on CPU resident memory, on CUDA what PyTorch allocated). It is measured in a
second process, in which glibc hands every freed block back at once: left alone, it keeps some, and
the plain variant would look twice as large.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from record import write_record
from torch import Tensor, nn

from adacomcat.lowrank.config import LowRankConfig
from adacomcat.lowrank.convert import LowRank
from adacomcat.lowrank.supernet import Mixture, SupernetAttention, SupernetLinear
from adacomcat.testing.models import draw_parameters_

VARIANTS = ("plain", "one product")
AT_LEAST = {"speedup": 8.0, "process_memory_ratio": 3.0, "step_memory_ratio": 3.0}
AT_MOST = {"logits": 1e-4, "logit_gradients": 1e-4}
"""What the comparison must reach; differences are relative to the largest value."""


def truncated(left: Tensor, right: Tensor, ranks: list[int]) -> list[Tensor]:
    """The whole matrices (m, n) that columns (m, k) and (n, k) stand for, one a rank."""
    return [left[:, :rank] @ right[:, :rank].T for rank in ranks]


class PlainAttention(nn.Module):
    """Attention with the mixture written out: head by head, candidate by candidate."""

    def __init__(self, fast: SupernetAttention, mixture: Mixture) -> None:
        super().__init__()
        heads, width = fast.num_heads, fast.qkv.shape[1]
        score, value = (heads * columns for columns in fast.columns)
        q, k, v = fast.qkv.split((score, score, value))
        # The query's bias is one more row of its matrix, for an input that is always one.
        bias = fast.get_buffer("q_bias")
        q = torch.cat([q.T, bias[None]]).view(width + 1, heads, -1)
        k, v = k.T.view(width, heads, -1), v.T.view(width, heads, -1)
        o = fast.proj.view(width, heads, -1)
        self.rows = fast.rows
        self.qk, self.vo = (
            [truncated(left[:, h], right[:, h], _ranks(mixture, row)) for h in range(heads)]
            for left, right, row in ((q, k, self.rows[0]), (v, o, self.rows[1]))
        )
        self.scale, self.out_bias, self.mixture = fast.scale, fast.get_buffer("out_bias"), [mixture]

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        qk_weights, vo_weights = (self.mixture[0].weights[row] for row in self.rows)
        output = self.out_bias
        for score_matrices, value_matrices in zip(self.qk, self.vo, strict=True):
            scores: Any = 0
            for weight, matrix in zip(qk_weights, score_matrices, strict=False):
                scores = scores + weight * ((x @ matrix[:-1] + matrix[-1]) @ x.mT)
            attention = (scores * self.scale).softmax(-1)
            for weight, matrix in zip(vo_weights, value_matrices, strict=False):
                output = output + weight * (attention @ (x @ matrix))
        return output


class PlainLinear(nn.Module):
    """A linear layer with the mixture written out."""

    def __init__(self, fast: SupernetLinear, mixture: Mixture) -> None:
        super().__init__()
        self.matrices = truncated(fast.first.T, fast.last, _ranks(mixture, fast.row))
        self.row, self.bias, self.mixture = fast.row, fast.get_buffer("bias"), [mixture]

    def forward(self, x: Tensor) -> Tensor:
        output = self.bias
        weights = self.mixture[0].weights[self.row]
        for weight, matrix in zip(weights, self.matrices, strict=False):
            output = output + weight * (x @ matrix)
        return output


def _ranks(mixture: Mixture, row: int | None) -> list[int]:
    assert row is not None
    site = mixture.sites[row]
    return [candidate.rank // site.groups for candidate in site.candidates]


def write_out_(method: LowRank) -> None:
    """Replace each site of a searchable model by its plain mixture."""
    for name, module in list(method.model.named_modules()):
        if isinstance(module, SupernetAttention):
            method.model.set_submodule(name, PlainAttention(module, method.mixture))
        elif isinstance(module, SupernetLinear):
            method.model.set_submodule(name, PlainLinear(module, method.mixture))


def run_variant(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one variant in this process; its logits and gradients go along as lists."""
    torch.set_num_threads(arguments.threads)
    model: Any = timm.create_model(arguments.model, pretrained=False)
    draw_parameters_(model, 0)
    model.to(arguments.device).eval()
    method = LowRank(model, LowRankConfig(space="paper", allow_larger=True))
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        noise = torch.randn(method.mixture.logits.shape, generator=source)
        method.mixture.logits.copy_(noise)
    method.prepare_()
    if arguments.variant == "plain":
        with torch.no_grad():
            write_out_(method)
    shape = (arguments.batch_size, model.in_chans, *model.patch_embed.img_size)
    images = torch.randn(shape, generator=source).to(arguments.device)
    labels = (torch.arange(arguments.batch_size) % model.num_classes).to(arguments.device)
    base = _held(arguments.device)
    seconds = []
    for _ in range(1 + arguments.repeats):
        method.mixture.logits.grad = None
        started = time.perf_counter()
        method.sample_(1.0, torch.Generator().manual_seed(1))
        logits = model(images)
        F.cross_entropy(logits, labels).backward()
        _wait(arguments.device)
        seconds.append(time.perf_counter() - started)
    gradients = method.mixture.logits.grad
    assert gradients is not None
    return {
        "seconds": seconds[1:],
        "base_bytes": base,
        "peak_bytes": _peak(arguments.device),
        "logits": logits.detach().cpu().tolist(),
        "logit_gradients": gradients.cpu().tolist(),
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _held(device: str) -> int:
    """Bytes in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize()
    return _peak(device)


def _peak(device: str) -> int:
    """The most bytes that were in use at once."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(arguments: argparse.Namespace, variant: str) -> dict[str, Any]:
    """Time and memory of one variant, each in a fresh process."""
    timed = in_own_process(arguments, variant, arguments.repeats, {})
    once = in_own_process(arguments, variant, 0, {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)})
    return timed | {name: once[name] for name in ("base_bytes", "peak_bytes")}


def in_own_process(
    arguments: argparse.Namespace, variant: str, repeats: int, environment: dict[str, str]
) -> dict[str, Any]:
    """Run one variant in a fresh process, whose peak memory is its own."""
    flags = ("model", "batch_size", "threads", "device")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, __file__, "--variant", variant, "--output", str(report)]
        command += ["--repeats", str(repeats)]
        for flag in flags:
            command += [f"--{flag.replace('_', '-')}", str(getattr(arguments, flag))]
        subprocess.run(command, check=True, env=os.environ | environment)
        found: dict[str, Any] = json.loads(report.read_text())
    return found


def compare(reports: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Plain over ours in time and memory, and the largest differences over the largest value."""
    plain, ours = (reports[variant] for variant in VARIANTS)
    differences = {}
    for name in ("logits", "logit_gradients"):
        expected, found = torch.tensor(plain.pop(name)), torch.tensor(ours.pop(name))
        differences[name] = ((found - expected).abs().max() / expected.abs().max()).item()
    return {
        "speedup": statistics.median(plain["seconds"]) / statistics.median(ours["seconds"]),
        "process_memory_ratio": plain["peak_bytes"] / ours["peak_bytes"],
        "step_memory_ratio": _step_bytes(plain) / _step_bytes(ours),
        **differences,
    }


def _step_bytes(report: dict[str, Any]) -> int:
    return int(report["peak_bytes"] - report["base_bytes"])


def print_table(reports: dict[str, dict[str, Any]], comparison: dict[str, float]) -> None:
    """What was measured, and whether the bars are met."""
    titles = ("median s", "fastest", "slowest", "peak MiB", "step MiB")
    print(f"{'variant':<12} " + " ".join(f"{title:>9}" for title in titles))
    for variant, report in reports.items():
        seconds = report["seconds"]
        times = (statistics.median(seconds), min(seconds), max(seconds))
        sizes = (report["peak_bytes"], _step_bytes(report))
        cells = [f"{t:9.3f}" for t in times] + [f"{size / 2**20:9.0f}" for size in sizes]
        print(f"{variant:<12} {' '.join(cells)}")
    for name, value in comparison.items():
        if name in AT_LEAST:
            met, bound = value >= AT_LEAST[name], f"at least {AT_LEAST[name]:g}"
        else:
            met, bound = value <= AT_MOST[name], f"at most {AT_MOST[name]:g}"
        print(f"{name:<21} {value:9.3g}   {bound}: {'met' if met else 'MISSED'}")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="deit_small_patch16_224", help="width 192, 384 or 768")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, default=Path("results/search_step.json"))
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.repeats < 1 and arguments.variant is None:
        parser.error("--repeats: at least 1")
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.variant is not None:
        arguments.output.write_text(json.dumps(run_variant(arguments)))
        return
    reports = {variant: measure(arguments, variant) for variant in VARIANTS}
    comparison = compare(reports)
    print_table(reports, comparison)
    names = ("model", "batch_size", "threads", "repeats", "device")
    write_record(
        arguments.output,
        "search_step",
        {name: getattr(arguments, name) for name in names},
        variants=reports,
        comparison=comparison,
        bars={"at_least": AT_LEAST, "at_most": AT_MOST},
    )


if __name__ == "__main__":
    main()
