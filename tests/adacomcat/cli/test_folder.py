"""The directory of a run, apart from what runs in it."""

import json
import shutil

import pytest

from adacomcat.cli.folder import RunFolder
from adacomcat.config import TrialConfig


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "it's a run")
    made.create("search", TrialConfig(seed=3), ["search", "--seed", "3"])
    return made


def test_what_is_stored_comes_back(folder):
    assert folder.config() == TrialConfig(seed=3)
    assert folder.read()["argv"] == ["search", "--seed", "3"]


def test_the_command_to_go_on_survives_a_shell(folder):
    assert folder.resume_command("search").endswith("""/it'"'"'s a run'""")


def test_one_process_at_a_time(folder):
    with folder.locked():
        with pytest.raises(ValueError, match="another process is at work"):
            with RunFolder(folder.path).locked():
                pass
    with RunFolder(folder.path).locked():
        pass


def test_an_empty_directory_may_be_used_and_a_file_may_not(tmp_path):
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "empty").create("search", TrialConfig(), [])
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--output: got .*file', allowed: a new directory$"):
        RunFolder(tmp_path / "file").create("search", TrialConfig(), [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], "truncated or altered"),
        (lambda text: "[]", "another format"),
        (lambda text: text.replace('"version": 1', '"version": 99'), "version: got 99"),
        (lambda text: text.replace("finetune", "fintune"), "did you mean 'finetune'"),
    ],
)
def test_a_damaged_record(folder, change, message):
    path = folder.path / "run.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        folder.config()


def test_a_trace_is_begun_with_what_a_checkpoint_holds(folder):
    folder.start_trace([{"epoch": 0}], "epochs.jsonl")
    folder.append({"epoch": 1}, "epochs.jsonl")
    folder.start_trace([{"epoch": 0}], "epochs.jsonl")
    folder.append({"epoch": 1, "again": True}, "epochs.jsonl")
    rows = [json.loads(line) for line in (folder.path / "epochs.jsonl").read_text().splitlines()]
    assert rows == [{"epoch": 0}, {"epoch": 1, "again": True}]


def test_a_finetune_refuses_another_source(cli, searched, tmp_path, monkeypatch):
    """A resume before the first checkpoint starts from the very model that it began with."""
    from adacomcat.training import Trial

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
