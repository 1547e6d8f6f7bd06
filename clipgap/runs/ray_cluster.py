"""The Ray cluster that a run is done by: one of its own, or one at an address. Whether it is asked
for a token never depends on what a version of Ray does unless told."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clipgap.errors import InputError, UsageError
from clipgap.machine import cores
from clipgap.packages import missing

LOG = logging.getLogger("clipgap")

TOLD = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",
}
"""What the environment says unless it says otherwise. Ray prints to stdout, where results go, how
the log of a lost node ended; by the second none of its lines is printed."""

OWN = {
    # Read when Ray is imported: the cluster takes the loopback address for its own. Given as an
    # address, Ray would replace it by one that others can reach.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ray's workers give way to whatever else runs (15), which nobody asks of a run without Ray.
    "RAY_worker_niceness": "0",
    # Ray's own processes take a core's time from those that work: nobody looks at metrics and lists
    # of tasks, or has to be told ten times a second what else the one node could do. Nor does a run
    # need a process for each core that waits for work.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_prestart_worker_first_driver": "0",
}
"""The same of a cluster of our own."""

_AT_AN_ADDRESS = {
    # Ray would try 20 times, each of which takes 40 seconds where nobody answers.
    "RAY_NUM_REDIS_GET_RETRIES": "1",
}
"""The same of one at an address."""

_STORE_BYTES = 1 << 30
"""Of a cluster of our own, for what workers say; lists of all test sets are the largest."""

_LISTEN_SECONDS = 20.0

_TRY = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, configure_logging=False)"


def connect(address: str | None) -> Any:
    """Ray, connected. Nothing is reported to its makers. Without an address a cluster is started on
    this machine, heard by nobody else, which ends with this process."""
    if known := sys.modules.get("ray"):
        if known.is_initialized():
            return known
        raise UsageError(
            "Ray was imported before, when it read what it is told by the environment. Call "
            "ray.init(…) yourself, or leave the import to clipgap."
        )
    if find_spec("ray") is None:
        raise missing("ray")
    for name, value in (TOLD | (OWN if address is None else _AT_AN_ADDRESS)).items():
        os.environ.setdefault(name, value)
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    else:
        _see_that_somebody_listens(address)
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ["RAY_AUTH_MODE"] = "token" if _shall_have_token(address) else "disabled"
    import ray
    import ray.exceptions
    import ray.util.scheduling_strategies

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address or _own_cluster(), log_to_driver=False, configure_logging=False)
    except Exception as error:  # of many kinds, RuntimeError and plain Exception among them
        raise InputError(_why_not(address, error)) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
    return ray


def _own_cluster() -> str:
    """The address of a cluster on this machine that ends with this process."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": cores(), "object_store_memory": _STORE_BYTES}
    started: str = Cluster(initialize_head=True, head_node_args=head | beside_a_node()).address
    return started


def beside_a_node() -> dict[str, Any]:
    """The processes that start with a node: no dashboard, at which nobody looks, and no monitor of
    logs, which nobody is sent. The others get free ports: a node that has to wait until they have
    found some themselves gives up after 15 seconds, which is not enough on a busy machine."""
    names = ("metrics_agent_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    found = dict(zip(names, ports, strict=True))
    return {"include_dashboard": False, "include_log_monitor": False, **found}


# --- one at an address


def _see_that_somebody_listens(address: str) -> None:
    """Ray itself would take its time to say no."""
    host, _, port = address.rpartition(":")
    if "/" in host or not port.isdecimal():  # another kind of address: auto, ray://…
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _LISTEN_SECONDS).close()
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError(f"no Ray cluster at {address}: {said}") from error


def _shall_have_token(address: str) -> bool:
    """Whoever has used Ray before has a token at home, and where a cluster asks for none, the
    workers of a driver that sends one die without a word. So it is sent to those that want it."""
    if _place_of_token() is None:
        return False
    # A process reads it once, so another one has to try.
    without = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH_")}
    without["RAY_AUTH_MODE"] = "disabled"
    trial = [sys.executable, "-c", _TRY, address]
    if subprocess.run(trial, env=without, capture_output=True).returncode:
        return True
    LOG.warning(
        "the Ray cluster at %s asks for no token: whoever reaches its ports can run code on it",
        address,
    )
    return False


def _place_of_token() -> str | None:
    """Where Ray finds one."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if os.environ.get(name):
            return name
    return "~/.ray/auth_token" if (Path.home() / ".ray" / "auth_token").is_file() else None


def _why_not(address: str | None, error: Exception) -> str:
    if "InvalidAuthToken" in f"{error} {error.__context__}":
        place = _place_of_token()
        if place is None or os.environ["RAY_AUTH_MODE"] != "token":
            return (
                f"the Ray cluster at {address} asks for a token. One is sent if RAY_AUTH_TOKEN is "
                "it, or RAY_AUTH_TOKEN_PATH names its file, or it is in ~/.ray/auth_token, and "
                "RAY_AUTH_MODE is not 'disabled'."
            )
        return f"the Ray cluster at {address} has another token than that of {place}"
    where = "could be started on this machine" if address is None else f"at {address}"
    first_sentence = str(error).strip().partition("\n")[0].partition(". ")[0]
    return f"no Ray cluster {where}: {first_sentence or type(error).__name__}"
