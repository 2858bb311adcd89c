"""Refusals of a study or one of its trials before anything runs.

Every refusal is one line that names a flag or the dotted name of a setting. In this order:

- `check_flags`: flags that do not go together;
- `study.spec.configfile`, `study.spec.expand`: a file, a setting, or an arm that makes no trial;
- `check_results`: a results directory that has another study;
- `check_buildable`: settings that the data, the model, the method or the budget do not allow.

If a trial is refused later, by the traces of others or by its worker, `error` in its `trial.json`
gives the reason.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adacomcat.checks import require
from adacomcat.config import TrialConfig
from adacomcat.config.trial import identity
from adacomcat.overrides import differences
from study.record import extent, study_record
from study.spec.expand import expand
from study.spec.schema import Experiment

ACTIONS = ("experiment", "config", "resume", "status", "list")
"""Mutually exclusive flags, one of which is required."""
EARLY = ("study.yaml", "driver.lock", "trials")
"""Allowed entries of a results directory before a study begins: files of a killed driver, and
trials copied from another study."""


def check_flags(arguments: argparse.Namespace, experiments: str) -> None:
    """Refuse flags that do not go together.

    Args:
        arguments: as parsed.
        experiments: the names of the experiments, for the message.

    Raises:
        ValueError: no action or several, or a change that the action does not take.
    """
    given = [f"--{name}" for name in ACTIONS if getattr(arguments, name)]
    if not given:
        require(False, "--experiment", None, experiments)
    require(len(given) == 1, ", ".join(given), "all of them", "one of them")
    resumed = arguments.resume is not None
    widens = resumed and arguments.extend
    if resumed:
        for name in ("seeds", "samples"):
            value = getattr(arguments, name)
            require(value is None or widens, f"--{name}", value, "with --resume only to --extend")
        require(
            not arguments.settings,
            "--set",
            arguments.settings,
            "nothing with --resume; to vary a study: --config RESULTS/study.yaml --results NEW",
        )
        fixed = ("workload", "sampler", "objectives", "no_stopping", "results")
        for name in fixed:
            value = getattr(arguments, name)
            flag = f"--{name.replace('_', '-')}"
            require(not value, flag, value, "nothing with --resume: the study has it")
    if arguments.config is not None:
        require(not arguments.workload, "--workload", arguments.workload, "nothing with --config")
    for name in ("seeds", "samples"):
        value = getattr(arguments, name)
        require(value is None or value >= 1, f"--{name}", value, "1 or more")
    if widens:
        wider = (arguments.seeds, arguments.samples)
        require(any(wider), "--extend", wider, "together with --seeds N or --samples N")
    dry = arguments.dry_run or not arguments.estimate
    require(dry, "--estimate", True, "together with --dry-run")


def check_results(
    root: Path, before: Mapping[str, Any] | None, experiment: Experiment, *, extend: bool
) -> None:
    """Refuse a directory in which a study can neither begin nor continue.

    Args:
        root: the results directory.
        before: its `study.json`; None where there is none.
        experiment: what is asked.
        extend: whether seeds, samples or arms may be added.

    Raises:
        ValueError: it holds another study or files that are no study, or more is asked than
            `extend` allows.
    """
    if before is None:
        _check_empty(root)
        _check_copied(root, experiment)
        return
    now, way_out = study_record(experiment), "give another --results, or delete this one"
    for key in ("experiment", "workload"):
        allowed = f"{before[key]!r}, which {root} holds; {way_out}"
        require(now[key] == before[key], f"--{key}", now[key], allowed)
    changed = changes(before, now)
    if changed:
        raise ValueError(refusal(f"--results: {root} holds", way_out, changed))
    refuse_growth(before, now, root, extend)


def _check_empty(root: Path) -> None:
    is_file = root.exists() and not root.is_dir()
    require(not is_file, "--results", str(root), "a directory; this is a file")
    there = sorted(path.name for path in root.iterdir()) if root.exists() else []
    strangers = [name for name in there if name not in EARLY and not name.startswith(".")]
    allowed = f"a study's folder, or an empty one; it has {', '.join(strangers[:3])}"
    require(not strangers, "--results", str(root), allowed)


def _check_copied(root: Path, experiment: Experiment) -> None:
    """Refuse trials, copied from another study, that a grid does not have."""
    there = sorted(path.name for path in (root / "trials").glob("*"))
    if there and experiment.exploration is None:
        own = {spec.trial_id for spec in expand(experiment)}
        others = [name for name in there if name not in own]
        allowed = f"trials of {experiment.name} with these settings; delete these"
        require(not others, "--results", ", ".join(others[:3]), allowed)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences between two records of studies, except for additions."""

    def content(study: Mapping[str, Any]) -> dict[str, Any]:
        arms = {
            arm["name"]: {"needs": arm["needs"], **identity(arm["config"])} for arm in study["arms"]
        }
        exploration = study.get("exploration")  # Schema 1 had none.
        if exploration is not None:
            exploration = {k: v for k, v in exploration.items() if k != "samples"}
        names = {key: study[key] for key in ("experiment", "workload")}
        return {**names, "arms": arms, "exploration": exploration}

    there, asked = content(before), content(now)
    asked["arms"] = {name: arm for name, arm in asked["arms"].items() if name in there["arms"]}
    return differences(there, asked)


def refuse_growth(
    before: Mapping[str, Any], now: Mapping[str, Any], root: Path, extend: bool
) -> None:
    """Refuse additions that need `--extend`, and changes that are never possible.

    Raises:
        ValueError: more arms, seeds or samples without `extend`; fewer seeds or other references of
            an exploration, whatever it is told.
    """
    there, asked = extent(before), extent(now)
    if now["exploration"] is not None:
        allowed = f"{there['arms']}, by which {root} compares the others"
        require(asked["arms"] == there["arms"], "arms", asked["arms"], allowed)
        allowed = f"{there['seeds']}, over which {root} takes means, or more of them"
        require(set(asked["seeds"]) >= set(there["seeds"]), "seeds", asked["seeds"], allowed)
    for key, value in asked.items():
        more = value > there[key] if key == "samples" else not set(value) <= set(there[key])
        allowed = f"{there[key]}, as in {root}; to add some: --resume {root} --extend"
        require(extend or not more, key, value, allowed)


def refusal(problem: str, way_out: str, changed: list[str]) -> str:
    """The message about a study whose settings changed."""
    shown = "\n  ".join(changed[:5])
    more = f"\n  and {len(changed) - 5} more" if len(changed) > 5 else ""
    return f"{problem} a study with other settings; {way_out}. There -> asked:\n  {shown}{more}"


def check_buildable(configs: Sequence[TrialConfig]) -> None:
    """Build every trial on an untrained model, so that a bad setting is refused before any starts.

    Raises:
        ValueError: a setting that the data, the model, the method or the budget does not allow.
    """
    # Not at the top: `analysis` imports this module, and needs no torch.
    from study.execution.body import untrained

    for config in configs:
        untrained(config)
