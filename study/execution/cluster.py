"""Ray settings, cluster start, and placement of trials (how many run at once).

This module imports Ray inside its functions only: the settings must be in the environment before.
"""

import json
import logging
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

from adacomcat.checks import require
from study.execution.provenance import python_path, repository
from study.execution.watch import Endpoint

Executor = Literal["tune", "train"]

REACH_S = 3.0
"""Seconds that the head of a cluster may take to accept a connection."""
ANSWER_S = 15.0
"""Seconds that it may take to answer; Ray itself would try for minutes."""
LOOPBACK = ("127.0.0.1", "::1")
LOCAL_PATIENCE_S, PATIENCE_S = 1.0, 30.0
"""Seconds that a process of Ray on this machine, and one elsewhere, may not answer: Ray itself ends
its driver after 60 s."""
TOKEN_BYTES = 32
"""As many as Ray's own tokens have."""
FORWARDED = ("PYTHONPATH", "PYTHONSAFEPATH", "RAY_TRAIN_", "RAY_ACCEL_", "TUNE_")
"""Prefixes of settings that the workers of a joined cluster also need."""


@dataclass(frozen=True)
class Request:
    """Requested resources; None and `auto` leave the choice to `place`."""

    executor: Literal["auto", "tune", "train"] = "auto"
    workers: int = 1
    cpus_per_worker: float | None = None
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        require(self.workers >= 1, "--workers", self.workers, "1 or more")
        one = self.executor != "tune" or self.workers == 1
        require(one, "--executor", self.executor, "auto or train, with two or more --workers")
        cpus, gpus = self.cpus_per_worker, self.gpus_per_worker
        require(cpus is None or cpus > 0, "--cpus-per-worker", cpus, "above 0")
        if gpus is not None:
            whole = gpus == int(gpus)
            require(gpus >= 0, "--gpus-per-worker", gpus, "0 or more")
            require(gpus < 1 or whole, "--gpus-per-worker", gpus, "a share below 1, or whole GPUs")
            # NCCL refuses two ranks of one group on the same device.
            require(self.workers == 1 or whole, "--gpus-per-worker", gpus, "whole, with --workers")


@dataclass(frozen=True)
class Placement:
    """Resources of every trial of a study.

    Attributes:
        executor: `tune`, a plain Tune function; `train`, a Ray Train run nested in one.
        workers: of one trial.
        cpus: of one worker.
        gpus: of one worker.
        concurrent: trials that run at once.
    """

    executor: Executor
    workers: int
    cpus: float
    gpus: float
    concurrent: int

    @property
    def threads(self) -> int:
        """Torch threads of one worker."""
        return max(1, int(self.cpus))

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


