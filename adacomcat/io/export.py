"""Export of models: ONNX, `torch.export`, or a folder for the Hugging Face hub.

Shapes: images (B, C, H, W) in float32, normalized as the model's `pretrained_cfg` says, in; logits
(B, classes) out. B is free, all else is fixed. What is written is first run and compared with the
model itself (eager PyTorch); where logits differ by more than `TOLERANCE` nothing is left.
"""

import copy
import importlib
import importlib.util
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.files import atomic_write_bytes, replacing
from adacomcat.io.directory import load, save
from adacomcat.io.hub import CARD
from adacomcat.methods.specs import plan_of
from adacomcat.models.registry import input_shape
from adacomcat.plan import Plan
from adacomcat.versions import versions

TOLERANCE = 1e-4
"""Largest difference of a logit that is let through."""
TRACED, COMPARED = 3, (1, 3, 5)
"""Images of the batch that is traced, and of those on which the result is compared."""
INPUT, OUTPUT = "images", "logits"
# With an end: without one, PyTorch 2.6 trips over the largest integer there is.
DYNAMIC = ({0: torch.export.Dim("batch", min=1, max=2**31 - 1)},)
ONNX_LIMIT_BYTES = 2**31
"""Size limit of a protobuf file."""
Run = Callable[[Tensor], Tensor]
"""(B, C, H, W) -> (B, classes)."""


@dataclass(frozen=True)
class Exported:
    """Result of an export, and its comparison with the model.

    Attributes:
        form: of the file, with its version.
        runtime: what ran it; None: nothing that could is installed.
        differences: images in a batch -> largest difference of a logit from eager PyTorch.
    """

    form: str
    runtime: str | None
    differences: Mapping[int, float]

    def describe(self) -> str:
        """The result of the comparison in one line."""
        if self.runtime is None:
            return "parity with eager: not checked; for that: pip install onnxruntime"
        batches = ", ".join(f"{n}: {d:.1e}" for n, d in self.differences.items())
        return (
            f"parity with eager, {self.runtime}: logits differ by at most "
            f"{max(self.differences.values()):.1e} (allowed {TOLERANCE:.0e}; by images in a batch "
            f"{batches})"
        )


def export_onnx(model: nn.Module, path: Path, notes: Mapping[str, str] | None = None) -> Exported:
    """Write an ONNX file at the opset that PyTorch's exporter recommends.

    ONNX Runtime compares, where it is installed.

    Args:
        model: dense or committed; stays as it is.
        path: of the file.
        notes: texts to put into the file's metadata, by name.

    Raises:
        ValueError: a missing package, a model that is not supported or too large, or other logits.
    """
    require_packages("onnx", "onnxscript")
    model = _plain(model)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    allowed = f"below {ONNX_LIMIT_BYTES} bytes, what one file of ONNX can hold (or torch-export)"
    require(size < ONNX_LIMIT_BYTES, "model: weights", f"{size} bytes", allowed)
    # From a program, since of a module older versions of PyTorch try to make one in ways that fix
    # the batch. The shapes are given again for the name of the free one.
    program = torch.onnx.export(
        _traced(model),
        (_images(model, TRACED),),
        dynamo=True,
        dynamic_shapes=DYNAMIC,
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(notes or {})
    form = f"ONNX, opset {program.model.opset_imports['']}"
    data = program.model_proto.SerializeToString()
    exported = Exported(form, None, MappingProxyType({}))
    if _installed("onnxruntime"):
        runtime = f"ONNX Runtime {versions(['onnxruntime'])['onnxruntime']}"
        exported = Exported(form, runtime, compare(model, _onnx_runtime(data), runtime))
    atomic_write_bytes(path, data)
    return exported


def export_program(
    model: nn.Module, path: Path, notes: Mapping[str, str] | None = None
) -> Exported:
    """Write a program of `torch.export`, and compare it as it is read back.

    Args:
        model: dense or committed; stays as it is.
        path: of the file.
        notes: texts to put into the file, by name: `torch.export.load(..., extra_files=...)`.

    Raises:
        ValueError: a model that is not supported, or other logits.
    """
    model = _plain(model)
    # PyTorch's writer of files aborts the process where a disk is full.
    buffer = io.BytesIO()
    torch.export.save(_traced(model), buffer, extra_files=dict(notes or {}))
    buffer.seek(0)
    run = torch.export.load(buffer).module()
    runtime = f"PyTorch {torch.__version__}"
    exported = Exported("torch.export", runtime, compare(model, run, runtime))
    atomic_write_bytes(path, buffer.getvalue())
    return exported


def export_hub(
    model: nn.Module,
    directory: Path,
    card: str,
    *,
    plan: Plan | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a folder for the Hugging Face hub: the files of `adacomcat.save`, and `README.md`.

    Args:
        model: dense or committed.
        directory: missing or empty.
        card: content of `README.md`, see `adacomcat.io.hub.model_card`.
        plan: as for `adacomcat.save`.
        extra: as for `adacomcat.save`.

    Raises:
        ValueError: as `adacomcat.save`, or other logits.
    """
    model = _plain(model)
    with replacing(directory) as temporary:
        save(model, temporary, plan=plan, extra=extra)
        atomic_write_bytes(temporary / CARD, card.encode())
        differences = compare(model, load(temporary), "adacomcat.load")
    return Exported("hub folder", "adacomcat.load", differences)


@torch.no_grad()
def compare(model: nn.Module, run: Run, runtime: str) -> Mapping[int, float]:
    """Run a model and its export on the same noise.

    Args:
        model: in evaluation mode.
        run: what was made of it.
        runtime: its name, for the message.

    Returns:
        Images in a batch -> largest difference of a logit.

    Raises:
        ValueError: another shape, a difference above `TOLERANCE`, or logits that are no numbers.
    """
    found = {}
    for size in COMPARED:
        images = _images(model, size)
        expected, got = model(images), run(images)
        what = f"{runtime}: logits of {size} images"
        shape = tuple(got.shape)
        require(shape == tuple(expected.shape), what, shape, f"shape {tuple(expected.shape)}")
        # Not `difference > TOLERANCE`: a nan is no smaller and no larger than anything.
        difference = float((got - expected).abs().max())
        allowed = f"within {TOLERANCE} of the model's"
        require(difference <= TOLERANCE, what, f"a difference of {difference}", allowed)
        found[size] = difference
    return MappingProxyType(found)


def require_packages(*names: str) -> None:
    """Raise unless packages are installed, with the command that installs them.

    Raises:
        ValueError: names what is missing.
    """
    missing = [name for name in names if not _installed(name)]
    if missing:
        raise ValueError(f"{', '.join(missing)}: not installed: pip install {' '.join(missing)}")


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _plain(model: nn.Module) -> nn.Module:
    """A copy of a supported model on the CPU, in evaluation mode."""
    plan_of(model)  # refuses what no method supports
    found = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    require(found == ["float32"], "model: parameters", ", ".join(found), "float32: model.float()")
    return copy.deepcopy(model).cpu().eval()


def _images(model: nn.Module, count: int) -> Tensor:
    """Noise of shape (count, C, H, W)."""
    source = torch.Generator().manual_seed(count)
    return torch.randn(count, *input_shape(model), generator=source)


def _traced(model: nn.Module) -> torch.export.ExportedProgram:
    images = _images(model, TRACED)
    return torch.export.export(model, (images,), dynamic_shapes=DYNAMIC, strict=False)


def _onnx_runtime(data: bytes) -> Run:
    # By name: an optional package, which the import statements of this one do not mention.
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return run
