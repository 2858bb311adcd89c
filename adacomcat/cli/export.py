"""`export`: a finished model as a file of ONNX or torch.export, or as a folder for the hub."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from adacomcat.cli.console import Display
from adacomcat.cli.info import totals_of
from adacomcat.cli.sources import stored_model
from adacomcat.config import leakage_note
from adacomcat.io.directory import CONFIG, PLAN, read_config, read_plan
from adacomcat.io.export import Exported, export_hub, export_onnx, export_program
from adacomcat.io.hub import Origin, model_card
from adacomcat.io.run import Run
from adacomcat.methods.specs import summaries

BUDGET = ("unit", "reduction", "absolute")


def export(arguments: argparse.Namespace, display: Display) -> None:
    """Write the model of a directory in another form, and say how it compares with the model.

    Raises:
        ValueError: a directory that is damaged, foreign or not finished, an output that is there
            already, a missing package, or a result that is not the model.
    """
    output = arguments.output.absolute()
    if arguments.to == "hub":
        Run(output).refuse_used()
    exported, origin = _write(arguments, output)
    display.say(exported.describe())
    note = leakage_note(origin.leakage)
    if note:
        display.say(note, "bold red")
    display.say(f"{exported.form} written to {shlex.quote(str(output))}")
    if arguments.to == "hub":
        display.say(f"next: hf upload USER/REPOSITORY {shlex.quote(str(output))}")


def origin_of_run(run: Run) -> Origin:
    """Facts about a model from the record of its run, without local paths.

    Raises:
        ValueError: a record that is damaged.
    """
    if not run.exists:
        return Origin()
    record = run.record()
    config, summary = record["config"], record["summary"]
    provenance = record["provenance"]
    command = record.get("command") or {"name": "study"}
    # The settings of both phases are on record; a command runs one, a study both.
    phases = {"search": ["search_phase"], "finetune": ["finetune"]}
    ran = phases.get(command["name"], ["search_phase", "finetune"])
    weights = config["dense"]["weights"]
    facts = {
        "command": f"adacomcat {command['name']}",
        "started": record["started"],
        "epochs": sum(config[phase]["epochs"] for phase in ran),
        "schedule": config["schedule"],
        "searches": summary["searches"],
        "budget": {k: v for k, v in config["budget"].items() if k in BUDGET and v is not None},
        "seed": config["seed"],
        "dense weights": "trained by the recipe" if weights is None else _public(weights),
        "SHA-256 of the dense weights": config["dense"]["sha256"],
        "SHA-256 of the weights it began with": command.get("from_sha256"),
        **{f"SHA-256 of the {name} split": v for name, v in provenance["split_hashes"].items()},
        "versions": ", ".join(f"{name} {v}" for name, v in provenance["versions"].items()),
    }
    return Origin(
        data=config["data"]["name"],
        accuracy=summary["test_acc"],
        dense_accuracy=summary["dense_test_acc"],
        leakage=record["leakage"],
        facts={name: fact for name, fact in facts.items() if fact is not None},
    )


def _write(arguments: argparse.Namespace, output: Path) -> tuple[Exported, Origin]:
    source: Path = arguments.source
    model, dense = stored_model(arguments)
    config, plan = read_config(source), read_plan(source)
    origin = origin_of_run(Run(source))
    if arguments.to == "hub":
        card = model_card(config, totals_of(model, dense), summaries(model, dense), origin)
        extra: dict[str, Any] = config["adacomcat"]["extra"]
        return export_hub(model, output, card, plan=plan, extra=extra), origin
    write = export_onnx if arguments.to == "onnx" else export_program
    notes = {name: (source / name).read_text() for name in (CONFIG, PLAN)}
    return write(model, output, notes), origin


def _public(weights: str) -> str:
    """The address of weights; of a file its name alone."""
    return weights if "://" in weights else Path(weights).name
