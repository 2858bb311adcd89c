import argparse
import re
from pathlib import Path

import pytest

from adacomcat.versions import repository
from study import cli
from study.execution.placement import Request
from study.refusals import check_flags


def parse(*arguments: str) -> argparse.Namespace:
    return cli.parser().parse_args(arguments)


def flags() -> set[str]:
    return {flag for action in cli.parser()._actions for flag in action.option_strings}


@pytest.mark.parametrize(
    "arguments",
    [
        "--experiment a",
        "--experiment a --workload b --seeds 3 --samples 9 --sampler nsga2 --objectives x,y",
        "--experiment a --no-stopping --set a.b=1 --set c=2 --results r --extend --seeds 4",
        "--experiment a --dry-run --estimate",
        "--config f --set a=1 --seeds 2 --samples 3 --sampler tpe --results r",
        "--resume r",
        "--resume r --dry-run --estimate --quiet --dashboard --log-to mlflow --log-to wandb",
        "--resume r --workers 2 --executor train --cpus-per-worker 2 --gpus-per-worker 1",
        "--resume r --extend --seeds 5",
        "--resume r --extend --samples 5",
        "--status r",
        "--list",
    ],
)
def test_flags_that_go_together(arguments: str) -> None:
    check_flags(parse(*arguments.split()), "a, b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", r"^--experiment: got None, allowed: a, b$"),
        ("--quiet", r"^--experiment: got None, allowed: a, b$"),
        ("--experiment a --config f", r"^--experiment, --config: got .* allowed: one of them$"),
        ("--status r --resume r", r"^--resume, --status: "),
        (
            "--resume r --extend --seeds 2 --set a=1",
            r"^--set: got \['a=1'\], allowed: nothing wi",
        ),
        ("--resume r --samples 2", r"^--samples: got 2, allowed: with --resume only to --e"),
        ("--resume r --sampler tpe", r"^--sampler: got 'tpe', allowed: nothing with --resume"),
        ("--resume r --objectives x", r"^--objectives: got 'x', allowed: nothing with --resume"),
        ("--resume r --no-stopping", r"^--no-stopping: got True, allowed: nothing with --resume"),
        ("--resume r --results q", r"^--results: got .*'q'.*, allowed: nothing with --resume"),
        ("--resume r --extend --seeds 0", r"^--seeds: got 0, allowed: 1 or more$"),
        ("--config f --samples -1", r"^--samples: got -1, allowed: 1 or more$"),
        ("--resume r --estimate", r"^--estimate: got True, allowed: together with --dry-run$"),
    ],
)
def test_flags_that_do_not_go_together(arguments: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_flags(parse(*arguments.split()), "a, b")


def test_what_flags_ask_of_the_cluster() -> None:
    assert cli.request(parse("--list")) == Request()
    asked = ("--workers", "4", "--cpus-per-worker", "0.5", "--gpus-per-worker", "2")
    assert cli.request(parse(*asked)) == Request("auto", 4, 0.5, 2.0)
    assert cli.request(parse("--executor", "train")) == Request("train")


@pytest.mark.parametrize(
    "arguments", ["--sampler random", "--executor slurm", "--log-to comet", "--seeds many"]
)
def test_a_choice_that_is_none_is_refused_with_what_there_is(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*arguments.split())
    assert ended.value.code == 2
    flag, value = arguments.split()
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {flag}: invalid" in error and f"'{value}'" in error


def documents() -> list[Path]:
    root = repository()
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]


def test_every_flag_that_a_document_shows_exists_and_a_command_parses() -> None:
    commands = []
    for path in documents():
        text = path.read_text().replace("\\\n", " ")
        commands += re.findall(r"study/run\.py ((?:[^`\n#|]|\|(?= ))*)", text)
    assert len(commands) >= 5
    shown = {flag for command in commands for flag in re.findall(r"--[a-z-]+", command)}
    assert shown <= flags()
    # And the other way round: each has a line of help.
    for action in cli.parser()._actions:
        assert action.help and "\n" not in action.help, action.dest
