"""A run as a Slurm array: its script, and on a true cluster of two nodes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.runs.lock import PROGRESS
from clipgap.runs.run import BOARD
from clipgap.runs.slurm import Array, SlurmOptions
from tests.slurm_cluster import cluster, missing, say, wait_for
from tests.worlds import make_world, tree

HOLD = """\
import os, sys, time

def hook(event, arguments):
    if event == "os.rename" and "/out.parts/" in (path := os.path.abspath(arguments[1])):
        if path.endswith(".parquet") and not os.path.exists("go"):
            open("held-" + path.partition("/out.parts/")[2][0], "w").close()
            while not os.path.exists("go"):
                time.sleep(0.05)

sys.addaudithook(hook)
"""
"""Lets every share stand still with its first table under way, until there is a file "go"."""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards to scan, in the current folder."""
    make_world(tmp_path / "world", shards=[9] * 24)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SCAN = "scan world/train --test a=world/a.npy -k 3 --threads 1"


def call(capsys: pytest.CaptureFixture[str], text: str, code: int = 0) -> Any:
    assert main(shlex.split(text)) == code, capsys.readouterr().err
    captured = capsys.readouterr()
    return json.loads(captured.out) if "--json" in text and code == 0 else captured.err


# --- the script


def test_a_script_says_all_that_was_asked_for(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (
        "--tasks 9 --at-once 4 --time 2:00:00 --partition gpu --account lab --constraint a100 "
        "--gpus 1 --cpus 8 --mem 64G --sbatch=--qos=low --setup 'module load cuda'"
    )
    call(capsys, f"slurm --dry-run {asked} {SCAN} --above 0.5 -o 'an out'")
    script = (world / "an out.slurm/job.sh").read_text()
    directives = [line[8:] for line in script.splitlines() if line.startswith("#SBATCH ")]
    assert directives == [
        "--job-name=clipgap-an_out",
        "--array=0-8%4",
        f'--output="{world}/an out.slurm/%A_%a.log"',
        *("--open-mode=append", "--requeue", "--signal=B:USR1@120", "--ntasks=1"),
        *("--time=2:00:00", "--partition=gpu", "--account=lab", "--constraint=a100"),
        *("--gpus-per-task=1", "--cpus-per-task=8", "--mem=64G", "--qos=low"),
    ]
    assert "module load cuda\n" in script and "CLIPGAP_THREADS=8" in script
    assert f"{SCAN} --above 0.5 -o 'an out' --shard-index" in script
    subprocess.run(["bash", "-n", "an out.slurm/job.sh"], check=True)


def test_nothing_in_a_call_becomes_a_line_of_its_own(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "a\ntouch harm #=world/a.npy"
    call(capsys, f"slurm --dry-run scan world/train --test {shlex.quote(hostile)} -o out")
    plain = (world / "out.slurm/job.sh").read_text().partition("clipgap()")[0]
    assert "# touch harm" in plain
    assert all(line.startswith(("#", "cd ")) for line in plain.splitlines() if line)
    odd = shlex.quote("--sbatch=--qos=low\ntouch harm")
    assert "cannot stand in a job script" in call(capsys, f"slurm --dry-run {odd} {SCAN} -o x", 2)


def test_several_outputs_of_one_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several = "--epsilon 0.1 --epsilon 0.2 --clusters 3 -o 'keep-{epsilon}'"
    call(capsys, f"slurm --dry-run dedup world/train {several}")
    script = (world / "keep-all.slurm/job.sh").read_text()
    assert "clipgap merge keep-all.parts -o 'keep-{epsilon}' --resume" in script


@pytest.mark.parametrize(
    ("runtime", "program"),
    [
        ("apptainer", "srun apptainer exec --bind=HERE,/data --pwd=HERE clip.sif clipgap "),
        (
            "pyxis",
            "srun --container-image=clip.sif --container-mounts=HERE:HERE,/data:/data "
            "--container-workdir=HERE clipgap ",
        ),
    ],
)
def test_containers(
    world: Path, capsys: pytest.CaptureFixture[str], runtime: str, program: str
) -> None:
    asked = f"--container clip.sif --runtime {runtime} --mount /data"
    call(capsys, f"slurm --dry-run {asked} {SCAN} -o out")
    assert program.replace("HERE", str(world)) in (world / "out.slurm/job.sh").read_text()


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("slurm split out --prune a -o keep", 2, "'split' is not a command whose work can be"),
        ("slurm nothing", 2, "such are embed, gap, scan, dedup, domains label, filter, eval"),
        (f"slurm {SCAN}", 2, "--out is missing in COMMAND"),
        (f"slurm {SCAN} -o out --num-shards 3", 2, "leave --num-shards out of COMMAND"),
        (f"slurm {SCAN} -o out --resume", 2, "leave --resume out of COMMAND"),
        (f"slurm {SCAN} -o out --no-such", 2, "No such option"),
        (f"slurm --dry-run --mem 'a\"b' {SCAN} -o out", 2, "cannot stand in a job script"),
    ],
)
def test_what_cannot_be_an_array(
    world: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, said: str
) -> None:
    assert said in call(capsys, text, code)
    assert sorted(path.name for path in world.iterdir()) == ["world"]


