"""Tables of an exploration in its results directory: arms, front, importances.

    RESULTS/arms.csv          one row an arm that was started
    RESULTS/front.csv         of these the finished ones that no other dominates, the best first
    RESULTS/importance.json   objective -> parameter -> share

Objectives are means over the seeds, from the store; Optuna gives the parameters.
"""

import csv
import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adacomcat.files import atomic_write_bytes, atomic_write_json
from study.explore.outcome import ArmOutcome, on_front, read_outcome
from study.spec.exploration import Exploration
from study.spec.objectives import losses
from study.spec.schema import Arm, Experiment
from study.store import Results

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

TARGET = 0.25
"""Share of the arms, the best in an objective, that an importance compares with all of them."""

AT_LEAST = 9
"""Arms that an importance needs: with fewer there would be two good ones."""


@dataclass(frozen=True)
class ArmRow:
    """An arm, its first Optuna trial, and its outcome in the store.

    Attributes:
        arm, trial, outcome: as said.
        seeds: how many trials it has.
        leakage: what sees the images that it is reported on.
        reference: whether it is one of the experiment's own arms.
        on_front: whether it is finished and no finished arm dominates it.
    """

    arm: Arm
    trial: "FrozenTrial"
    outcome: ArmOutcome
    seeds: int
    leakage: tuple[str, ...]
    reference: bool
    on_front: bool


def export(experiment: Experiment, results: Results) -> None:
    """Write the tables of an exploration; an experiment without one has none.

    Raises:
        ValueError: the directory has no storage of this study.
    """
    exploration = experiment.exploration
    if exploration is None:
        return
    rows = arm_rows(experiment, results)
    _write_csv(results.root / "arms.csv", rows, exploration)
    front = [row for row in rows if row.on_front]
    front.sort(key=lambda row: losses(row.outcome.values or (), exploration.objectives))
    _write_csv(results.root / "front.csv", front, exploration)
    atomic_write_json(results.root / "importance.json", importance(rows, exploration))


def arm_rows(experiment: Experiment, results: Results) -> list[ArmRow]:
    """The arms that were started, in order.

    Raises:
        ValueError: the directory has no storage of this study.
    """
    # Not at the top: a grid has nothing to export, and needs no Optuna.
    from study.explore.optuna_study import exploration_of, explored_arms, read_study
    from study.spec.expand import arm_specs

    exploration = exploration_of(experiment)
    references = {arm.name for arm in experiment.arms}
    found = []
    for arm, trial in explored_arms(experiment, read_study(experiment, results)):
        specs = arm_specs(experiment, arm)
        ids = [spec.trial_id for spec in specs]
        # An arm that was stopped does not get the seeds of an extension.
        begun = [trial_id for trial_id in ids if results.trial(trial_id) is not None]
        outcome = read_outcome(begun, exploration, results)
        records = [results.trial(trial_id) or {} for trial_id in begun]
        uses = (use for record in records for use in record["leakage"])
        leakage = tuple(dict.fromkeys((*specs[0].leakage, *uses)))
        found.append((arm, trial, outcome, len(begun), leakage))
    front = on_front([outcome.values for _, _, outcome, _, _ in found], exploration.objectives)
    return [
        ArmRow(*entries, reference=entries[0].name in references, on_front=flag)
        for entries, flag in zip(found, front, strict=True)
    ]


def importance(rows: Sequence[ArmRow], exploration: Exploration) -> dict[str, Any]:
    """Importance of each parameter for an arm to be among the best in an objective.

    By PED-ANOVA (Watanabe et al., arXiv 2304.10255), in Optuna's version for conditional parameters
    (arXiv 2601.20800): fANOVA would leave out every parameter that some arm lacks. It sees the
    finished arms that have parameters; the stopped ones have no values.

    Returns:
        `evaluator`; `arms`, how many it saw; `importance`, objective -> parameter -> share, which
        add up to 1, or None with the cause in `reasons`.
    """
    seen = [row for row in rows if row.outcome.values is not None and row.trial.params]
    shares: dict[str, dict[str, float] | None] = {}
    reasons = {}
    for index, name in enumerate(exploration.objectives):
        shares[name] = None
        if len(seen) < AT_LEAST:
            reasons[name] = f"{len(seen)} finished arms with parameters, {AT_LEAST} are needed"
            continue
        shares[name] = _shares(seen, index, exploration)
        if shares[name] is None:
            reasons[name] = "no parameter tells the best arms from the others"
    return {
        "evaluator": f"PED-ANOVA (optuna), the best {TARGET:.0%} against all",
        "arms": len(seen),
        "importance": shares,
        "reasons": reasons,
    }


def _shares(
    rows: Sequence[ArmRow], index: int, exploration: Exploration
) -> dict[str, float] | None:
    import optuna

    study = optuna.create_study()
    for row in rows:
        assert row.outcome.values is not None
        value = losses(row.outcome.values, exploration.objectives)[index]
        study.add_trial(
            optuna.trial.create_trial(
                value=value, params=row.trial.params, distributions=row.trial.distributions
            )
        )
    with warnings.catch_warnings():
        # That a parameter exists in too few arms: it gets no share then.
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TARGET)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    total = sum(found.values())
    if not math.isfinite(total) or total <= 0:
        return None
    names = [dimension.name for dimension in exploration.space if dimension.name in found]
    return {name: found[name] / total for name in sorted(names, key=lambda n: -found[n])}


def _write_csv(path: Path, rows: Sequence[ArmRow], exploration: Exploration) -> None:
    per_objective = [column for name in exploration.objectives for column in (name, f"{name}_sd")]
    params = [dimension.name for dimension in exploration.space]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["arm", "label", "reference", "status", "on_front", *per_objective, "seeds", "epochs"]
        + ["leakage", "number", *(f"params_{name}" for name in params)]
    )
    for row in rows:
        outcome = row.outcome
        count = len(exploration.objectives)
        values = outcome.values or (None,) * count
        deviations = outcome.deviations or (None,) * count
        pairs = [cell for pair in zip(values, deviations, strict=True) for cell in pair]
        writer.writerow(
            [row.arm.name, row.arm.label, row.reference, outcome.status, row.on_front, *pairs]
            + [row.seeds, outcome.epochs, " ".join(row.leakage), row.trial.number]
            + [row.trial.params.get(name) for name in params]
        )
    atomic_write_bytes(path, text.getvalue().encode())
