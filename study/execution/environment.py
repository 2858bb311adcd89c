"""Environment variables of Ray and of its workers."""

import os
import sys

from adacomcat.versions import repository

FORWARDED = ("PYTHONPATH", "PYTHONSAFEPATH", "RAY_TRAIN_", "RAY_ACCEL_", "TUNE_")
"""Prefixes of settings that the workers of a joined cluster also need."""


def set_environment(*, dashboard: bool = False, address: str | None = None) -> None:
    """Set Ray's environment variables; before `import ray`, since workers inherit them.

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
    if asked_cluster(address) is None:
        # Ray's switch between an address that other hosts reach and 127.0.0.1, for every process.
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if sys.platform == "linux":
            # The workers of one trial talk to each other by the same way.
            settings |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    # Workers import these packages too, from wherever the command was started.
    os.environ["PYTHONPATH"] = python_path()


def python_path() -> str:
    """A `PYTHONPATH` on which the packages of `repository` come first, then the user's folders.

    Its empty entries, which stand for the current directory, are left out.
    """
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join(dict.fromkeys([str(repository()), *given]))


def asked_cluster(address: str | None) -> str | None:
    """The cluster to join; None to start a Ray of our own. `auto` leaves it to RAY_ADDRESS."""
    given = os.environ.get("RAY_ADDRESS") or None
    chosen = given or address if address in (None, "auto") else address
    return None if chosen == "local" else chosen
