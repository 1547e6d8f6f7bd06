"""The commands on real files, from arguments to exit code."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.cli.signals import ASKING, AT_ONCE, stop_on_signals
from clipgap.errors import Interrupted
from clipgap.store.writer import StoreWriter
from clipgap.synthetic import rows as synthetic

D = 32


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three shards to train on, a reference set and two test sets, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").mkdir()
    for shard, size in enumerate((60, 0, 40)):
        rows = synthetic.rows("clip-like", 100 * shard, 100 * shard + size, D, seed=1)
        np.save(tmp_path / "train" / f"{shard:05d}.npy", rows)
    for seed, (name, size) in enumerate({"ref": 30, "a": 9, "b": 7}.items(), start=2):
        np.save(tmp_path / f"{name}.npy", synthetic.clip_like(size, D, seed))
    return tmp_path


def environment() -> dict[str, str]:
    """For a process of its own that imports this clipgap."""
    return {**os.environ, "PYTHONPATH": str(Path(clipgap.__file__).parents[1])}


SETS = ["--test", "a=a.npy", "--test", "b=b.npy"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run with --json; give what it printed."""
    found = main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert found == code, captured.err
    return json.loads(captured.out) if captured.out else {"error": captured.err}


def test_gap_scan_verify(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gap = call(capsys, "gap", "ref.npy", *SETS, "-o", "gap", "-k", "3")
    assert gap["counts"]["rows"] == 30
    scan = call(capsys, "scan", "train", *SETS, "--gap", "gap", "-o", "scan", "--threads", "1")
    assert (scan["out"], scan["kind"], scan["counts"]["rows"]) == ("scan", "scan", 100)
    table = clipgap.open_scan("scan").train_table()
    for name in ("a", "b"):
        pruned = table[f"pruned_{name}"].to_numpy()
        assert scan["counts"]["pruned"][name] == pruned.sum()
        assert 0 < pruned.sum() < 100
    assert scan["run"]["rows"] == 100
    assert call(capsys, "verify", "scan", "--full")["ok"] is True


def test_the_settings_reach_the_scan(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "train" / "00003.npy").write_bytes((data / "train" / "00002.npy").read_bytes())
    spoilt = np.load(data / "train" / "00003.npy")
    spoilt[5, 0] = np.nan
    np.save(data / "train" / "00003.npy", spoilt)
    call(capsys, "scan", "train", *SETS, "-o", "x", code=3)
    options = "-k 2 --bad-rows quarantine --no-train-table --above 0.5 --above 0.25".split()
    options += "--kernel numpy --block-rows 7".split()
    found = call(capsys, "scan", "train", *SETS, "-o", "x", "--overwrite", *options, code=4)
    assert found["quarantined"] == 1
    assert found["run"]["kernel"] == "numpy"
    settings = clipgap.open_scan("x").manifest["settings"]
    assert settings == {
        "k": 2,
        "bad_rows": "quarantine",
        "train_table": False,
        "above": [0.25, 0.5],
    }


def test_existing_output_needs_a_flag(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "scan", "train", *SETS, "-o", "scan")
    assert "--resume" in call(capsys, "scan", "train", *SETS, "-o", "scan", code=3)["error"]
    again = call(capsys, "scan", "train", *SETS, "-o", "scan", "--resume")
    assert again["already_complete"] is True
    assert again["run"] is None
    other = call(capsys, "scan", "train", *SETS, "-o", "scan", "--resume", "-k", "5", code=3)
    assert "was 32, is 5" in other["error"]
    replaced = call(capsys, "scan", "train", *SETS, "-o", "scan", "--overwrite", "-k", "5")
    assert replaced["already_complete"] is False


def test_a_saved_configuration_gives_the_same_scan(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-k", "4", "--above", "0.5", "--gap", "gap"]
    call(capsys, "gap", "ref.npy", *SETS, "-o", "gap")
    call(capsys, "scan", "train", *SETS, *options, "-o", "scan")
    call(capsys, "scan", "--config", "scan.toml", "-o", "again")
    manifests = [
        json.loads((data / out / "manifest.json").read_bytes()) for out in ("scan", "again")
    ]
    assert manifests[0] == manifests[1]
    assert (data / "again.toml").exists()


def test_settings_that_were_changed_are_told_of(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever the bit is, in the sum too; files without our first line are somebody's own."""

    def said(*arguments: str) -> str:
        assert main(["gap", *arguments]) == 0
        return capsys.readouterr().err

    again = ["ref.npy", *SETS, "-o", "x", "--resume"]
    said(*again)
    saved = data / "x.toml"
    whole = saved.read_bytes()
    for at in (whole.index(b"# Again"), whole.index(b"ref.npy"), whole.index(b"# SHA-256"), -2):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        saved.write_bytes(damaged)
        said(*again, "--dry-run")
        assert saved.read_bytes() == damaged
        assert "x.toml was edited, or damaged; it is written anew" in said(*again)
        assert saved.read_bytes() == whole
    assert "edited" not in said("--config", "x.toml", "-o", "y")
    saved.write_bytes(whole.replace(b"ref.npy", b"a.npy"))
    assert "If you edited it, remove its first line." in said("--config", "x.toml", "-o", "z")
    saved.write_bytes(saved.read_bytes().partition(b"\n")[2])
    assert "edited" not in said("--config", "x.toml", "-o", "z", "--overwrite")


def test_dry_run_computes_and_writes_nothing(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(data.rglob("*"))
    plan = call(capsys, "scan", "train", *SETS, "--dry-run")
    assert plan["train"]["rows"] == 100
    assert plan["operations"] == 2 * 100 * 16 * D
    expected = plan["expected"]
    assert expected["seconds"] == plan["operations"] / expected["flops_per_second"]
    assert main(["scan", "train", *SETS, "--dry-run", "-o", "scan"]) == 0
    said = capsys.readouterr().out
    assert "100 rows of 32 in 3 shards" in said
    assert sorted(data.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["scan", "nowhere", *SETS, "-o", "x"], 3, "nowhere"),
        (["scan", "train", "--test", "a", "-o", "x"], 2, "NAME=STORE"),
        (["scan", "train", "--test", "=a.npy", "-o", "x"], 2, "NAME=STORE"),
        (["scan", "train", "--test", "a=a.npy", "--test", "a=b.npy", "-o", "x"], 2, "twice"),
        (["scan", "train", "--test", "a/b=a.npy", "-o", "x"], 2, "'a/b'"),
        (["scan", "train", *SETS], 2, "--out"),
        (["scan", "train", *SETS, "-o", "x", "-k", "65"], 2, "between 1 and 64"),
        (["scan", "train", *SETS, "-o", "x", "--kernel", "best"], 2, "'best'"),
        (["scan", "train", *SETS, "-o", "x", "--bad-rows", "keep"], 2, "'keep'"),
        (["scan", "train", *SETS, "-o", "x", "--resume", "--overwrite"], 2, "--resume"),
        (["scan", "train", *SETS, "-o", "x", "--gap", "nowhere"], 3, "nowhere"),
        (["verify", "nowhere"], 3, "nowhere"),
        (["store", "info", "nowhere"], 3, "nowhere"),
    ],
)
def test_mistakes_are_named_and_leave_nothing_behind(
    data: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    before = sorted(data.rglob("*"))
    assert said in call(capsys, *arguments, code=code)["error"]
    assert sorted(data.rglob("*")) == before


def test_verify_names_what_is_wrong(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "scan", "train", *SETS, "-o", "scan")
    part = data / "scan" / "train" / "part-00002.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    report = call(capsys, "verify", "scan", code=3)
    wrong = [check["detail"] for check in report["checks"] if not check["ok"]]
    assert wrong
    assert all("part-00002.parquet" in detail for detail in wrong)
    assert main(["verify", "scan"]) == 3
    assert "NOT right" in capsys.readouterr().out


def test_verify_finds_inputs_that_have_moved(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "scan", "train", *SETS, "-o", "scan")
    (data / "train").rename(data / "moved")
    (data / "a.npy").rename(data / "c.npy")
    assert "--train" in call(capsys, "verify", "scan", code=3)["error"]
    assert call(capsys, "verify", "scan", "--train", "moved", "--test", "a=c.npy")["ok"] is True


def test_store_info(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.load(data / "train" / "00000.npy")
    rows[3] = 0
    rows[4, 0] = np.inf
    rows[5] *= 2
    np.save(data / "train" / "00000.npy", rows)
    found = call(capsys, "store", "info", "train")
    assert (found["rows"], found["dim"], found["zero"], found["not_finite"]) == (100, D, 1, 1)
    assert main(["store", "info", "train"]) == 0
    said = capsys.readouterr().out
    assert "100 of 32 × float16" in said
    assert "3 of 0 to 60 rows" in said
    assert "row 3: zero" in said
    assert "row 4: not finite" in said
    assert "1 row further than 0.001 from 1" in said


def test_store_info_tells_repeated_keys(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = synthetic.clip_like(4, D, 1)
    for name, keys in {"once": ["abcd", "ef"], "often": ["abca", "ax"]}.items():
        with StoreWriter(name, D) as writer:
            for shard in keys:
                writer.add(rows[: len(shard)], keys=list(shard))
    assert main(["store", "info", "once"]) == 0
    assert "each occurs once" in capsys.readouterr().out
    assert main(["store", "info", "often"]) == 0
    said = capsys.readouterr().out
    assert "1 row repeating a key of their own shard, 1 key in more than one shard" in said
    assert "a: 3 times, at shard:row 0:0, 0:3, 1:0" in said


def test_doctor_says_what_runs_and_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPGAP_THREADS", "1")
    found = call(capsys, "doctor")
    assert found["runs"] in {kernel["name"] for kernel in found["kernels"] if kernel["available"]}
    assert found["versions"]["numpy"] == np.__version__
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"A scan runs {found['runs']!r}" in said
    assert "CLIPGAP_THREADS=1" in said
    versions = said.partition("Versions\n")[2].partition("  python ")[0].splitlines()
    assert len(versions) > 1 and max(map(len, versions)) <= 80
    for kernel in found["kernels"]:
        assert kernel["detail"] in said


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]
)
def test_signals_stop_a_scan_that_then_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    (tmp_path / "train").mkdir()
    rows = synthetic.clip_like(120 * 50, D, 1)
    for shard in range(120):
        np.save(tmp_path / "train" / f"{shard:05d}.npy", rows[50 * shard : 50 * shard + 50])
    np.save(tmp_path / "a.npy", synthetic.clip_like(50, D, 2))
    options = ["scan", str(tmp_path / "train"), "--test", f"a={tmp_path / 'a.npy'}"]
    slow = ["--kernel", "numpy", "--block-rows", "1", "-o", str(tmp_path / "scan")]
    program = "from clipgap.__main__ import run; run()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *options, *slow],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        # The first part that is in place shows that the scan is well under way.
        deadline = time.monotonic() + 60
        while not (tmp_path / "scan" / "train" / "part-00001.parquet").exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert out == ""
    assert "--resume" in error
    assert "Traceback" not in error
    done = len(list((tmp_path / "scan" / "train").glob("part-*.parquet")))
    assert 0 < done < 120

    on = call(capsys, *options, "-o", str(tmp_path / "scan"), "--resume")
    assert on["run"]["rows"] < len(rows), "what was finished is not done again"
    call(capsys, *options, "-o", str(tmp_path / "whole"))
    for path in sorted((tmp_path / "whole").rglob("*.*")):
        same = tmp_path / "scan" / path.relative_to(tmp_path / "whole")
        assert same.read_bytes() == path.read_bytes(), path


def test_a_second_ctrl_c_leaves_at_once() -> None:
    program = (
        "import threading, time\n"
        "from clipgap.cli.signals import stop_on_signals\n"
        "stop = threading.Event()\n"
        "with stop_on_signals(stop, lambda text: print(text, flush=True), 'Stopping.'):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(100)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline().strip() == f"Stopping. {AT_ONCE}", (
            "said at once, not when it sleeps out"
        )
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130


def test_signals_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in ASKING]
    stop = threading.Event()
    with pytest.raises(Interrupted), stop_on_signals(stop, lambda text: None, "Stopping."):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(timeout=60)
        raise Interrupted("stopped")
    assert [signal.getsignal(number) for number in ASKING] == before


def test_the_reference_of_the_command_line_is_current() -> None:
    script = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "cli_reference.py"))
    page = script["TARGET"].read_text(encoding="utf-8")
    assert page == script["reference"](), "run python scripts/cli_reference.py"


