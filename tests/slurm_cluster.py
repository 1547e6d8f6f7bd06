"""A true Slurm of two nodes on this machine, for tests; Debian has it as slurm-wlm and munge."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthInfo=socket={folder}/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
MaxArraySize=20
KillWait=1
MpiDefault=none
SwitchType=switch/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=100
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=100
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
SECONDS = 120.0


def missing() -> str | None:
    """Why there can be no cluster here."""
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(absent)} not installed"
    return None if os.geteuid() == 0 else "a cluster can only be started by root"


def wait_for(what: str, happens: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not happens():
        assert time.monotonic() < end, f"{what} has not happened in {SECONDS:.0f} s"
        time.sleep(0.1)


def say(*call: str) -> str:
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout


@contextmanager
def cluster() -> Iterator[None]:
    """As long as this lasts, Slurm's programs talk to it by the environment."""
    with ExitStack() as ending:
        # In a short path, since that of a socket must be one.
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        folder.chmod(0o755)
        (folder / "state").mkdir()
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        with ExitStack() as held:
            sockets = [held.enter_context(socket.socket()) for _ in range(3)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            ports = [each.getsockname()[1] for each in sockets]
        host = socket.gethostname().partition(".")[0]
        settings = folder / "slurm.conf"
        settings.write_text(CONFIGURATION.format(host=host, folder=folder, ports=ports))
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(settings)
        ending.callback(_put_back, before)
        munge = ["key-file", "pid-file", "log-file", "seed-file"]
        names = [f"--{name}={folder}/{name.partition('-')[0]}" for name in munge]
        start = ending.enter_context
        start(_running("munged", "--foreground", "--force", f"--socket={folder}/munge", *names))
        wait_for("munge", (folder / "munge").exists)
        start(_running("slurmctld", "-D", "-f", str(settings)))
        for node in ("n1", "n2"):
            start(_running("slurmd", "-D", "-N", node, "-f", str(settings)))
        wait_for("a cluster of two nodes", lambda: "2 idle" in _nodes())
        yield


def _nodes() -> str:
    call = ["sinfo", "--noheader", "--format=%D %t"]
    return subprocess.run(call, capture_output=True, text=True).stdout


def _put_back(before: str | None) -> None:
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before


@contextmanager
def _running(*call: str) -> Iterator[None]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(call, **quiet) as process:  # type: ignore[call-overload]
        try:
            yield
        finally:
            process.terminate()
