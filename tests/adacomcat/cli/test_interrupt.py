"""Ctrl-C, and `--resume` after it: the model that comes out is the undisturbed one."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from adacomcat.io.run import Run
from adacomcat.training import Trial

CLOCKS = ("_s", "per_s", "seconds")


def rows(path):
    """What was recorded, without what a clock said."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith(CLOCKS)} for row in found]


def start(arguments):
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "adacomcat", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite in the background ignores the interrupt, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_epochs(trace, driver):
    while driver.poll() is None and not (trace.exists() and trace.read_text().count("\n") >= 2):
        time.sleep(0.02)


@pytest.mark.timeout(240)
def test_interrupted_and_resumed_is_undisturbed(cli, asked, tmp_path):
    given = [*asked, "--epochs", "5", "--schedule", "fixed"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli("search", *given, "--output", whole).status == 0
    driver = start(["search", *given, "--output", str(broken)])
    wait_for_epochs(broken / "epochs.jsonl", driver)
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, out + err
    resume = f"adacomcat search --resume {broken}"
    assert out.splitlines()[-1] == f"interrupted; to go on: {resume}"
    assert Run(broken).status == "interrupted" and "Traceback" not in err
    (broken / "epochs.jsonl").write_text(
        "nonsense\n"
    )  # What is lost of the trace comes back from the checkpoint.
    assert cli("search", "--resume", broken).status == 0
    for name in ("model.safetensors", "plan.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    for name in ("epochs.jsonl", "searches.jsonl"):
        assert rows(broken / name) == rows(whole / name)
    again = cli("search", "--resume", broken)
    assert again.status == 0 and "finished already" in again.out


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["TERM", "HUP"]
)
def test_other_signals_end_a_run_as_ctrl_c_does(asked, tmp_path, number, status):
    given = ["search", *asked, "--epochs", "500", "--output", str(tmp_path / "run")]
    driver = start(given)
    wait_for_epochs(tmp_path / "run" / "epochs.jsonl", driver)
    driver.send_signal(number)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == status, out + err
    assert out.splitlines()[-1].startswith("interrupted; to go on: adacomcat search")
    assert Run(tmp_path / "run").status == "interrupted"
    assert err == ""


def test_an_interrupt_before_the_first_epoch(cli, asked, tmp_path, monkeypatch):
    """Nothing is left, and that is what is said."""

    def interrupt(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("adacomcat.cli.train.dense_model", interrupt)
    done = cli("search", *asked, "--output", tmp_path / "run")
    assert done.status == 130 and "the same command starts again" in done.out
    assert not (tmp_path / "run").exists()


def test_a_finetune_resumes_with_its_own_source(cli, searched, tmp_path, monkeypatch):
    """Stopped before its first checkpoint, it starts from the same model again."""
    from adacomcat.training import Trial

    tuned, undisturbed = tmp_path / "tuned", tmp_path / "undisturbed"
    given = ["finetune", "--from", searched, "--epochs", 1, "--batch-size", 16, "--device", "cpu"]
    assert cli(*given, "--output", undisturbed).status == 0

    def interrupt(self, until=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "run", interrupt)
        assert cli(*given, "--output", tuned).status == 130
    assert cli("finetune", "--resume", tuned, "--device", "cpu").status == 0
    name = "model.safetensors"
    assert (tuned / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.mark.timeout(240)
def test_a_resume_takes_other_settings_of_the_machine(cli, asked, images, tmp_path, monkeypatch):
    """Loaders, and the place of the same images, cannot change a number."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli("search", *asked, "--output", whole).status == 0

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "run", _stop_after_one(Trial.run))
        assert cli("search", *asked, "--output", broken).status == 130
    moved = shutil.copytree(images, tmp_path / "moved")
    more = ["--workers", "2", "--data", moved, "--set", "runtime.skip_unreadable=true"]
    done = cli("search", "--resume", broken, "--device", "cpu", *more)
    assert done.status == 0, done.err
    for name in ("model.safetensors", "plan.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert rows(broken / "epochs.jsonl") == rows(whole / "epochs.jsonl")
    config = Run(broken).config()
    assert config.runtime.num_workers == 2 and config.runtime.skip_unreadable
    assert config.data.root == str(moved)
    done = cli("search", "--resume", broken, "--workers", "-1")
    assert done.status == 2 and "--workers: got -1, allowed: 0 or more" in done.err


def test_a_finetune_refuses_another_source(cli, searched, tmp_path, monkeypatch):
    """A resume before the first checkpoint starts from the very model that it began with."""
    source, tuned = shutil.copytree(searched, tmp_path / "source"), tmp_path / "tuned"
    with monkeypatch.context() as patch:
        patch.setattr(Trial, "run", _interrupt)
        words = ["--from", source, "--epochs", 1, "--batch-size", 16, "--device", "cpu"]
        assert cli("finetune", *words, "--output", tuned).status == 130
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\1\0")
    done = cli("finetune", "--resume", tuned, "--device", "cpu")
    assert done.status == 2 and "the file that this run began with" in done.err


def _interrupt(self, until=None):
    raise KeyboardInterrupt


def _stop_after_one(run):
    """`Trial.run` with an interrupt after the first epoch."""

    def stopped(self, until=None):
        run(self, until=1)
        raise KeyboardInterrupt

    return stopped