@pytest.mark.parametrize("call", ["doctor --json", "doctor", "--help", "scan --help"])
@pytest.mark.parametrize("stdout", ["nobody reads", "closed"])
def test_a_reader_that_leaves_ends_nothing(call: str, stdout: str) -> None:
    command = f"{sys.executable} -m clipgap {call}"
    if stdout == "closed":
        done = subprocess.run(
            ["bash", "-c", f"{command} >&-"], capture_output=True, text=True, timeout=60
        )
    else:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            command.split(), stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60
        )
        os.close(writer)
    assert done.stderr == ""
    # Typer itself ends with 1 where nobody reads its help.
    assert done.returncode in ((0, 1) if "--help" in call else (0,))


def test_an_output_must_have_a_name_that_is_text(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(data.iterdir())
    for out in (b"\xff", b"\xff/s"):
        command = ["scan", "train", "--test", "a=a.npy", "-o", os.fsdecode(out), "--threads", "1"]
        assert main(command) == 3
        assert "is not UTF-8" in capsys.readouterr().err
    assert sorted(data.iterdir()) == before


def test_an_output_behind_links_in_a_circle(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "one").symlink_to("two")
    (data / "two").symlink_to("one")
    before = sorted(data.iterdir())
    for out in ("one", "one/s"):
        command = ["scan", "train", "--test", "a=a.npy", "-o", out, "--threads", "1"]
        assert main(command) == 3
        said = capsys.readouterr().err
        assert f"cannot use {out}: " in said
    assert sorted(data.iterdir()) == before


def test_a_fork_neither_holds_up_the_end_nor_tells_of_its_signals() -> None:
    """As loaders of images are: they outlive the run by a moment, and Ctrl-C goes to all."""
    stop, said = threading.Event(), list[str]()
    here, there = os.pipe(), os.pipe()
    with stop_on_signals(stop, said.append, "Stopping."):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, lambda *_: os.write(here[1], b"asked"))
            os.write(here[1], b"ready")
            os.close(there[1])
            os.read(there[0], 1)  # until the parent closes it
            os._exit(0)
        assert os.read(here[0], 5) == b"ready"
        os.kill(child, signal.SIGTERM)
        assert os.read(here[0], 5) == b"asked"
    assert not stop.is_set() and said == []
    os.close(there[1])
    assert os.waitpid(child, 0)[1] == 0


def offered(
    typed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """What bash is told when tab is pressed."""
    monkeypatch.setenv("_CLIPGAP_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split(" ")) - 1))
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 0
    return capsys.readouterr().out.split()


def test_what_a_shell_offers(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["gap", "ref.npy", *SETS, "-o", "gap", "-q"]) == 0
    (data / "empty").mkdir()
    capsys.readouterr()
    for typed, words in (
        ("clipgap sca", ["scan"]),
        ("clipgap scan --kernel t", ["triton", "triton-float16", "torch"]),
        ("clipgap scan ", ["a.npy", "b.npy", "ref.npy", "train"]),
        ("clipgap scan train --test x=train/00001", ["x=train/00001.npy"]),
        ("clipgap scan train --gap ", ["gap"]),
        ("clipgap split g", ["gap"]),
        ("clipgap scan train -o ", []),  # what is there would be in the way
        ("clipgap run paper-table", ["paper-table1", "paper-table3-core", "paper-table4"]),
        ("clipgap embed --model ViT-B-32-q", ["ViT-B-32-quickgelu"]),
        ("clipgap dedup train --epsilon ", []),
    ):
        assert offered(typed, capsys, monkeypatch) == words, typed
