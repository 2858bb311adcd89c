import pytest

from adacomcat.config import RuntimeConfig
from adacomcat.data import build_splits
from adacomcat.overrides import build_config, parse_settings
from adacomcat.training.checkpoint import check_same
from adacomcat.training.dense import dense_key
from study.spec.catalog import load_experiment
from study.spec.expand import expand

OTHERS = parse_settings(["runtime.num_workers=4", "runtime.skip_unreadable=true"])


def test_a_runtime_is_no_part_of_what_determines_a_trial() -> None:
    plain, other = build_config(), build_config(OTHERS)
    assert other.runtime == RuntimeConfig(num_workers=4, skip_unreadable=True)
    assert plain.identity() == other.identity() and plain != other
    moved = build_config({"data.root": "/elsewhere"})
    assert plain.identity() == moved.identity()
    check_same("config", plain.identity(), other.identity())
    assert build_config({"seed": 1}).identity() != plain.identity()


def test_a_dense_model_is_not_trained_again_for_another_runtime() -> None:
    plain, other = build_config(), build_config(OTHERS)
    splits = build_splits(plain.data)
    assert dense_key(plain, splits) == dense_key(other, splits)


def test_trials_keep_their_ids_and_get_the_runtime() -> None:
    made = [load_experiment("adaptive_vs_fixed", "synthetic", 1, s) for s in ({}, OTHERS)]
    plain, other = (expand(experiment) for experiment in made)
    assert [spec.trial_id for spec in plain] == [spec.trial_id for spec in other]
    assert {spec.config["runtime"]["num_workers"] for spec in other} == {4}


@pytest.mark.parametrize("value", [-1, 1.5, "x", 10**6])
def test_a_wrong_runtime_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^runtime\.num_workers: got"):
        build_config({"runtime.num_workers": value})
