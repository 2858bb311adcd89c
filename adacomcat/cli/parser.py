"""The flags of `python -m adacomcat`, and which of them go together."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from adacomcat.checks import require
from adacomcat.recipes import recipes

PRESETS = ("upstream",)
SPLITS = ("test", "val")
EXPORTS = {"onnx": ".onnx", "torch-export": ".pt2", "hub": ""}
"""What `export` writes -> the end of its name; a folder has none."""
METHODS = ("lowrank", "diffrate", "lowrank+diffrate")
PUBLISHED = ("diffrate",)
"""Methods of which plans are published."""
DTYPES = ("float32", "bfloat16")
Add = Callable[..., argparse.Action]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m adacomcat",
        description="Compress one vision transformer, look at it, and convert it.",
        epilog="On several GPUs: torchrun --nproc-per-node N -m adacomcat search ...",
    )
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _search(commands.add_parser("search", help="search ranks or token counts of a model"))
    _finetune(commands.add_parser("finetune", help="train what a search has left"))
    _eval(commands.add_parser("eval", help="accuracy of a compressed or a dense model"))
    _info(commands.add_parser("info", help="ranks, tokens, parameters and MACs, part by part"))
    _convert(commands.add_parser("convert", help="from and to the reference's checkpoints"))
    _latency(commands.add_parser("latency", help="measure what a latency budget counts"))
    _export(commands.add_parser("export", help="to ONNX, torch.export or the Hugging Face hub"))
    _trace(commands.add_parser("trace", help="which patches of an image each token stands for"))
    return made


def _search(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Search the ranks of a model while it trains, or how many tokens its blocks keep. Without "
        "--workload the data is a folder with train/ and val/, and the recipe DeiT's."
    )
    _what(command.add_argument_group("what to compress").add_argument, preset=True)
    how = command.add_argument_group("how").add_argument
    method = "what is searched: ranks (lowrank, default), tokens kept (diffrate), or both"
    how("--method", choices=METHODS, help=method)
    how("--target-reduction", metavar="X", type=float, help="share of the dense cost to remove")
    gmacs = "billions of multiply-accumulates that the model may have, in place of a reduction"
    how("--target-gmacs", metavar="X", type=float, help=gmacs)
    table = "a file of `latency`: the budget is then in time, on the device measured there"
    how("--latency-table", metavar="FILE", type=Path, help=table)
    how("--schedule", metavar="KIND", help="when to search: adaptive, fixed, once, never, ...")
    how("--search-batch-size", metavar="N", type=int, help="images of one step of a search")
    _recipe(how)
    _where(command.add_argument_group("where").add_argument, "search")


def _finetune(command: argparse.ArgumentParser) -> None:
    command.description = "Train a compressed model further; its ranks and token counts stay."
    what = command.add_argument_group("what to train").add_argument
    source = "what `search` has left, or a model of `convert` (then with --data and --weights)"
    what("--from", metavar="DIR", type=Path, dest="source", help=source)
    _data(what)
    weights = "of the dense model that teaches; the one of the search if left out"
    what("--weights", metavar="F", help=weights)
    _recipe(command.add_argument_group("how").add_argument)
    _where(command.add_argument_group("where").add_argument, "finetune")


def _eval(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Accuracy on the test images (of a folder: val/), or on those that selection uses."
    )
    what = command.add_argument_group("which model: --from, --comcat-dir, or neither").add_argument
    _stored(what)
    _what(what, preset=False)
    _published(what)
    how = command.add_argument_group("how").add_argument
    how("--split", choices=SPLITS, default="test", help="which images (default: test)")
    how("--batch-size", metavar="N", type=int, default=256, help="images at once (default: 256)")
    _set(how)
    _machine(how)
    how("--json", action="store_true", help="print JSON")


def _info(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Ranks of a model, site by site, tokens that its blocks keep, and what all of it costs."
    )
    title = "of what: --from, --comcat-dir, --ranks or --published-rate"
    what = command.add_argument_group(title).add_argument
    _stored(what)
    what("--model", metavar="M", help="timm's name of the dense model")
    what("--ranks", metavar="F", type=Path, help="a ranks.txt: 4 numbers a block, then the head's")
    biases = "of attention, with --ranks: folded into the factors, or dropped as published"
    what("--biases", choices=("exact", "drop"), help=biases)
    _published(what)
    _set(what)
    what("--json", action="store_true", help="print JSON")


def _convert(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Make a model directory of the reference's checkpoint.pth and ranks.txt, or these of it."
    )
    _stored(command.add_argument)
    command.add_argument("--model", metavar="M", help="timm's name of the dense model")
    to = "what to write (default: adacomcat)"
    command.add_argument("--to", choices=("adacomcat", "comcat"), default="adacomcat", help=to)
    _set(command.add_argument)
    output = "a new directory"
    command.add_argument("--output", metavar="DIR", type=Path, required=True, help=output)


def _latency(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Measure a dense model, and the modules of one block at every rank of the space, on the "
        "device that the compressed model is for. `search --latency-table FILE` takes what it left."
    )
    what = command.add_argument_group("of what").add_argument
    what("--model", metavar="M", required=True, help="timm's name of the dense model")
    _set(what)
    how = command.add_argument_group("how").add_argument
    how("--device", metavar="X", help="cpu or cuda (default: cuda where there is one)")
    how("--batch-size", metavar="N", type=int, default=8, help="images of a call (default: 8)")
    how("--dtype", choices=DTYPES, default=DTYPES[0], help=f"(default: {DTYPES[0]})")
    how("--threads", metavar="T", type=int, help="of PyTorch on a CPU (default: as it finds best)")
    how("--repeats", metavar="N", type=int, default=20, help="rounds (default: 20)")
    how("--output", metavar="FILE", type=Path, required=True, help="a new file")


def _export(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Write a finished model in a form that runs elsewhere, run that form, and print how far "
        "its logits are from the model's. The number of images in a batch stays free."
    )
    source = "what `search`, `finetune`, `convert` or adacomcat.save has left"
    add = command.add_argument
    add("--from", metavar="DIR", type=Path, dest="source", required=True, help=source)
    add("--to", choices=EXPORTS, required=True, help="what to write")
    output = "a new file (.onnx or .pt2), or for the hub a new directory"
    add("--output", metavar="DIR_OR_FILE", type=Path, required=True, help=output)


def _trace(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Run images through a model that drops tokens, and write what became of their patches, "
        "block by block; `python analysis/fig_token_sources.py FOLDER` draws it."
    )
    add = command.add_argument
    source = "what `search`, `finetune` or adacomcat.save has left"
    add("--from", metavar="DIR", type=Path, dest="source", required=True, help=source)
    images = "pictures, one row of the figure each"
    add("--image", metavar="F", type=Path, nargs="+", required=True, help=images)
    output = "a new file; FOLDER/tokens.npz is what the figure looks for"
    add("--output", metavar="FILE", type=Path, required=True, help=output)


def _what(add: Add, *, preset: bool) -> None:
    add("--model", metavar="M", help="timm's name of the dense model")
    weights = "of the dense model: a file, a URL (with --set dense.sha256=...), or timm"
    add("--weights", metavar="F", help=weights)
    _data(add)
    if preset:
        text = "upstream: search as the method's reference does (of ranks: on the test images)"
        add("--preset", choices=PRESETS, help=text)


def _data(add: Add) -> None:
    add("--data", metavar="D", help="folder with train/ and val/, or that of the workload's data")
    names = ", ".join(recipe.name for recipe in recipes())
    add("--workload", metavar="NAME", help=f"data, model and recipe by name: {names}")


def _stored(add: Add) -> None:
    add("--from", metavar="DIR", type=Path, dest="source", help="what this command line has left")
    folder = "the reference's folder with checkpoint.pth and ranks.txt (with --model)"
    add("--comcat-dir", metavar="DIR", type=Path, help=folder)


def _published(add: Add) -> None:
    rate = "billions of MACs: the model (--model) with the tokens that are published for it"
    add("--published-rate", metavar="X", type=float, help=rate)
    add("--method", choices=PUBLISHED, help="whose rates, with --published-rate")


def _recipe(add: Add) -> None:
    add("--epochs", metavar="N", type=int, help="of this phase")
    add("--batch-size", metavar="N", type=int, help="images of one step, over all workers")
    add("--seed", metavar="N", type=int, help="of all that is random (default: 0)")
    _set(add)


def _set(add: Add) -> None:
    text = "any other setting, for instance search_phase.lr=1e-4; may be repeated"
    add("--set", metavar="A.B=C", action="append", default=[], dest="settings", help=text)


def _where(add: Add, command: str) -> None:
    add("--output", metavar="DIR", type=Path, help="a new directory for all that is left")
    add("--resume", metavar="DIR", type=Path, help=f"go on with the {command} in this directory")
    _machine(add)


def _machine(add: Add) -> None:
    add("--device", metavar="X", help="cpu or cuda (default: cuda where there is one)")
    add("--workers", metavar="N", type=int, help="processes that load images")


def check(arguments: argparse.Namespace) -> None:
    """Refuse flags that do not go together.

    Raises:
        ValueError: names the flag, what it got and what it goes with.
    """
    checks = {
        "search": _check_training,
        "finetune": _check_training,
        "eval": _check_eval,
        "info": _check_info,
        "convert": _check_convert,
        "latency": _check_latency,
        "export": _check_export,
        "trace": _check_trace,
    }
    checks[arguments.command](arguments)


def _check_training(arguments: argparse.Namespace) -> None:
    output, resumed = arguments.output, arguments.resume
    if resumed is not None:
        free = ("command", "resume", "device")
        given = [flag for flag in _given(arguments, vars(arguments)) if flag[2:] not in free]
        allowed = "nothing beside --resume but --device: the rest is stored"
        require(not given, ", ".join(given), "given", allowed)
        return
    require(output is not None, "--output", None, "a new directory (or --resume DIR)")
    if arguments.command == "finetune":
        require(arguments.source is not None, "--from", None, "the directory of a search")
        return
    _check_data(arguments)
    targets = _given(arguments, ("target_gmacs", "target_reduction", "latency_table"))
    alone = len(targets) < 2 or "--target-gmacs" not in targets
    allowed = "--target-gmacs alone: it is the whole budget"
    require(alone, " / ".join(targets), "given", allowed)
    gmacs = arguments.target_gmacs
    require(gmacs is None or gmacs > 0, "--target-gmacs", gmacs, "above 0")


def _check_eval(arguments: argparse.Namespace) -> None:
    if _of_published(arguments):
        given = _given(arguments, ("source", "comcat_dir"))
        require(not given, " / ".join(given), "given", "nothing with --published-rate")
    elif arguments.workload is None or arguments.weights is not None:
        _one_of(arguments, "source", "comcat_dir", "weights")
    if arguments.source is not None:
        require(arguments.model is None, "--model", arguments.model, "nothing with --from")
    else:
        _check_data(arguments)


def _check_info(arguments: argparse.Namespace) -> None:
    _one_of(arguments, "source", "comcat_dir", "ranks", "published_rate")
    _of_published(arguments)
    _check_model(arguments)
    with_ranks = arguments.ranks is not None
    require(not with_ranks or arguments.biases is not None, "--biases", None, "exact, drop")
    alone = with_ranks or arguments.biases is None
    require(alone, "--biases", arguments.biases, "only with --ranks: the weights tell")


def _check_convert(arguments: argparse.Namespace) -> None:
    _one_of(arguments, "source", "comcat_dir")
    _check_model(arguments)
    foreign = arguments.comcat_dir is not None
    allowed = "adacomcat with --comcat-dir, comcat with --from"
    require((arguments.to == "adacomcat") == foreign, "--to", arguments.to, allowed)


def _check_latency(arguments: argparse.Namespace) -> None:
    for name in ("batch_size", "threads", "repeats"):
        number = getattr(arguments, name)
        require(number is None or number > 0, _flag(name), number, "1 or more")
    require(not arguments.output.exists(), "--output", str(arguments.output), "a new file")


def _check_export(arguments: argparse.Namespace) -> None:
    end = EXPORTS[arguments.to]
    if end:
        allowed = f"a file with a name that ends in {end}"
        require(arguments.output.suffix == end, "--output", str(arguments.output), allowed)


def _check_trace(arguments: argparse.Namespace) -> None:
    output = arguments.output
    require(output.suffix == ".npz", "--output", str(output), "a name that ends in .npz")
    require(not output.exists(), "--output", str(output), "a new file")


def _check_model(arguments: argparse.Namespace) -> None:
    if arguments.source is not None:
        require(arguments.model is None, "--model", arguments.model, "nothing with --from")
        require(not arguments.settings, "--set", arguments.settings, "nothing with --from")
    else:
        require(arguments.model is not None, "--model", None, "timm's name of the dense model")


def _check_data(arguments: argparse.Namespace) -> None:
    """A folder needs a model's name; a workload has one."""
    if arguments.workload is None:
        require(arguments.model is not None, "--model", None, "timm's name (or --workload NAME)")
        require(arguments.data is not None, "--data", None, "a folder (or --workload NAME)")


def _of_published(arguments: argparse.Namespace) -> bool:
    """Whether the model has published rates; that takes two flags."""
    given = _given(arguments, ("method", "published_rate"))
    require(len(given) != 1, "--method / --published-rate", given, "both of them, or none")
    return bool(given)


def _one_of(arguments: argparse.Namespace, *names: str) -> None:
    flags = [_flag(name) for name in names]
    given = _given(arguments, names)
    require(len(given) == 1, " / ".join(flags), given or None, "exactly one of them")


def _given(arguments: argparse.Namespace, names: Iterable[str]) -> Sequence[str]:
    return [_flag(n) for n in names if getattr(arguments, n) not in (None, [], False)]


def _flag(name: str) -> str:
    return {"source": "--from", "settings": "--set"}.get(name, f"--{name.replace('_', '-')}")
