"""The published run as a study, against numbers read off its log by hand."""

from pathlib import Path
from typing import Any

import pytest

from adacomcat.config import leakage_note
from adacomcat.plan import Plan
from experiments.published import WORKLOAD, experiment
from experiments.workloads import workloads
from study.execution.session import Session
from study.run import main
from study.spec.catalog import load_experiment
from study.spec.configfile import write_config
from study.spec.expand import expand
from study.store import Results, load

WORKLOADS = {workload.name: workload for workload in workloads()}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("published")
    assert main(["--experiment", "published", "--results", str(root), "--quiet"]) == 0
    return Results(root)


def only(results: Results) -> dict[str, Any]:
    (record,) = results.trials()
    return record


def test_the_settings_are_the_published_ones() -> None:
    (spec,) = expand(experiment(WORKLOADS[WORKLOAD]))
    config = spec.trial_config()
    assert (config.search_phase.epochs, config.finetune.epochs) == (30, 0)
    assert config.search_phase.batch_size == 512
    assert config.budget.reduction == 0.5
    assert config.schedule["kind"] == "adaptive"
    assert spec.leakage == ("search", "selection")
    assert leakage_note(spec.leakage)


def test_its_workload_is_the_default_and_no_other_is_allowed() -> None:
    assert load_experiment("published", None, None).workload.name == WORKLOAD
    with pytest.raises(ValueError, match=f"--workload: got 'digits', allowed: {WORKLOAD}"):
        load_experiment("published", "digits", None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seeds", "2"), "--seeds: got 2, allowed: 1: no other run was published"),
        (("--set", "search.beta=2"), "--set: got ['search.beta=2'], allowed: nothing: published"),
    ],
)
def test_no_other_seed_and_no_other_setting_was_published(
    flags: tuple[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    assert main(["--experiment", "published", "--results", str(root), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not root.exists()


def test_an_edited_file_with_a_second_trial_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = load_experiment("published", None, None)
    config, root = tmp_path / "study.yaml", tmp_path / "results"
    write_config(published.model_copy(update={"seeds": (0, 1)}), config)
    assert main(["--config", str(config), "--results", str(root)]) == 2
    assert "arms, seeds: got 2, allowed: one trial" in capsys.readouterr().err
    assert not (root / "study.json").exists()


def test_the_run_is_one_finished_trial_that_leaks(results: Results) -> None:
    record = only(results)
    assert (record["status"], record["arm"], record["seed"]) == ("finished", "adaptive", 0)
    assert record["leakage"] == ["search", "selection"]
    assert record["provenance"] == {"read_from": "published_deit_small_trace.csv"}


def test_it_searched_six_times_for_a_sixth_of_what_every_epoch_would_take(
    results: Results,
) -> None:
    summary = only(results)["summary"]
    assert summary["search_epochs"] == [1, 2, 3, 4, 8, 16]
    # 92 293 s of training, 5 370 s of searches and 3 113 s of evaluation, from the log.
    assert summary["wall_s"] == pytest.approx(92_293 + 5_370 + 3_113)
    every_epoch = summary["wall_s"] + (29 - 6) * summary["search_s"] / 6
    assert every_epoch / 3600 == pytest.approx(33.8, abs=0.1)
    assert 1 - summary["wall_s"] / every_epoch == pytest.approx(0.169, abs=0.001)


def test_the_parameters_are_those_of_the_plans(results: Results) -> None:
    rows = results.epochs(only(results)["trial_id"])
    assert [row["step_epoch"] for row in rows] == list(range(30))
    assert [row["params"] for row in rows[:3]] == [None, 11_114_856, 10_991_976]
    assert {row["params"] for row in rows[2:]} == {10_991_976}
    assert rows[-1]["val_acc"] == pytest.approx(0.75874)


def test_one_of_49_sites_changed_after_the_first_search(results: Results) -> None:
    searches = results.searches(only(results)["trial_id"])
    assert [len(row["plan"]) for row in searches] == [49] * 6
    assert [row["changed"] for row in searches[1:]] == [["blocks.11.fc1"], [], [], [], []]
    assert [row["distance"] > 0 for row in searches[1:]] == [True, False, False, False, False]
    first, second = (Plan("lowrank", row["plan"]) for row in searches[:2])
    assert (first.decisions["blocks.11.fc1"], second.decisions["blocks.11.fc1"]) == (128, 64)


def test_it_is_a_study_that_loads_and_is_not_read_again(
    results: Results, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expand(load(results)) == expand(load_experiment("published", None, None))
    before, drawn = only(results), []
    monkeypatch.setattr(Session, "_draw", lambda self, figure: drawn.append(figure) or True)
    assert main(["--resume", str(results.root)]) == 0
    assert "all 1 trials have ended already" in capsys.readouterr().out
    assert only(results) == before
    assert drawn == ["fig_intervals", "fig_ranks", "fig_time"]


def test_its_figures_are_drawn(results: Results) -> None:
    drawn = {path.name for path in (results.root / "figures").glob("*.png")}
    assert drawn == {"intervals.png", "ranks.png", "time.png"}


def test_a_dry_run_says_that_nothing_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    assert main(["--experiment", "published", "--results", str(root), "--dry-run"]) == 0
    assert "read from a published log; nothing runs" in capsys.readouterr().out
    assert not root.exists()
