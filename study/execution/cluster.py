"""Ray on this machine or on a cluster: start, dashboard, nodes, end.

This module imports Ray inside its functions only: the settings must be in the environment before.
"""

import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from adacomcat.checks import require
from adacomcat.versions import repository
from study.execution.environment import FORWARDED, asked_cluster, set_environment
from study.execution.watch import Endpoint

REACH_S = 3.0
"""Timeout for a connection to the head of a cluster."""
ANSWER_S = 15.0
"""Timeout for its answer; Ray itself would try for minutes."""
LOOPBACK = ("127.0.0.1", "::1")
LOCAL_PATIENCE_S, PATIENCE_S = 1.0, 30.0
"""Longest silence of a Ray process on this machine, and on another one; Ray itself ends its driver
after 60 s."""
TOKEN_BYTES = 32
"""Length of a token, that of Ray's own."""


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
    """Start Ray on this machine, join a cluster, or use the Ray of this process.

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
    asked = asked_cluster(address)
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
    """A block in which Ray starts without side effects on its driver.

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
    """Endpoints of the Ray processes that a driver depends on.

    Returns:
        Name -> host and port, and the longest allowed silence in seconds: the head of a cluster may
        be restarted.
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
