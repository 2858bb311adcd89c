import pytest

from study.spec.catalog import describe_experiment, experiment_names, load_experiment, workloads


def test_the_experiments_are_found_and_described() -> None:
    names = experiment_names()
    assert "adaptive_vs_fixed" in names
    assert "workloads" not in names
    for name in names:
        assert len(describe_experiment(name)) > 10
        assert load_experiment(name, None, 1).name == name


def test_the_first_workload_is_the_default() -> None:
    assert list(workloads())[0] == "digits"
    assert load_experiment("adaptive_vs_fixed", None, None).workload.name == "digits"


def test_seeds_are_counted_from_0() -> None:
    assert load_experiment("adaptive_vs_fixed", "synthetic", 2).seeds == (0, 1)
    assert load_experiment("adaptive_vs_fixed", "synthetic", None).seeds == (0, 1, 2)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--experiment: .*did you mean 'adaptive_vs_fixed'"):
        load_experiment("adaptive_vs_fixde", None, None)
    with pytest.raises(ValueError, match=r"--workload: .*did you mean 'digits'.*fashion_mnist"):
        load_experiment("adaptive_vs_fixed", "digit", None)
