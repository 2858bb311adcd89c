"""What the benchmarks share; the clocks themselves are `adacomcat.timing`'s."""

import argparse

import pytest
import torch


def arguments(timing, *flags, **defaults):
    given = {"benchmark": "made_up", "model": "a_model", "batch_size": 4, "repeats": 3} | defaults
    return timing.parser_of("First.\n\nSecond.", **given).parse_args(flags)


def test_flags_have_the_defaults_of_the_benchmark(timing):
    found = vars(arguments(timing))
    assert str(found.pop("output")) == "results/made_up.json"
    assert found == {
        "model": "a_model",
        "batch_size": 4,
        "threads": 2,
        "repeats": 3,
        "device": "cpu",
        "dtype": "float32",
    }
    without = timing.settings_of(arguments(timing, batch_size=None))
    assert set(found) - set(without) == {"batch_size", "dtype"} and "output" not in without


@pytest.mark.parametrize("flag", ["--batch-size", "--threads", "--repeats"])
def test_numbers_below_one_are_refused(timing, flag, capsys):
    with pytest.raises(SystemExit):
        arguments(timing, flag, "0")
    assert f"argument {flag}: got 0, allowed: 1 or more" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_one_line(timing, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="error: --device: got 'cuda', allowed: cpu"):
        timing.run(lambda found: None, arguments(timing, "--device", "cuda"))


def test_precision_is_that_of_the_flag(timing):
    pair = torch.ones(2, 2), torch.ones(2, 2)
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        with timing.precision(argparse.Namespace(dtype=name, device="cpu")):
            assert (pair[0] @ pair[1]).dtype == dtype


@pytest.mark.parametrize(
    ("kind", "value", "met"),
    [
        ("at least", 2.0, True),
        ("at least", 1.9, False),
        ("at most", 2.0, True),
        ("at most", 2.1, False),
        ("at least", float("nan"), False),
        ("at most", float("nan"), False),
    ],
)
def test_a_bar_is_met_at_its_bound_and_never_by_nan(timing, kind, value, met):
    bar = timing.Bar("x", value, kind, 2.0)
    assert bar.met is met is bar.to_json()["met"]
    assert str(bar).endswith(f"{kind} 2: {'met' if met else 'MISSED'}")


def test_tables_line_up_and_rows_may_end_early(timing, capsys):
    timing.print_table(("name", "ms", "MiB"), [("a long one", 1.23456, 7), ("b", 12.0)])
    assert capsys.readouterr().out.splitlines() == [
        "name           ms  MiB",
        "a long one  1.235    7",
        "b              12",
    ]


def test_differences_are_relative_to_the_largest_expected_value(timing):
    expected = torch.tensor([-8.0, 2.0])
    assert timing.largest_difference(torch.tensor([-8.0, 3.0]), expected) == 1 / 8
