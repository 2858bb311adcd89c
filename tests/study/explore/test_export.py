import csv
import json
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from adacomcat.io.run import Status
from adacomcat.io.trace import EPOCHS
from study.explore.export import AT_LEAST, arm_rows, export
from study.explore.optuna_study import open_study, read_study
from study.spec.exploration import Dimension
from study.spec.schema import Experiment, TrialSpec
from study.store import Results

Make = Callable[..., Experiment]
Drive = Callable[[Experiment], Any]


def read(results: Results, name: str) -> list[dict[str, str]]:
    with (results.root / name).open(newline="") as file:
        return list(csv.DictReader(file))


def by_growth(spec: TrialSpec) -> Status:
    growth = spec.config["schedule"]["growth"]
    return "stopped" if growth < 1.5 else "failed" if growth > 3.5 else "finished"


def test_a_row_an_arm_from_the_store(exploration: Make, results: Results, drive: Drive) -> None:
    experiment = exploration(samples=8, start=8)
    drive(experiment).run(by_growth)
    export(experiment, results)
    rows = read(results, "arms.csv")
    assert [row["arm"] for row in rows][:2] == ["usual", "once"]
    assert len(rows) == len({row["arm"] for row in rows}) == 2 + 8
    assert [row["reference"] for row in rows] == ["True"] * 2 + ["False"] * 8
    assert [int(row["number"]) for row in rows] == list(range(10))
    assert {row["status"] for row in rows} == {"finished", "stopped", "failed"}
    for row in rows:
        traces = [
            results.epochs(record["trial_id"])
            for record in results.trials()
            if record["arm"] == row["arm"]
        ]
        assert int(row["seeds"]) == len(traces) == 2
        assert int(row["epochs"]) == sum(map(len, traces))
        for name in ("val_acc", "searches"):
            if row["status"] == "finished":
                last = [trace[-1][name] for trace in traces]
                assert float(row[name]) == pytest.approx(statistics.mean(last))
                assert float(row[f"{name}_sd"]) == pytest.approx(statistics.stdev(last))
            else:
                assert row[name] == row[f"{name}_sd"] == ""
    once = rows[1]
    assert (once["params_growth"], once["params_capped"], once["params_cap"]) == ("", "", "")
    assert all((row["params_cap"] != "") == (row["params_capped"] == "True") for row in rows)


@pytest.mark.parametrize("objectives", [("val_acc",), ("val_acc", "searches")])
def test_the_front_is_what_optuna_and_brute_force_say(
    exploration: Make, results: Results, drive: Drive, objectives: tuple[str, ...]
) -> None:
    experiment = exploration(samples=12, start=12, objectives=objectives)
    drive(experiment).run(by_growth)
    export(experiment, results)
    front = read(results, "front.csv")
    best = {t.user_attrs["arm"] for t in read_study(experiment, results).best_trials}
    assert {row["arm"] for row in front} == best
    assert best == {row["arm"] for row in read(results, "arms.csv") if row["on_front"] == "True"}
    signs = {"val_acc": -1.0, "searches": 1.0}
    finished = {
        row["arm"]: [signs[name] * float(row[name]) for name in objectives]
        for row in read(results, "arms.csv")
        if row["status"] == "finished"
    }
    undominated = {
        arm
        for arm, mine in finished.items()
        if not any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine
            for other in finished.values()
        )
    }
    assert undominated == best
    accuracies = [float(row["val_acc"]) for row in front]
    assert accuracies == sorted(accuracies, reverse=True)


def test_equal_arms_are_on_the_front_together(
    exploration: Make, results: Results, drive: Drive
) -> None:
    experiment = exploration(samples=1)
    driver = drive(experiment)
    while (specs := driver.ask()) is not None:
        for spec in specs:
            path = results.folder(spec.trial_id) / EPOCHS
            path.write_text('{"val_acc": 0.5, "searches": 3}\n')
            results.update(spec.trial_id, "finished")
        driver.search.on_trial_complete(f"tune-{len(driver.arms) - 1}")
    assert [row.on_front for row in arm_rows(experiment, results)] == [True] * 3


