"""Another study from the trials of one: what its settings leave unchanged is not run again."""

import shlex
import shutil
import sys
from pathlib import Path

from adacomcat.checks import require
from adacomcat.files import atomic_write_json
from study.spec.changes import changed
from study.spec.expand import arm_specs, expand, suggested_arm
from study.spec.exploration import Exploration
from study.spec.schema import Experiment, TrialSpec
from study.store import Results, Rows, load, read_rows

STAGE = ".fork"
"""Folder of the new study in which copies are made; they are renamed when they are whole."""


def fork(old: Results, experiment: Experiment, new: Results) -> Experiment:
    """Begin a study with the finished trials of another one that are trials of this one too.

    A trial is the same when its id is, which is the hash of its settings. The first points of an
    exploration are the suggestions that were taken over, so that Optuna is told of them at once;
    where there is none, those of the old front, which are run again under the new settings.

    Args:
        old: where the trials are; it is only read.
        experiment: the new study, `load(old)` with other settings.
        new: where it goes.

    Returns:
        The experiment with its first points; `new` has begun with it.

    Raises:
        ValueError: a place for the new study that is not empty or that is within the old one,
            settings of which no trial can be built, or files that do not read.
        OSError: a copy could not be written.
    """
    # Not at the top: the command line imports this module, and answers at once.
    from study.execution.body import check_buildable

    _check_place(old.root, new.root)
    specs = expand(experiment)
    check_buildable(list({spec.arm: spec.trial_config() for spec in specs}.values()))
    if experiment.exploration is not None:
        experiment, suggested = _with_first_points(old, experiment, experiment.exploration)
        specs += suggested
    finished = [s for s in specs if old.status(s.trial_id) == "finished"]
    new.begin(experiment, command=shlex.join(sys.argv), provenance={}, forked_from=str(old.root))
    lacking = {spec.arm for spec in specs if old.status(spec.trial_id) != "finished"}
    _copy_verdicts({spec.arm for spec in finished} - lacking, old, new)
    for spec in finished:
        _take_over(spec.trial_id, old, new)
    shutil.rmtree(new.root / STAGE, ignore_errors=True)
    return experiment


def _with_first_points(
    old: Results, experiment: Experiment, exploration: Exploration
) -> tuple[Experiment, list[TrialSpec]]:
    """The experiment with its first points, and the suggested trials that are taken over."""
    from study.explore.export import arm_rows
    from study.explore.optuna_study import journal

    if not journal(old).is_file():  # It was begun, and no more.
        return experiment, []
    taken, front, specs = [], [], []
    for row in arm_rows(load(old), old):
        if row.reference:
            continue
        params = dict(row.trial.params)
        own = arm_specs(experiment, suggested_arm(experiment, params))
        if all(old.status(spec.trial_id) == "finished" for spec in own):
            taken.append(params)
            specs += own
        if row.on_front:
            front.append(params)
    exploration = changed(exploration, first=tuple(taken or front))
    return experiment.model_copy(update={"exploration": exploration}), specs


def _copy_verdicts(arms: set[str], old: Results, new: Results) -> None:
    """Let the new judge know what the old one said of arms that are there already.

    They are not run again, so they must not be stopped either.
    """
    verdicts = [row for row in read_rows(old.rungs_file) if row["arm"] in arms]
    if verdicts:
        rows = Rows(new.rungs_file)
        for row in verdicts:
            rows.append(row)
        rows.sync()
        rows.close()


def _take_over(trial_id: str, old: Results, new: Results) -> None:
    """Copy the folder of a trial; a kill leaves it whole or absent."""
    stage = new.root / STAGE / trial_id
    # Hidden files are locks and what a kill left of others.
    shutil.copytree(old.folder(trial_id), stage, ignore=shutil.ignore_patterns(".*"))
    record = old.trial(trial_id)
    assert record is not None
    record["provenance"] = {**(record["provenance"] or {}), "forked_from": str(old.root)}
    atomic_write_json(stage / "trial.json", record)
    new.folder(trial_id).parent.mkdir(exist_ok=True)
    stage.rename(new.folder(trial_id))


def _check_place(old: Path, new: Path) -> None:
    within = new.resolve().is_relative_to(old.resolve())
    require(not within, "--fork", str(new), f"a folder outside {old}, whose trials it starts from")
    empty = not new.exists() or (new.is_dir() and not any(new.iterdir()))
    require(empty, "--fork", str(new), "a new folder, or an empty one")
