import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from adacomcat.versions import repository
from study.execution import cluster
from study.execution.cluster import (
    describe_dashboard,
    protect_token,
)


def test_a_dashboard_that_is_started_again_keeps_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (
        "",
        "https://elsewhere:1",
        "http://127.0.0.1:99999999999",
        "http://127.0.0.1:99999",
    ):
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", given)
        port = cluster._dashboard_port()
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{port}")
        assert cluster._dashboard_port() == port
    # Another program has it.
    with socket.create_server(("127.0.0.1", port)):
        assert cluster._dashboard_port() != port


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and no word about tokens in the environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode_of(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


def test_the_token_is_for_its_user_alone(home: Path) -> None:
    token = home / ".ray" / "auth_token"
    protect_token(create=False)
    assert not token.exists()
    protect_token(create=True)
    made = token.read_text()
    assert len(made) == 64 and mode_of(token) == "0o600" and mode_of(token.parent) == "0o700"
    # As Ray leaves it.
    token.chmod(0o644)
    protect_token(create=True)
    assert mode_of(token) == "0o600" and token.read_text() == made
    assert list(token.parent.iterdir()) == [token]


def test_a_token_that_the_user_has_chosen_is_taken(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = home / "chosen"
    chosen.write_text("0" * 64)
    chosen.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(chosen))
    protect_token(create=True)
    assert mode_of(chosen) == "0o600" and chosen.read_text() == "0" * 64
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    for name, value in (("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "f" * 64)):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            protect_token(create=True)
    assert list(home.iterdir()) == [chosen]


def test_without_a_home_the_token_is_in_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home / "file"))
    (home / "file").touch()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    protect_token(create=True)
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://10.0.0.1:10001", "Ray Client"),
        ("10.0.0.1", "auto, or HOST:PORT"),
        (":6379", "auto, or HOST:PORT"),
        ("10.0.0.1:port", "auto, or HOST:PORT"),
        ("10.0.0.1:70000", "auto, or HOST:PORT"),
        # What RAY_ADDRESS may be for `ray job submit`.
        ("http://127.0.0.1:8265", "auto, or HOST:PORT"),
        ("no-such-host.invalid:6379", "no connection to its port"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"--address: got '{address}', allowed: .*{message}"):
        cluster._require_cluster(address, "--address")


def test_a_dead_address_is_refused_with_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    # Before Ray is asked, which waits for minutes: the session's own Ray may be running.
    with pytest.raises(ValueError) as refusal:
        cluster._require_cluster(address, "RAY_ADDRESS")
    for part in (
        "RAY_ADDRESS",
        address,
        "refused",
        "ray start --head",
        "RAY_AUTH_MODE=token",
        "ray get-auth-token",
    ):
        assert part in str(refusal.value)


def test_what_listens_but_is_no_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWER_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"{address}.*no answer within 3 s"):
            cluster._require_cluster(address, "--address")


def test_a_dashboard_that_does_not_answer_is_taken_to_ask_for_a_token() -> None:
    port = free_port()
    text = describe_dashboard(f"http://127.0.0.1:{port}")
    assert f"http://127.0.0.1:{port}" in text and "ray get-auth-token" in text
    assert f"ssh -N -L {port}:127.0.0.1:{port} {socket.gethostname()}" in text
    assert "ssh" not in describe_dashboard("http://head.invalid:8265")


TOKEN = "f" * 32
JOIN = """
import json, os, sys
from study.execution import cluster
try:
    url = cluster.start(address=sys.argv[1])
except ValueError as error:
    print("refused:", error)
    sys.exit()
import ray

@ray.remote(num_cpus=1)
def look():
    import study.execution.cluster
    names = ("PYTHONPATH", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "TUNE_GLOBAL_CHECKPOINT_S")
    return study.execution.cluster.__file__, {name: os.environ.get(name) for name in names}

there, settings = ray.get(look.remote())
cpus = sum(node["CPU"] for node in cluster.node_resources())
print(json.dumps([cpus, there, settings, cluster.describe_dashboard(url)]))
cluster.stop()
"""


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a running cluster of one CPU, which asks for a token."""
    port = free_port()
    # Ray's sockets lie in there, and their names are short.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as files:
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--head",
            "--block",
            f"--port={port}",
            f"--temp-dir={files}",
            "--num-cpus=1",
            f"--dashboard-port={free_port()}",
            f"--object-store-memory={100 * 2**20}",
        ]
        hidden = ("RAY_", "TUNE_", "PYTHONPATH")
        env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        running = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
        )
        try:
            assert running.stdout is not None
            said = "".join(iter_until(running.stdout, "until terminated"))
            assert "until terminated" in said, said
            yield f"127.0.0.1:{port}"
        finally:
            tree = [*psutil.Process(running.pid).children(recursive=True), running]
            for process in tree:
                process.kill()
            running.wait()


def iter_until(lines: Iterable[str], last: str) -> Iterator[str]:
    for line in lines:
        yield line
        if last in line:
            return


def join(address: str, env: Mapping[str, str], folder: Path) -> str:
    """What a driver that joins a cluster prints last."""
    hidden = ("RAY_", "TUNE_")
    base = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env=base | {"PYTHONPATH": str(repository())} | env,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_running_cluster_is_joined_and_its_workers_get_the_settings(
    head: str, tmp_path: Path
) -> None:
    # As under `ray job submit` with a runtime_env of its own.
    job = {"runtime_env": {"env_vars": {"PYTHONPATH": "/elsewhere"}}}
    env = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "TUNE_GLOBAL_CHECKPOINT_S": "77",
        "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job),
    }
    cpus, there, settings, note = json.loads(join(head, env, tmp_path))
    assert cpus == 1
    assert Path(there) == repository() / "study" / "execution" / "cluster.py"
    assert settings["PYTHONPATH"].split(os.pathsep)[0] == str(repository())
    assert settings["TUNE_GLOBAL_CHECKPOINT_S"] == "77"
    assert settings["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.2"
    assert "http://127.0.0.1:" in note and "ray get-auth-token" in note


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "env", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32}], ids=["none", "wrong"]
)
def test_without_its_token_a_cluster_is_not_joined(
    head: str, env: dict[str, str], tmp_path: Path
) -> None:
    said = join(head, env, tmp_path)
    assert said.startswith(f"refused: --address: got '{head}'")
    assert "token is missing or incorrect" in said and "RAY_AUTH_MODE=token" in said
