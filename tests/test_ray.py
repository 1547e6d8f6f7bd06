"""Units done by a Ray cluster: two nodes of it on this machine, one of which is lost."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.errors import InputError, Interrupted, UsageError
from clipgap.runs import on_ray, ray_cluster
from clipgap.runs.how import How
from clipgap.runs.on_ray import Ray
from clipgap.runs.ray_cluster import beside_a_node
from clipgap.runs.run import run_units
from clipgap.runs.units import Event, Ledger, Work
from tests.clip_worlds import CLASSES, write_checkpoint, write_config, write_shards
from tests.ray_work import FullDisk, Hears, Marks, Unit, Unlucky, wait_for
from tests.shards import write_keep
from tests.worlds import make_world, tree

if find_spec("ray") is None:  # looked for, not imported: what it is told is read then
    pytest.skip("Ray is not installed", allow_module_level=True)


@dataclass
class Two:
    """A cluster of two nodes, of which the second can be killed."""

    address: str
    second: str  # its id
    kill: Callable[[], None]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Two]:
    told = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # of workers
        **ray_cluster.TOLD,
        **ray_cluster.OWN,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": 48 * "a",
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in told.items():
            environment.setenv(name, value)
        import ray
        from ray.cluster_utils import Cluster

        two = Cluster()
        try:
            two.add_node(num_cpus=1, **beside_a_node())
            second = two.add_node(num_cpus=1, **beside_a_node())
            ray.init(address=two.address, log_to_driver=False, logging_level="error")
        except Exception as error:  # its processes have half a minute, on however busy a machine
            two.shutdown()
            warnings.warn(f"NOT TESTED ON RAY, which does not start here: {error}", stacklevel=1)
            pytest.skip("Ray does not start here")
        try:
            yield Two(
                two.address, second.node_id, lambda: two.remove_node(second, allow_graceful=False)
            )
        finally:
            ray.shutdown()
            two.shutdown()


# --- units that fail


def test_what_fails_again_and_again_is_named_and_what_is_done_is_not_done_again(
    cluster: Two, tmp_path: Path
) -> None:
    units = [Unit(name) for name in ("a", "deadly", "b", "odd", "c", "d")]
    begun = tmp_path / "begun"
    begun.mkdir()
    ledger, how = Ledger(tmp_path / "units.jsonl"), How()
    work = Marks(begun, ("deadly", "odd"))
    with pytest.raises(InputError, match="2 failed 2 times each") as raised:
        list(run_units(work, units, ledger, Ray(tries=2), how))
    host = re.escape(socket.gethostname())
    node = rf"{host} \(Ray node [0-9a-f]{{8}}\)"
    for unit, why in {
        "odd": "a worker process failed: ValueError: no such thing",
        "deadly": "its worker was lost: The actor died unexpectedly .* a lack of memory",
    }.items():
        assert re.search(f"{unit}: on {node}: {why}", str(raised.value))
    assert ledger.records.keys() == set("abcd")

    again = Ledger(tmp_path / "units.jsonl")  # as a driver that was started anew reads it
    again.load()
    for path in begun.iterdir():
        path.unlink()
    list(run_units(Marks(begun), units, again, Ray(), how))
    assert {path.name for path in begun.iterdir()} == {"deadly", "odd"}
    said = {path.read_text() for path in begun.iterdir()}
    assert said == {f"{os.nice(0)}\n"}, "as fast as we are where others compute, too"


def test_workers_are_told_what_all_have_gathered_also_one_in_place_of_a_lost_one(
    cluster: Two, tmp_path: Path
) -> None:
    ledger = Ledger(None)
    ledger.gather(frozenset.union, tell=sorted)
    list(run_units(Hears(tmp_path), [Unit("deadly"), Unit("a")], ledger, Ray(tries=2), How()))
    assert "deadly" in ledger.records["deadly"]["began"]


def test_a_run_that_is_stopped_finishes_what_is_at_hand(cluster: Two, tmp_path: Path) -> None:
    units, how = [Unit(f"{n:02d}") for n in range(40)], How(stop=threading.Event())
    ledger = Ledger(tmp_path / "units.jsonl")
    with pytest.raises(Interrupted, match="left; --resume goes on"):
        for _ in run_units(Marks(tmp_path), units, ledger, Ray(), how):
            how.stop.set()  # type: ignore[union-attr]
    assert 0 < len(ledger.records) < 40


def test_workers_of_other_versions_are_refused(
    cluster: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "versions", lambda *names: {"numpy": "0.1"})
    with pytest.raises(InputError, match=r"has numpy .*, the driver 0\.1; all nodes need the same"):
        list(Ray()(Marks(tmp_path), [Unit("a")], lambda: False, lambda: None))


def test_a_node_whose_disk_is_full_is_done_without(
    cluster: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("a disk of its own for one worker can only be had by root")
    monkeypatch.chdir(tmp_path)
    world = make_world(Path("world"), shards=(4, 0, 2, 3, 5, 7), d=8)

    def full(work: Work, units: Sequence[Any], *asked: Any) -> Iterator[Event]:
        bad = FullDisk(work, cluster.second, Path("there"), tmp_path / "met", times=2)
        yield from Ray(tries=2)(bad, units, *asked)

    clipgap.scan(world.train, world.test_paths, k=5, out="here")
    clipgap.scan(world.train, world.test_paths, k=5, out="there", executor=full)
    assert tree(Path("there")) == tree(Path("here"))
    node = f"{socket.gethostname()} (Ray node {cluster.second[:8]})"
    lost = [said for said in caplog.messages if "No space left on device" in said]
    assert len(lost) == 2
    for said in lost:
        assert f" in hand was lost on {node}: cannot write there/train/part-0000" in said
    assert f"{node} gets no other worker in this run" in caplog.messages


# --- the cluster


def test_what_else_is_dealt_makes_the_same_folders(
    cluster: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    world = make_world(Path("world"), shards=(40, 0, 25, 9), d=8)
    write_shards(Path("tars"), [5, 4])
    config = write_config(Path())
    for seed in range(2):
        write_checkpoint(config, Path(f"{seed}.pt"), seed=seed)
    Path("names.txt").write_text("\n".join(CLASSES))
    Path("prompts.txt").write_text("a picture of a {}\n")
    two = ["a=0.pt", "b=1.pt", "--model", str(config), "--device", "cpu"]
    two += ["--classnames", "names.txt", "--templates", "prompts.txt"]
    pictures = "tars/{00000..00001}.tar"
    domains = ["--data", f"pics={pictures}", "--data", "some=tars/00000.tar", "--draws", "5"]
    train = str(world.train)
    labels = [f"0,{row},{'rendition' if row % 3 else 'natural'}" for row in range(40)]
    Path("labels.csv").write_text("\n".join(["shard,row,domain", *labels]))
    fit = ["domains", "fit", train, "--labels", "labels.csv", "--model", "m", "--precision", "0.1"]
    assert main([*fit, "-o", "heads"]) == 0
    calls = {
        "gap": ["gap", str(world.folder / "reference.npy"), "--test", f"a={world.test_paths['a']}"],
        "labelled": ["domains", "label", train, "--heads", "heads", "--model", "m"],
        "deduped": ["dedup", train, "--epsilon", "0.1", "--clusters", "3"],
        "judged": ["eval", *two, "--data", f"pics={pictures}"],
        "looked": ["analyze", *two, *domains],
    }
    for folder, call in calls.items():
        assert main([*call, "-o", f"here/{folder}"]) == 0
        assert main([*call, "-o", f"there/{folder}", "--engine", "ray"]) == 0
        assert tree(Path("there", folder)) == tree(Path("here", folder))


def test_commands_make_the_same_folders_though_a_node_is_lost(
    cluster: Two,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    world = make_world(Path("world"), shards=(40, 0, 25, 9, 30, 12), d=8)
    made = write_shards(Path("tars"), [5, 1, 4])
    keys = {f"{shard:05d}": [each.key for each in some] for shard, some in enumerate(made)}
    write_keep(Path("keep"), keys, {("00000", 1), ("00000", 4), ("00002", 0)})
    config = write_config(Path())
    checkpoint = write_checkpoint(config, Path("tiny.pt"))
    tars = "tars/{00000..00002}.tar"
    embed = ["embed", tars, "--model", str(config), "--pretrained", str(checkpoint)]
    ways = {"here": [], "there": ["--engine", "ray"]}
    for where, way in ways.items():
        assert main([*embed, "--device", "cpu", "-o", f"{where}/store", *way]) == 0
    for where, way in ways.items():
        assert main(["filter", tars, "--keep", "keep", "-o", f"{where}/kept", *way]) == 0

    held = tmp_path / "held"
    killer = threading.Thread(target=lambda: (wait_for(held), cluster.kill()))
    killer.start()

    def losing(work: Work, units: Sequence[Any], *asked: Any) -> Iterator[Event]:
        yield from Ray()(Unlucky(work, cluster.second, held), units, *asked)

    clipgap.scan(world.train, world.test_paths, k=5, out="here/scan")
    clipgap.scan(world.train, world.test_paths, k=5, out="there/scan", executor=losing)
    killer.join()
    assert "raylet" not in capfd.readouterr().out, "stdout is for results"
    for folder in ("store", "kept", "scan"):  # beside them lie settings, which name the folder
        assert tree(Path("there", folder)) == tree(Path("here", folder))


@pytest.mark.parametrize(
    ("tells", "said"),
    [
        ({"RAY_AUTH_TOKEN": 48 * "b"}, "has another token than that of RAY_AUTH_TOKEN"),
        ({}, "asks for a token. One is sent if RAY_AUTH_TOKEN is it, or"),
    ],
)
def test_who_has_not_its_token_is_told_so(
    cluster: Two, tells: dict[str, str], said: str, tmp_path: Path
) -> None:
    told = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH_")}
    told |= {"HOME": str(tmp_path)} | tells
    done = _connect(cluster.address, env=told)
    assert f"InputError: the Ray cluster at {cluster.address} {said}" in done.stderr


# --- without one


def test_workers_for_the_room_that_there_is() -> None:
    def node(name: str, alive: bool = True, **resources: float) -> dict[str, Any]:
        names = {"NodeID": name, "NodeManagerHostname": name}
        return {**names, "Alive": alive, "Resources": resources}

    def slots(work: Any, cores: int | None, *nodes: dict[str, Any]) -> list[tuple[str, int, int]]:
        found = on_ray._slots(SimpleNamespace(nodes=lambda: nodes), work, cores)
        return [(slot.node, slot.cores, slot.gpus) for slot in found]

    small, large = node("a", CPU=2.0), node("b", CPU=16.0, GPU=2.0)
    gone, head = node("c", False, CPU=99.0), node("d")
    whole, single = SimpleNamespace(), Marks(Path())
    every = (small, large, gone, head)
    assert slots(whole, None, *every) == [("a", 2, 0), ("b", 8, 1), ("b", 8, 1)]
    assert slots(whole, 6, *every) == [("b", 6, 1), ("b", 6, 1)]
    assert slots(single, None, small, head) == [("a", 1, 0), ("a", 1, 0)]
    assert slots(single, 8, large) == [("b", 8, 0), ("b", 8, 0)]
    with pytest.raises(InputError, match="no node of the Ray cluster has room"):
        slots(whole, 3, small)


@pytest.mark.parametrize(
    ("at", "token", "asks", "mode"),
    [
        (None, False, True, "token"),
        ("a port", False, False, "disabled"),
        ("a port", True, False, "disabled"),
        ("auto", True, True, "token"),
    ],
)
def test_tokens_are_asked_for_whatever_ray_does_unless_told(
    at: str | None,
    token: bool,
    asks: bool,
    mode: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    fake = tmp_path / "packages" / "ray"
    (fake / "util").mkdir(parents=True)
    for name in ("exceptions", "util/__init__", "util/scheduling_strategies"):
        (fake / f"{name}.py").touch()
    (fake / "__init__.py").write_text(
        "import os\ntold = []\n"
        "def init(at, **options):\n    told.append((at, dict(os.environ)))\n"
        f"    assert os.environ['RAY_AUTH_MODE'] == 'token' or not {asks}\n"
        "def is_initialized():\n    return False\n"
    )
    monkeypatch.syspath_prepend(fake.parent)
    monkeypatch.setattr(ray_cluster, "_own_cluster", lambda: "its own")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    monkeypatch.setattr(os, "environ", environment | {"PYTHONPATH": str(fake.parent)})
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}" if at == "a port" else at
        ((to, seen),) = ray_cluster.connect(address).told
    assert to == (address or "its own")
    assert seen["RAY_AUTH_MODE"] == mode
    assert seen["RAY_USAGE_STATS_ENABLED"] == "0"
    assert (len(seen.get("RAY_AUTH_TOKEN", "")) == 64) == (address is None)
    for name, value in ray_cluster.OWN.items():
        assert seen.get(name) == (value if address is None else None)
    assert ("asks for no token" in caplog.text) == (token and not asks)
    with pytest.raises(UsageError, match="Ray was imported before"):
        ray_cluster.connect(address)


def test_what_only_ray_takes_is_refused_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    call = ["scan", "x", "--test", "a=a", "-o", "y"]
    for option in (["--address", "auto"], ["--worker-cores", "2"]):
        assert main([*call, *option]) == 2
        assert f"{option[0]} goes with --engine ray" in capsys.readouterr().err


def test_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    done = _connect(address)
    assert f"InputError: no Ray cluster at {address}: Connection refused" in done.stderr


def _connect(address: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """In another process, since what Ray is told is read when it is imported."""
    code = "import sys; from clipgap.runs.ray_cluster import connect; connect(sys.argv[1])"
    call = [sys.executable, "-c", code, address]
    return subprocess.run(call, capture_output=True, text=True, **how)
