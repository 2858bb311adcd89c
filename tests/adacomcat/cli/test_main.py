"""The command as a process: what it loads, and how it ends."""

import os
import signal
import subprocess
import sys

import pytest

from adacomcat.cli.main import COMMANDS, command_module, main
from adacomcat.cli.process import Interrupted, guarded, interruptible, launched_workers

PRINTS = "from adacomcat.cli.process import guarded\nraise SystemExit(guarded({}))"


def process(code, **options):
    """A Python of its own: (exit status, standard output, standard error)."""
    options = {"stdout": subprocess.PIPE} | options
    words = [sys.executable, "-c", PRINTS.format(code)]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, timeout=60, **options)
    return done.returncode, done.stdout, done.stderr


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom adacomcat.cli.main import main\n"
        "for words in (['--help'], ['search', '--help'], ['eval', '--nonsense']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "print(sorted({'torch', 'timm', 'numpy', 'ray', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert all(f"\n    {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "study"])
def test_every_command_describes_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert " ".join(command_module(name).DESCRIPTION.split()) in said


def test_the_study_is_a_command(capsys):
    assert main(["study", "--list"]) == 0
    assert "adaptive_vs_fixed" in capsys.readouterr().out


def test_a_closed_pipe_ends_nothing():
    """As in `adacomcat info ... | head -1`, but with a reader that is gone from the start."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        assert process("lambda: print('x' * 10**6) or 0", stdout=pipe) == (0, None, "")


def test_what_nobody_reads_is_logged(monkeypatch, caplog):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)

        def run():
            print("read", flush=True)
            assert os.read(reading, 100) == b"read\n"
            os.close(reading)
            print("the first", flush=True)
            print("the ", end="")
            print("second", flush=True)
            return 0

        assert guarded(run) == 0
    assert caplog.messages == ["the first", "the second"]


def test_a_closed_stream_ends_nothing():
    closed = {"stdout": None, "preexec_fn": lambda: os.close(1)}
    assert process("lambda: print('x' * 10**6) or 0", **closed) == (0, None, "")


def test_a_full_disk_is_said():
    with open("/dev/full", "w") as full:
        status, _, said = process("lambda: print('x' * 10**6) or 0", stdout=full)
    assert (status, said) == (1, "error: [Errno 28] No space left on device\n")


def test_a_narrow_encoding_ends_nothing():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    assert process("lambda: print('± 1') or 0", env=environment) == (0, "\\xb1 1\n", "")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "abc"}, "RANK (environment): got 'abc', allowed: a whole number, or unset"),
        ({"WORLD_SIZE": "2x"}, "WORLD_SIZE (environment): got '2x', allowed: a whole number"),
    ],
)
def test_a_strange_environment_is_one_line(cli, monkeypatch, variables, message):
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    done = cli("info", "--model", "deit_tiny_patch16_224")
    assert done.status == 2 and done.err.count("\n") == 1
    assert done.err.startswith(f"error: {message}")


def test_a_rank_without_workers_is_that_of_another_program(monkeypatch):
    """Batch systems set RANK; a lone process that took it for its own would write nothing."""
    monkeypatch.setenv("RANK", "3")
    assert launched_workers() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched_workers() == (3, 4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_once(number):
    before = signal.getsignal(number)
    signal.signal(number, signal.SIG_DFL)  # A suite in the background may ignore it.
    recorded = []

    def run():
        try:
            signal.raise_signal(number)
        except Interrupted:
            # What records the interruption is not interrupted by the next ones.
            for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.raise_signal(again)
            recorded.append(True)
            raise

    try:
        assert guarded(run) == 128 + number
        assert recorded == [True]
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_a_library_has_taken_for_ctrl_c_keeps_its_status():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def run():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Interrupted:
            raise KeyboardInterrupt from None

    try:
        assert guarded(run) == 143
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_ignored_signal_stays_ignored():
    """`nohup` ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