def place(request: Request, nodes: Iterable[Mapping[str, float]]) -> Placement:
    """Fit trials into a cluster.

    A worker gets a GPU where there are any, and one CPU, or per GPU as many as the node with the
    fewest can give each of its own. A share of a GPU lies on one GPU: of shares of 0.4 two fit on
    each.

    Args:
        request: what is asked for.
        nodes: resources of each node, by Ray's names (`CPU`, `GPU`).

    Raises:
        ValueError: not even one trial can be placed; names what was asked and what there is.
    """
    sizes = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    cpus, gpus = sum(c for c, _ in sizes), sum(g for _, g in sizes)
    each_gpu = request.gpus_per_worker
    if each_gpu is None:
        each_gpu = 1.0 if gpus else 0.0
    each_cpu = request.cpus_per_worker
    if each_cpu is None:
        each_cpu = _cpu_share(sizes, each_gpu)
    slots = sum(min(_fit(c, each_cpu), _fit_gpus(g, each_gpu)) for c, g in sizes)
    asked = f"{request.workers} workers of {each_cpu:g} CPUs and {each_gpu:g} GPUs for one trial"
    require(
        slots >= request.workers,
        "--workers, --cpus-per-worker, --gpus-per-worker",
        asked,
        f"what fits into {cpus:g} CPUs and {gpus:g} GPUs on {len(sizes)} nodes: "
        f"{min(slots, 10**6)} such workers",
    )
    executor: Executor = "train" if request.workers > 1 else "tune"
    if request.executor != "auto":
        executor = request.executor
    return Placement(executor, request.workers, each_cpu, each_gpu, slots // request.workers)


def _cpu_share(sizes: Iterable[tuple[float, float]], each_gpu: float) -> float:
    """The CPUs of a worker: so many that those of a node never leave one of its GPUs idle."""
    per_gpu = [cpus / gpus for cpus, gpus in sizes if gpus]
    if not per_gpu or not each_gpu:
        return 1.0
    share = 1 / _fit(1.0, each_gpu) if each_gpu < 1 else each_gpu
    return float(max(1, math.floor(min(per_gpu) * share + 1e-9)))


def _fit_gpus(have: float, each: float) -> int:
    # Ray puts a share on one GPU, and several whole ones are no shares.
    return int(have) * _fit(1.0, each) if 0 < each < 1 else _fit(have, each)


def _fit(have: float, each: float) -> int:
    # 1 / 0.1 workers must be 10 though 10 * 0.1 is not exactly 1.
    return int(have / each + 1e-9) if each else sys.maxsize


def set_environment(*, dashboard: bool = False, address: str | None = None) -> None:
    """Set what Ray reads from the environment; before `import ray`, since workers inherit it.

    What the user has set stays.

    Args:
        dashboard: whether there is to be one.
        address: of the cluster to join, as `start` takes it.
    """
    settings = {
        # The default of 2 s makes every report of a Train run cost as much.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
        # The record is ours: nobody reads what Tune would save of its own, again and again.
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",
        # Tune's handler makes an interrupted run look like a finished one.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        # The trace is ours; Tune's own loggers would write a second one.
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        # A worker that is stopped is in the middle of an epoch, and would be waited for.
        "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        # What Ray's threads print goes to the study's log; at its end it would print what is left.
        "RAY_DEDUP_LOGS": "0",
        "RAY_SCHEDULER_EVENTS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if dashboard:
        settings["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "1"
    if _asked(address) is None:
        # Ray's switch between an address that other hosts reach and 127.0.0.1, for every process.
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if sys.platform == "linux":
            # The workers of one trial talk to each other by the same way.
            settings |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    # Workers import these packages too, from wherever the command was started.
    os.environ["PYTHONPATH"] = python_path()


def _dashboard_port() -> int:
    """A free port; after a restart the same again, where a browser may be looking."""
    before = os.environ.get("RAY_API_SERVER_ADDRESS", "").removeprefix("http://127.0.0.1:")
    for port in [*([int(before)] if before.isdecimal() else []), 0]:
        with socket.socket() as probe:
            # As the dashboard does: the last one's connections linger.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError, OverflowError):
                probe.bind(("127.0.0.1", port))
                found: int = probe.getsockname()[1]
                return found
    raise OSError("no port is free on 127.0.0.1")


def start(*, dashboard: bool = False, address: str | None = None) -> str | None:
    """Start Ray on this machine, or join a cluster, or use what this process runs already.

    A Ray of our own listens on 127.0.0.1 alone.

    Args:
        dashboard: start one with a Ray of our own.
        address: of the cluster to join: HOST:PORT of its head, or `auto` for the one that this
            machine is a node of; None: that of RAY_ADDRESS, where it is set.

    Returns:
        The address of the dashboard; None without one.

    Raises:
        ValueError: no cluster answers at the address, or it is not one that can be joined.
    """
    asked = _asked(address)
    field = "--address" if asked == address else "RAY_ADDRESS"
    set_environment(dashboard=dashboard, address=address)
    import ray

    if ray.is_initialized():
        return None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if asked is None:
        protect_token(create=True)
        # `local`, or Ray would look for a cluster that somebody else runs on this machine.
        options |= {"address": "local", "include_dashboard": dashboard}
        if dashboard:
            port = _dashboard_port()
            options |= {"dashboard_host": "127.0.0.1", "dashboard_port": port}
            # Without it a nested run whose trial is killed uses any other Ray on this machine.
            os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
        with _on_our_terms():
            context = ray.init(**options)
    else:
        protect_token(create=False)
        _require_cluster(asked, field)
        with _on_our_terms():
            context = _join(asked, field, options)
    url = context.dashboard_url
    return f"http://{url}" if url else None


@contextmanager
def _on_our_terms() -> Iterator[None]:
    """A block in which Ray starts without what it takes from, and does to, its driver.

    Ray puts the current directory at the head of its workers' path, before these packages; and it
    replaces the handler of SIGTERM, so that the signal would abort the driver.
    """
    before, handler = os.environ.get("PYTHONSAFEPATH"), signal.getsignal(signal.SIGTERM)
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        with chdir(repository()):
            yield
    finally:
        del os.environ["PYTHONSAFEPATH"]
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before
        # In another thread Ray leaves the handler alone, and Python could not set it.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def protect_token(*, create: bool) -> None:
    """Keep the token of Ray's clusters from other users: Ray writes it readable for everyone.

    Args:
        create: make one where there is none: in the file of Ray, or, where that cannot be
            written, in the environment of this process and of those that it starts.
    """
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE") == "disabled"
    if given:
        return
    try:
        chosen = os.environ.get("RAY_AUTH_TOKEN_PATH")
        path = Path(chosen) if chosen else Path.home() / ".ray" / "auth_token"
        if create and not path.exists():
            _make_token(path)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(TOKEN_BYTES)
        return
    with suppress(OSError):  # It is another user's, or not there.
        path.chmod(0o600)


def _make_token(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=path.parent, prefix=".") as file:  # Readable for its user.
        file.write(secrets.token_hex(TOKEN_BYTES))
        file.flush()
        # Never over the token of a driver that has started at the same time.
        with suppress(FileExistsError):
            os.link(file.name, path)


def _asked(address: str | None) -> str | None:
    """The cluster to join; None to start a Ray of our own. `auto` leaves it to RAY_ADDRESS."""
    given = os.environ.get("RAY_ADDRESS") or None
    chosen = given or address if address in (None, "auto") else address
    return None if chosen == "local" else chosen


def _require_cluster(address: str, field: str) -> None:
    """Raise unless a cluster answers; `ray.init` would wait for minutes."""
    client = "HOST:PORT of the head, from a node of the cluster or by `ray job submit`: through "
    client += "Ray Client, a study's driver would run on the head, without its files and display"
    require(not address.startswith("ray://"), field, address, client)
    if address != "auto":
        host, _, port = address.rpartition(":")
        sound = bool(host) and "/" not in host and port.isdecimal() and int(port) < 2**16
        require(sound, field, address, "auto, or HOST:PORT of the head, for instance 10.0.0.1:6379")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
        except OSError as error:
            raise _unreachable(field, address, f"no connection to its port ({error})") from None
    # KubeRay requires the same of a head.
    command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "health-check"]
    try:
        subprocess.run(
            [*command, "--address", address],
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise _unreachable(field, address, f"no answer within {ANSWER_S:g} s") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().rpartition("\n")[2].partition(". ")[0]
        raise _unreachable(field, address, f"`ray health-check` says: {reason}") from None


def _unreachable(field: str, address: str, what: str) -> ValueError:
    return ValueError(
        f"{field}: got {address!r}, allowed: a Ray cluster that answers; {what}. Is its head up "
        "(`ray start --head`), of the same versions of Ray and Python? If it asks for a token, set "
        "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` prints there"
    )


def _join(address: str, field: str, options: Mapping[str, Any]) -> Any:
    # Its workers do not inherit the environment of this process.
    env = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
    # Under `ray job submit` the job has a runtime_env of its own, and ours would be refused.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    import ray

    try:
        return ray.init(address=address, runtime_env={"env_vars": env}, **options)
    except (ConnectionError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        node = f"{reason} (is this machine a node of it: `ray start --address={address}`?)"
        raise _unreachable(field, address, node) from error


def describe_dashboard(url: str) -> str:
    """Instructions for the dashboard: its address, its token if needed, and access from elsewhere.

    Args:
        url: what `start` returned.
    """
    host, _, port = url.rpartition("/")[2].rpartition(":")
    lines = [f"dashboard: {url}"]
    try:
        with urllib.request.urlopen(f"{url}/api/authentication_mode", timeout=REACH_S) as reply:
            mode = json.load(reply)["authentication_mode"]
    except (OSError, ValueError, KeyError):
        mode = "token"
    if mode == "token":
        lines.append("token:     what `ray get-auth-token` prints on this machine")
    if host == "127.0.0.1":
        lines.append(f"elsewhere: ssh -N -L {port}:127.0.0.1:{port} {socket.gethostname()}")
    return "\n".join(lines)


def node_resources() -> list[dict[str, float]]:
    """The resources of each living node of the cluster."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def endpoints() -> tuple[dict[str, Endpoint], float]:
    """Where the processes listen that a driver cannot do without.

    Returns:
        Name -> host and port, and for how many seconds one may be silent: the head of a cluster may
        be started again.
    """
    import ray

    context = ray.get_runtime_context()
    gcs_host, _, gcs_port = context.gcs_address.rpartition(":")
    here = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    found = {
        "gcs_server": (gcs_host.strip("[]"), int(gcs_port)),
        "raylet": (here["NodeManagerAddress"], here["NodeManagerPort"]),
    }
    local = all(host in LOOPBACK for host, _ in found.values())
    return found, LOCAL_PATIENCE_S if local else PATIENCE_S


def is_running() -> bool:
    """Whether this process has a Ray already."""
    import ray

    return bool(ray.is_initialized())


def stop() -> None:
    """End Ray, if it runs; on a cluster of our own this ends all workers."""
    import ray

    ray.shutdown()
