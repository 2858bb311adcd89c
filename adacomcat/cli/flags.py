"""Flags that several commands share, and checks of which flags go together.

A flag whose `dest` has a dot is that setting of the configuration, see `adacomcat.cli.request`.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from adacomcat.checks import require
from adacomcat.files import check_writable
from adacomcat.methods.registry import registrations
from adacomcat.overrides import parse_settings
from adacomcat.recipes import recipes

Add = Callable[..., argparse.Action]


def add_model(add: Add) -> None:
    """The dense model, its weights and the data."""
    add("--model", metavar="M", help="timm's name of the dense model")
    weights = "of the dense model: a file, a URL (with --set dense.sha256=...), or timm"
    add("--weights", metavar="F", help=weights)
    add_data(add)


def add_data(add: Add) -> None:
    """A folder of images, or a recipe by name."""
    add("--data", metavar="D", help="folder with train/ and val/, or that of the workload's data")
    names = ", ".join(recipe.name for recipe in recipes())
    add("--workload", metavar="NAME", help=f"data, model and recipe by name: {names}")


def add_source(add: Add, *, required: bool = False) -> None:
    """A model that this package has written."""
    source = "directory that search, finetune, a study's trial, convert or adacomcat.save has left"
    add("--from", metavar="DIR", type=Path, dest="source", required=required, help=source)


def add_stored(add: Add) -> None:
    """A model that this package or the published code has written."""
    add_source(add)
    folder = "the published code's folder with checkpoint.pth and ranks.txt (with --model)"
    add("--comcat-dir", metavar="DIR", type=Path, help=folder)


def add_published(add: Add) -> None:
    """A plan that is published for a model."""
    rate = "billions of MACs: the model (--model) with the tokens that are published for it"
    add("--published-rate", metavar="X", type=float, help=rate)
    published = [name for name, method in registrations().items() if method.published is not None]
    add("--method", choices=published, help="whose rates, with --published-rate")


def add_recipe(add: Add, phase: str) -> None:
    """The recipe of a phase of training."""
    add("--epochs", metavar="N", type=int, dest=f"{phase}.epochs", help="epochs of this phase")
    size = "images of one step, over all workers"
    add("--batch-size", metavar="N", type=int, dest=f"{phase}.batch_size", help=size)
    add("--seed", metavar="N", type=int, help="of all that is random (default: 0)")
    file = "a YAML file of settings; flags and --set win over it"
    add("--config", metavar="FILE", type=Path, help=file)
    add_settings(add)


def add_settings(add: Add) -> None:
    """Any setting of the configuration."""
    text = "any other setting, for instance search_phase.lr=1e-4; may be repeated"
    add("--set", metavar="A.B=C", action="append", default=[], dest="settings", help=text)


def add_place(add: Add, command: str) -> None:
    """The directory of a run."""
    add("--output", metavar="DIR", type=Path, help="a new directory for all that is left")
    add("--resume", metavar="DIR", type=Path, help=f"go on with the {command} in this directory")
    add_machine(add)


def add_machine(add: Add) -> None:
    """The device, and the loader's processes."""
    add("--device", metavar="X", help="cpu or cuda (default: cuda where there is one)")
    workers = "processes that load images"
    add("--workers", metavar="N", type=int, dest="runtime.num_workers", help=workers)


def check_resumed(arguments: argparse.Namespace) -> bool:
    """Whether a run is resumed; only settings that cannot change a number go together with that.

    Raises:
        ValueError: names the flags that are too many, or `--output` where neither is given.
    """
    if arguments.resume is None:
        require(arguments.output is not None, "--output", None, "a new directory (or --resume DIR)")
        return False
    free = ("command", "resume", "device", "data", "runtime.num_workers", "settings")
    others = given(arguments, (name for name in vars(arguments) if name not in free))
    allowed = (
        "--device, --data, --workers and --set runtime.X=Y beside --resume: the rest is stored"
    )
    require(not others, ", ".join(others), "given", allowed)
    for key, value in parse_settings(arguments.settings).items():
        fixed = key != "data.root" and key.partition(".")[0] != "runtime"
        require(not fixed, f"--set {key}", value, allowed)
    return True


def check_file(path: Path, end: str = "") -> None:
    """Refuse a file for `--output` that is there, has another name, or could not be written.

    Args:
        path: of the file.
        end: of its name.

    Raises:
        ValueError: it is named.
    """
    allowed = f"a name that ends in {end}"
    require(path.name.endswith(end), "--output", str(path), allowed)
    require(not path.exists(), "--output", str(path), "a new file")
    check_writable(path, "--output")


def check_model(arguments: argparse.Namespace) -> None:
    """Refuse a model's name, and settings of it, beside a directory that knows both.

    Raises:
        ValueError: names the flag.
    """
    if arguments.source is not None:
        require(arguments.model is None, "--model", arguments.model, "nothing with --from")
        require(not arguments.settings, "--set", arguments.settings, "nothing with --from")
    else:
        require(arguments.model is not None, "--model", None, "timm's name of the dense model")


def check_data(arguments: argparse.Namespace) -> None:
    """Refuse a folder without a model's name; a workload has one.

    Raises:
        ValueError: names the flag that is missing.
    """
    if arguments.workload is None and getattr(arguments, "config", None) is None:
        require(arguments.model is not None, "--model", None, "timm's name (or --workload NAME)")
        require(arguments.data is not None, "--data", None, "a folder (or --workload NAME)")


def check_published(arguments: argparse.Namespace) -> bool:
    """Whether the model has published rates; that takes two flags.

    Raises:
        ValueError: one of them alone.
    """
    found = given(arguments, ("method", "published_rate"))
    require(len(found) != 1, "--method / --published-rate", found, "both of them, or none")
    return bool(found)


def one_of(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse none or several of these flags.

    Raises:
        ValueError: names all of them.
    """
    found = given(arguments, names)
    require(len(found) == 1, " / ".join(map(flag, names)), found or None, "exactly one of them")


def given(arguments: argparse.Namespace, names: Iterable[str]) -> Sequence[str]:
    """The flags, of those named, that a command got."""
    return [flag(n) for n in names if getattr(arguments, n) not in (None, [], False)]


def flag(name: str) -> str:
    """The flag of an argument's name."""
    own = {
        "source": "--from",
        "settings": "--set",
        "runtime.num_workers": "--workers",
        "budget.reduction": "--target-reduction",
        "search.batch_size": "--search-batch-size",
        "schedule.kind": "--schedule",
    }
    return own.get(name, f"--{name.rpartition('.')[2].replace('_', '-')}")