def test_a_retry_takes_the_same_options(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, f"slurm --dry-run --tasks 3 {SCAN} -o out")
    call(capsys, f"slurm --dry-run --retry --tasks 3 {SCAN} -o out")
    for other in (f"--tasks 4 {SCAN}", f"--tasks 3 --mem 9G {SCAN}", f"--tasks 3 {SCAN} -v"):
        assert "was written for another call" in call(
            capsys, f"slurm --dry-run --retry {other} -o out", 3
        )


def test_a_cluster_that_names_itself(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipgap.runs.slurm._slurm", lambda *call: "417;north")
    array = Array(world / "out", "out", ["scan"], SlurmOptions())
    array.write()
    assert array._submit("--array=0-15") == "417"


def test_without_slurm_it_says_so(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert "there is no scontrol here" in call(capsys, f"slurm {SCAN} -o out", 5)


# --- on a cluster


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    with ExitStack() as running:
        reason = missing()
        if reason is None:
            try:
                running.enter_context(cluster())
            except (AssertionError, OSError) as error:  # not every machine lets its daemons run
                reason = str(error)
        if reason is not None:
            reason = f"NOT TESTED ON SLURM: {reason} (apt install slurm-wlm munge)"
            if os.environ.get("CLIPGAP_REQUIRE_SLURM"):
                pytest.fail(reason)
            warnings.warn(reason, stacklevel=1)
            pytest.skip(reason)
        yield


def is_over() -> bool:
    """Whether no task waits or runs; those that Slurm lets rest, as it were requeued, go on."""
    tasks = [line.split() for line in say("squeue", "-h", "-r", "--format=%i %r").splitlines()]
    for task, reason in tasks:
        if reason == "BeginTime":
            time.sleep(5)  # until its node is rid of what it was; else it fails before it begins
            say("scontrol", "update", f"JobId={task}", "StartTime=now")
    return not tasks


def test_an_array_makes_the_whole(
    slurm: None,
    world: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """One task is told that its time is up, one is requeued by Slurm, one is killed, and one fills
    its disk."""
    shutil.rmtree(world / "world")  # for one of more shards than are read ahead, and larger ones
    make_world(world / "world", shards=[4000] * 32)
    call(capsys, f"{SCAN} -o out")
    whole = tree(world / "out")
    shutil.rmtree(world / "out")
    (world / "hold").mkdir()
    (world / "hold/sitecustomize.py").write_text(HOLD)
    paths = [str(world / "hold"), str(Path(clipgap.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    small = world / "out.parts/3-of-4"
    small.mkdir(parents=True)
    try:
        say("mount", "-t", "tmpfs", "-o", "size=96k", "small", str(small))
    except subprocess.CalledProcessError as error:  # as in some containers
        pytest.skip(f"NOT TESTED ON SLURM, since there can be no small disk: {error.stderr}")
    request.addfinalizer(lambda: say("umount", str(small)))

    array = f"slurm --json --tasks 4 {{}} {SCAN} -o out"
    job, _merging = call(capsys, array.format(""))["jobs"]
    wait_for("work", lambda: len(list(world.glob("held-*"))) == 4)
    assert call(capsys, array.format("--retry"))["jobs"] == [], "nothing has failed"
    states = [run["state"] for run in call(capsys, "status out --json")["runs"]]
    assert states == ["running"] * 4
    say("scancel", "--batch", "--signal=USR1", f"{job}_0")
    say("scontrol", "requeue", f"{job}_1")
    board = json.loads((world / "out.parts/2-of-4" / PROGRESS / BOARD).read_text())
    os.kill(board["process"], signal.SIGKILL)
    (world / "go").touch()

    def said(task: int) -> str:
        return (world / f"out.slurm/{job}_{task}.log").read_text()

    # While a task is being requeued it may be in no queue, so an empty one is not yet the end.
    def requeued_are_done() -> bool:
        is_over()
        return all(f"share {task} of 4 is done" in said(task) for task in (0, 1))

    wait_for("an end of what was requeued", requeued_are_done)
    wait_for("an end of all tasks", is_over)
    log = said(0)
    assert "shards left; --resume goes on" in log and "share 0 of 4 is done" in log
    assert not (world / "out").exists(), "a share is missing, so nothing is merged"
    runs = call(capsys, "status out --json")["runs"]
    states = [run["state"] for run in runs]
    assert states == ["done", "done", "running", "failed"], "as far as is known, for some minutes"
    assert "part-000" in runs[3]["said"] and "No space left on device" in runs[3]["said"]
    assert runs[3]["host"] == socket.gethostname() and 0 < runs[3]["units_done"] < 8
    kept = {path: path.stat().st_mtime_ns for path in small.glob("train/*.parquet")}
    assert runs[3]["said"] in said(3) and kept

    say("mount", "-o", "remount,size=8m", str(small))
    again = call(capsys, array.format("--retry"))
    assert again["shares"] == [2, 3]
    wait_for("an end of all tasks", is_over)
    assert tree(world / "out") == whole
    assert kept == {path: path.stat().st_mtime_ns for path in kept}, "nothing is done twice"
    assert call(capsys, "status out --json")["finished"] is True
    assert "is finished already" in call(capsys, f"slurm {SCAN} -o out", 3)


def test_arrays_have_a_largest_size(
    slurm: None, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = call(capsys, f"slurm --tasks 20 {SCAN} -o out", 2)
    assert "arrays of this cluster have at most 19 tasks besides the one that merges" in said