def test_before_anything_ran_the_tables_are_empty(exploration: Make, results: Results) -> None:
    open_study(exploration(), results)
    export(exploration(), results)
    assert read(results, "arms.csv") == read(results, "front.csv") == []
    header = (results.root / "arms.csv").read_text()
    assert header.startswith("arm,label,reference,status,on_front,val_acc,val_acc_sd,searches,")
    found = json.loads((results.root / "importance.json").read_text())
    assert found["arms"] == 0
    assert found["importance"] == {"val_acc": None, "searches": None}
    assert found["reasons"]["val_acc"] == f"0 finished arms with parameters, {AT_LEAST} are needed"


def test_an_experiment_without_exploration_has_none(
    tiny_experiment: Experiment, results: Results
) -> None:
    export(tiny_experiment, results)
    assert not results.root.exists()


def test_seeds_of_an_extension_count_once_they_ran(
    exploration: Make, results: Results, drive: Drive
) -> None:
    drive(exploration(samples=8, start=8)).run(by_growth)
    wider = exploration(samples=8, start=8, seeds=(0, 1, 2))
    export(wider, results)
    assert {row["seeds"] for row in read(results, "arms.csv")} == {"2"}
    drive(wider).run()
    export(wider, results)
    rows = read(results, "arms.csv")
    assert {(row["status"] == "finished", row["seeds"]) for row in rows} == {
        (True, "3"),
        (False, "2"),
    }
    # The store has the third seed; Optuna keeps what it was told first.
    usual = read_study(wider, results).trials[0]
    assert float(rows[0]["val_acc"]) == pytest.approx(usual.values[0] + 0.005)


def importances(exploration: Make, results: Results, drive: Drive, samples: int) -> dict[str, Any]:
    """Accuracy follows from `growth`; `searches` are always the same; `warmup` does nothing."""
    space = (
        Dimension(name="growth", setting="schedule.growth", kind="float", low=1.0, high=4.0),
        Dimension(name="warmup", setting="schedule.warmup", kind="int", low=1, high=9),
        Dimension(name="capped", kind="choice", choices=(False, True)),
        Dimension(
            name="cap",
            setting="schedule.max_interval",
            kind="int",
            low=2,
            high=9,
            when={"capped": True},
        ),
    )
    experiment = exploration(space=space, points={}, samples=samples, start=samples)
    driver = drive(experiment)
    while (specs := driver.ask()) is not None:
        for spec in specs:
            growth = spec.config["schedule"].get("growth", 2.0)
            path = results.folder(spec.trial_id) / EPOCHS
            path.write_text(f'{{"val_acc": {growth / 5}, "searches": 3}}\n')
            results.update(spec.trial_id, "finished")
        driver.search.on_trial_complete(f"tune-{len(driver.arms) - 1}")
    export(experiment, results)
    found: dict[str, Any] = json.loads((results.root / "importance.json").read_text())
    return found


def test_the_parameter_that_decides_gets_the_largest_share(
    exploration: Make, results: Results, drive: Drive
) -> None:
    found = importances(exploration, results, drive, 32)
    assert found["arms"] == 32
    shares = found["importance"]["val_acc"]
    # The conditional one too, which fANOVA would leave out.
    assert set(shares) == {"growth", "warmup", "capped", "cap"}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["growth"] > 0.5
    assert next(iter(shares)) == "growth"
    assert found["importance"]["searches"] is None
    assert "no parameter" in found["reasons"]["searches"]


@pytest.mark.parametrize("samples", [AT_LEAST - 1, AT_LEAST])
def test_few_arms_have_no_importance(
    exploration: Make, results: Results, drive: Drive, samples: int
) -> None:
    found = importances(exploration, results, drive, samples)
    enough = samples >= AT_LEAST
    assert found["arms"] == samples
    assert (found["importance"]["val_acc"] is not None) == enough
    assert ("val_acc" in found["reasons"]) != enough
