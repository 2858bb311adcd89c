"""Hugging Face hub: model cards and downloads.

A repository of the hub is a directory that `adacomcat.save` wrote, and a `README.md`: the card.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from adacomcat.checks import require
from adacomcat.config import leakage_note
from adacomcat.methods.summary import UNITS, Summary

HUB = "hf-hub:"
"""Prefix of hub names, as in timm."""
CARD = "README.md"
TASK = "image-classification"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Provenance of a model, as far as it is recorded.

    Attributes:
        data: name of the data set.
        accuracy: on its test split, 0 to 1.
        dense_accuracy: of the dense model, on the same images.
        leakage: what saw these images, see `DataConfig.leakage`.
        facts: anything else, name by name.
    """

    data: str | None = None
    accuracy: float | None = None
    dense_accuracy: float | None = None
    leakage: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def fetch(name: str, files: Sequence[str]) -> Path:
    """Download a model from the hub, or find it in the hub's cache on this machine.

    Args:
        name: `hf-hub:USER/REPOSITORY`, or `hf-hub:USER/REPOSITORY@REVISION`.
        files: names of those to download.

    Returns:
        The folder with the files.

    Raises:
        ValueError: a name that is none, or a model that cannot be had.
    """
    repository, _, revision = name.removeprefix(HUB).partition("@")
    user, _, own = repository.partition("/")
    whole = bool(user and own) and "/" not in own
    require(whole, "directory", name, f"{HUB}USER/REPOSITORY[@REVISION]")
    try:
        found = snapshot_download(repository, revision=revision or None, allow_patterns=list(files))
    except (HfHubHTTPError, OSError, ValueError) as error:
        why = str(error).strip().partition("\n")[0]
        raise ValueError(f"{name}: not to be had from the hub: {why}") from error
    return Path(found)


def model_card(
    config: Mapping[str, Any],
    costs: Mapping[str, int],
    summaries: Sequence[Summary],
    origin: Origin,
) -> str:
    """The text of `README.md`: YAML that the hub reads, and Markdown for people.

    Args:
        config: content of the model's `config.json`.
        costs: params, macs, dense_params and dense_macs.
        summaries: of the model, as `adacomcat.methods.specs.summaries` gives them.
        origin: how the model came to be.
    """
    name = f"{config['architecture']}-adacomcat"
    changed = {summary.tag: summary.changed for summary in summaries if summary.changed}
    data = ModelCardData(
        library_name="adacomcat",
        pipeline_tag=TASK,
        tags=["adacomcat", "timm", "vision-transformer", *changed, "model-compression"],
        model_name=name,
        eval_results=_results(origin),
    )
    note = leakage_note(origin.leakage)
    what = " and ".join(changed.values()) or "not compressed"
    parts = [
        f"# {name}",
        f"`{config['architecture']}` of timm, saved by AdaComCAT, {what}. It is a plain "
        "`nn.Module` with timm's interface.",
        *([f"**{note}.**"] if note else []),
        _usage(config),
        _cost(costs, origin),
        _plan(summaries),
        _images(config, origin),
        _provenance(config, origin),
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def _results(origin: Origin) -> list[EvalResult] | None:
    """The accuracy in the form of the hub's tables; leakage is part of its name."""
    if origin.accuracy is None or origin.data is None:
        return None
    note = leakage_note(origin.leakage)
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=origin.data,
            dataset_name=origin.data,
            dataset_split="test",
            metric_type="accuracy",
            metric_name=f"accuracy ({note})" if note else "accuracy",
            metric_value=origin.accuracy,
        )
    ]


def _usage(config: Mapping[str, Any]) -> str:
    channels, height, width = config["pretrained_cfg"]["input_size"]
    return f"""\
## Use

```python
import adacomcat
import torch

model = adacomcat.load("{HUB}USER/REPOSITORY")  # or the folder with these files
logits = model(torch.zeros(1, {channels}, {height}, {width}))  # (1, {config["num_classes"]})
```

`timm.data.resolve_model_data_config(model)` says how images get in; `forward_features`,
`forward_head`, `forward_intermediates` and `reset_classifier` are timm's. Reading the files runs no
code of theirs."""


def _cost(costs: Mapping[str, Any], origin: Origin) -> str:
    rows = [("", "this model", "dense", "change")]
    for name, unit in (("parameters", "params"), ("multiply-accumulates an image", "macs")):
        cost, dense = costs[unit], costs[f"dense_{unit}"]
        rows.append((name, f"{cost:,}", f"{dense:,}", f"{cost / dense - 1:+.1%}"))
    found, before = origin.accuracy, origin.dense_accuracy
    if found is not None:
        known = ("", "")
        if before is not None:
            known = (f"{before:.2%}", f"{100 * (found - before):+.2f} points")
        rows.append(("accuracy, test split", f"{found:.2%}", *known))
    unknown = "\n\nIts accuracy is not on record." if found is None else ""
    return f"## Cost and accuracy\n\n{_table(rows)}{unknown}"


def _plan(summaries: Sequence[Summary]) -> str:
    parts = ["## Plan", "`plan.json` has the same."]
    for summary in summaries:
        unit = summary.units[0]
        rows: list[Sequence[str]] = [(*summary.columns, UNITS[unit], "dense")]
        for row in summary.rows:
            rows.append((*summary.cells(row), f"{row[unit]:,}", f"{row[f'dense_{unit}']:,}"))
        parts += [summary.note] if summary.note else []
        parts.append(_table(rows))
    return "\n\n".join(parts)


def _images(config: Mapping[str, Any], origin: Origin) -> str:
    known = config["pretrained_cfg"]
    rows: list[tuple[str, ...]] = [("", "")]
    rows += [("data set", origin.data)] if origin.data is not None else []
    rows += [("classes", str(config["num_classes"]))]
    keys = ("input_size", "mean", "std", "crop_pct", "interpolation")
    rows += [(key, f"`{known[key]}`") for key in keys if key in known]
    if origin.data is not None:
        rows.append(("images of the test split were seen by", ", ".join(origin.leakage) or "none"))
    return f"## Data\n\n{_table(rows)}"


def _provenance(config: Mapping[str, Any], origin: Origin) -> str:
    own = config["adacomcat"]
    facts = {**origin.facts, "SHA-256 of the weights": own["weights_sha256"]}
    rows = [("", ""), *((name, f"`{value}`") for name, value in facts.items())]
    return f"## Provenance\n\n{_table(rows)}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown, the first row being the head."""
    head, *body = rows
    lines = (head, ["---"] * len(head), *body)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
