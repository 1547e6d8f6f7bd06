"""What commands would take: sums by hand, of rates that are kept, typed or assumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipgap
from clipgap.__main__ import main
from clipgap.bench import plan as plans
from clipgap.bench.options import Doing, Rates
from clipgap.bench.towers import towers
from clipgap.errors import UsageError
from clipgap.study import prices
from clipgap.study.expand import expand
from clipgap.study.recipe import read_recipe, shipped_recipes
from tests.stores import unit_rows

HERE = {"cpu": "made up", "cores": 2}
BASE = {"run": "2026-01-01T00:00:00Z", "machine": HERE}
TABLES = {**BASE, "suite": "files to tables", "d": 500}
KERNEL = {
    **BASE,
    "suite": "kernels",
    "data": "clip-like",
    "d": 500,
    "tests": 1000,
    "threads": 2,
    "contender": "clipgap cpu/avx2",
    "gflops": {"p50": 100.0},
}
GPU = {
    **BASE,
    "suite": "gpu",
    "device": "NVIDIA A100-SXM4-80GB",
    "d": 640,
    "tests": 1024,
    "contender": "clipgap cuda, streamed",
    "tflops": {"p50": 200.0},
}


def memory(figure: str, tests: int, peak: float) -> dict[str, Any]:
    return {**TABLES, "figure": figure, "runs": [{"tests": tests, "peak_mib": peak}]}


ROWS = [
    KERNEL,
    {**KERNEL, "contender": "clipgap cpu/avx2, k=1", "gflops": {"p50": 900.0}},
    {**KERNEL, "contender": "faiss", "gflops": {"p50": 900.0}},
    {**KERNEL, "tests": 9000, "gflops": {"p50": 900.0}},
    {**TABLES, "figure": "reading and writing, one test set", "value": 2.0},
    {**TABLES, "figure": "reading and writing, six test sets", "value": 7.0},
    memory("peak memory at 8N", 1000, 200.0),
    memory("time at N, M", 2000, 100.0),
    memory("time at 4M / at M", 8000, 160.0),
    {
        **BASE,
        "suite": "split",
        "case": "prune by six",
        "does": "write",
        "keys": "numbers",
        "threads": 1,
        "mrows_per_second_and_core": 0.5,
    },
    {**BASE, "suite": "filter", "case": "cp and sync", "gb_read_per_second": 1.0},
]
SIZE = {"rows": "1M", "points": "1,000", "dim": 500, "sets": 3}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return keep(tmp_path, ROWS)


def keep(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "made-up.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_a_scan_on_cores_by_kept_rates(kept: Path) -> None:
    found = clipgap.plan(**SIZE, on="10cores", measured=kept)
    (stage,) = found.stages
    assert (stage.name, stage.rows, stage.operations) == ("scan", 10**6, 1e12)
    assert stage.bytes_read == 10**6 * (2 * 500 + 12)
    assert stage.bytes_written == found.disk_bytes == 10**6 * (12 + 3 * 8)
    # 50 GFLOP/s a core; 2 µs a row and 1 more for each set after the first; 1 GB/s.
    assert stage.working == pytest.approx({"compute": 2.0, "writer": 0.4})
    assert stage.waiting == pytest.approx({"disk": 1.048})
    assert stage.seconds == pytest.approx(2.4), "the same cores compute and write"
    assert stage.binds == "compute"
    assert found.device_hours == pytest.approx(24 / 3600)
    assert found.memory_bytes == 200 * 2**20
    more = clipgap.plan(**{**SIZE, "points": "11000"}, on="10cores", measured=kept)
    assert more.memory_bytes == 300 * 2**20


def test_what_binds_is_named(kept: Path) -> None:
    def binds(**more: Any) -> str:
        found = clipgap.plan(**{**SIZE, "on": "10cores", "measured": kept, **more})
        return found.stages[0].binds

    assert binds(disk="100MB/s") == "disk"
    assert binds(network="20M") == "network"
    assert binds(rate="5T", disk="1TB/s") == "writer"
    assert binds(on="1xA100", cores=1) == "writer"
    assert binds(on="1xA100", cores=9999, rate="1T", disk="1TB/s") == "compute"


def test_a_reference_adds_its_gap_and_the_split(kept: Path) -> None:
    found = clipgap.plan(**{**SIZE, "sets": 6}, reference="100k", on="10cores", measured=kept)
    gap, scan, split = found.stages
    assert (gap.rows, gap.bytes_written) == (100_000, 100_000 * (12 + 6 * 8))
    assert scan.bytes_written == 10**6 * (12 + 6 * 16), "with margins and witnesses"
    assert split.working == {"writer": pytest.approx(0.2)}
    assert found.seconds == gap.seconds + scan.seconds + split.seconds


def test_a_gpu_has_the_rate_of_a_row_or_of_an_assumption_that_says_so(tmp_path: Path) -> None:
    unknown = clipgap.plan(**SIZE, on="8xA100", measured=keep(tmp_path, ROWS))
    assert unknown.rates["compute"].value == pytest.approx(0.3 * 624e12)
    assert unknown.rates["compute"].why.startswith("ASSUMED, 30% of the 624 TOPS")
    typed = clipgap.plan(**SIZE, on="8xV100", rate="30T", measured=tmp_path)
    assert typed.rates["compute"].value == 30e12
    with pytest.raises(UsageError, match="no row has the rate of V100"):
        clipgap.plan(**SIZE, on="8xV100", measured=tmp_path)
    resident = {**GPU, "contender": "clipgap cuda, resident", "tflops": {"p50": 900.0}}
    other = {**GPU, "device": "NVIDIA H100", "tflops": {"p50": 900.0}}
    known = clipgap.plan(
        **SIZE, on="8xA100", efficiency=0.9, measured=keep(tmp_path, [*ROWS, resident, other, GPU])
    )
    assert known.rates["compute"].value == 200e12
    assert "NVIDIA A100-SXM4-80GB" in known.rates["compute"].why


def test_what_nobody_measured_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = "plan --rows 1M --tests 1000 --dim 500 --on 8xA100 --measured".split()
    assert main([*call, str(keep(tmp_path, []))]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Projected, not measured, for 8 × A100:")
    for name in ("writer", "disk", "memory"):
        assert f"  {name:9} no row tells it, so it is left out" in said


# --- models, deduplication, recipes

CONFIG = {
    "embed_dim": 6,
    "vision_cfg": {"image_size": 4, "patch_size": 2, "width": 4, "layers": 2},
    "text_cfg": {"context_length": 3, "width": 2, "layers": 1},
}
# Two layers of five tokens, after four patches of 2 × 2 pixels; one layer of three.
IMAGE = 2 * 5 * (24 * 4**2 + 4 * 5 * 4) + 2 * 4 * 3 * 2**2 * 4
TEXT = 3 * (24 * 2**2 + 4 * 3 * 2)


@pytest.fixture
def model(kept: Path) -> str:
    """A small model, and rows of runs with it: 50 images a second and core, decoded at 100."""
    path = kept.parent / "tiny.json"
    path.write_text(json.dumps(CONFIG))
    rates = {"forward": {"p50": 100.0}, "decode": {"p50": 200.0}}
    embed = {"suite": "embed", "model": str(path), "threads": 2, "image_pixels": [256, 256]}
    kmeans = {"suite": "dedup", "race": "kmeans", "rows": 1000, "clusters": 10, "d": 500}
    rows = [
        {**BASE, **embed, "images_per_second": rates},
        {**BASE, **kmeans, "iterations": 2, "threads": 1, "seconds": 0.02},
    ]
    keep(kept.parent, [*ROWS, *rows])
    return str(path)


def test_images_go_through_a_model(kept: Path, model: str) -> None:
    asked = {"on": "10cores", "measured": kept, "model": model}
    (embed,) = clipgap.plan(command="embed", rows="1M", **asked).stages
    assert embed.operations == 10**6 * IMAGE
    assert embed.working == pytest.approx({"compute": 2000.0, "decode": 1000.0})
    assert embed.seconds == pytest.approx(3000), "the same cores decode and compute"
    assert (embed.bytes_read, embed.bytes_written) == (24e9, 10**6 * (2 * 6 + 12))
    found = clipgap.plan(command="train", rows="1M", epochs=3, **asked)
    assert found.stages[0].operations == 3 * 10**6 * 3 * (IMAGE + TEXT)
    assert found.rates["image"].why.startswith("ASSUMED")
    (evaluated,) = clipgap.plan(command="eval", points="1k", **asked).stages
    assert (evaluated.operations, evaluated.bytes_written) == (1000 * IMAGE, 0)


def test_what_binds_models_is_named(kept: Path, model: str) -> None:
    def planned(**more: Any) -> Any:
        asked = {"rows": "1M", "on": "8xA100", "disk": "1TB/s", "cores": 1, **more}
        return clipgap.plan(command="embed", measured=kept, model=model, **asked)

    found = planned()
    assert found.stages[0].binds == "decode"
    assert found.rates["model"].value == pytest.approx(0.3 * 312e12)
    assert found.rates["model"].why.startswith("ASSUMED, 30% of the 312 TFLOPS")
    assert planned(disk="1MB/s").stages[0].binds == "disk"
    assert planned(model_rate="1k").stages[0].binds == "compute"
    assert planned(image_bytes="5k").stages[0].bytes_read == 5e9


def test_a_deduplication(kept: Path, model: str) -> None:
    asked = {"rows": "1M", "dim": 500, "on": "10cores", "measured": kept, "disk": "1TB/s"}
    found = clipgap.plan(command="dedup", clusters=1000, iterations=4, **asked)
    assigning, pairs = 2 * 10**6 * 1000 * 500 * 5, 10**12 * 500 / 1000
    assert found.stages[0].operations == assigning + pairs
    # k-means: 1 GFLOP/s a core; pairs: by the kernel of a scan, 50.
    assert found.stages[0].working == pytest.approx({"compute": assigning / 1e10 + pairs / 5e11})
    assert found.rates["clusters"].why == "ASSUMED, all of one size"
    (all_pairs,) = clipgap.plan(command="dedup", **asked).stages
    assert (all_pairs.operations, all_pairs.binds) == (10**12 * 500, "compute")


PICTURES = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "patch_size": 16, "width": 256, "layers": 2},
    "text_cfg": {"width": 256, "heads": 4, "layers": 2},
}


def test_memory_of_embedding_is_that_of_runs(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open_clip")
    monkeypatch.chdir(kept.parent)
    Path("model.json").write_text(json.dumps(PICTURES))
    Path("images").mkdir()
    for number in range(64):
        pixels = np.full((32, 32, 3), number, np.uint8)
        Image.fromarray(pixels).save(f"images/{number:02}.png")

    def planned(batch: int) -> float | None:
        asked = {"rows": "64", "model": "model.json", "batch_size": batch, "on": "2cores"}
        return clipgap.plan(command="embed", measured=kept, **asked).memory_bytes

    hold(
        [planned(8), planned(64)],
        *("clipgap.embed('images', 'model.json', '', batch_size=8, device='cpu', out='a')",),
        *("clipgap.embed('images', 'model.json', '', batch_size=64, device='cpu', out='b')",),
    )


def test_memory_of_deduplicating_is_that_of_runs(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(kept.parent)
    for name, rows, dim in (("small", 2000, 64), ("large", 20_000, 512)):
        np.save(f"{name}.npy", unit_rows(rows, 0, dim))

    def planned(rows: str, dim: int, clusters: int) -> float | None:
        asked = {"rows": rows, "dim": dim, "clusters": clusters, "memory": 0.01, "on": "2cores"}
        return clipgap.plan(command="dedup", measured=kept, **asked).memory_bytes

    more = "iterations=1, memory=10_000_000"
    hold(
        [planned("2k", 64, 20), planned("20k", 512, 8000)],
        f"clipgap.dedup('small.npy', 0.1, clusters=20, {more}, out='a')",
        f"clipgap.dedup('large.npy', 0.1, clusters=8000, {more}, out='b')",
    )


def hold(planned: list[float | None], *calls: str) -> None:
    """One call after the other in one process, whose peak can only grow."""
    measure = "; print(clipgap.bench.processes.peak_mib())\n"
    code = "import clipgap, clipgap.bench.processes\n" + measure.join([*calls, ""])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found = [float(line) * 2**20 for line in done.stdout.split()]
    assert len(found) == len(planned), done.stderr
    for peak, said in zip(found, planned, strict=True):
        assert 0.75 < said / peak < 1.33, (planned, found)  # type: ignore[operator]
    (small, large), (little, much) = planned, found
    assert 0.6 < (large - small) / (much - little) < 1.6, (planned, found)  # type: ignore[operator]


@pytest.mark.parametrize(
    "change",
    [
        *({"vision_cfg": {}}, {"vision_cfg": []}, {"embed_dim": 10**400}, {"text_cfg": None}),
        {"vision_cfg": {**CONFIG["vision_cfg"], "layers": [3, 4, 6, 3]}},  # type: ignore[dict-item]
        {"vision_cfg": {**CONFIG["vision_cfg"], "patch_size": 0}},  # type: ignore[dict-item]
        {"vision_cfg": {**CONFIG["vision_cfg"], "image_size": [4]}},  # type: ignore[dict-item]
    ],
    ids=str,
)
def test_a_configuration_of_another_kind(
    kept: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = kept.parent / "other.json"
    path.write_text(json.dumps({**CONFIG, **change}))
    asked = ["--model", str(path), "--on", "8xA100", "--measured", str(kept)]
    assert main(["plan", "embed", "--rows", "5", *asked]) == 2
    assert "only what vision transformers take is known" in capsys.readouterr().err


RECIPE = """
[paths]
images = { about = "shards" }
photos = { about = "a set" }

[values]
model = "MODEL"

[stages.store]
command = "embed"
data = "{images}"
model = "{model}"
pretrained = ""

[stages.set]
command = "embed"
data = "{photos}"
model = "{model}"
pretrained = ""

[stages.scan]
command = "scan"
train = "{store}"
test = ["photos={set}"]

[stages.far]
command = "split"
source = ["{scan}"]
far = 100
by = ["photos"]

[stages.proof]
command = "verify"
path = "{far}"

[stages.trained]
command = "train"
model = "{model}"
train-data = "{images}"
keep = "{far}"
epochs = 2
"""


def test_a_recipe(kept: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = kept.parent / "study.toml"
    recipe.write_text(RECIPE.replace("MODEL", model))
    call = ["plan", str(recipe), "--on", "10cores", f"--measured={kept}", "--count", "photos=1k"]
    assert main(call) == 2
    assert "Give --count NAME=N for images" in capsys.readouterr().err
    assert main([*call, "--count=images=1M", "--count=far=400k", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(stage["name"], stage["rows"]) for stage in found["stages"]] == [
        *(("store", 10**6), ("set", 1000), ("scan", 10**6), ("far", 10**6)),
        ("trained", 2 * 400_000),
    ]
    scan, trained = found["stages"][2], found["stages"][-1]
    assert scan["operations"] == 2 * 10**6 * 1000 * 6
    assert trained["operations"] == 800_000 * 3 * (IMAGE + TEXT)
    assert found["left_out"] == {"proof": "what `verify` takes is not known"}


def test_recipes_that_we_bring_are_planned(
    kept: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their stages are, all of them are priced or named."""
    monkeypatch.setattr(prices, "towers", lambda _: towers(model))
    monkeypatch.setattr(plans, "towers", lambda _: towers(model))
    for name, file in shipped_recipes().items():
        recipe = read_recipe(file)
        stages = expand(recipe, kept.parent)
        counts = [f"{each}=1000" for each in (*recipe.paths, *stages)]
        doing, rates = Doing(model=model), Rates(on="8xA100", measured=kept)
        found, left_out = prices.plan_recipe(name, counts, doing=doing, rates=rates)
        assert {stage.name for stage in found.stages} | left_out.keys() == stages.keys(), name


@pytest.mark.parametrize("change", [{"threads": 0}, {"model": 5}, {"images_per_second": {}}])
def test_rows_of_models_that_are_damaged(
    kept: Path, model: str, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    keep(kept.parent, [{**row, **change} if row["suite"] == "embed" else row for row in rows])
    call = ["plan", "embed", "--rows", "5", "--model", model, "--on", "2cores"]
    assert main([*call, "--measured", str(kept)]) == 3
    assert f"line {len(ROWS) + 1}: not a row" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("embed --rows 5", "--model is missing"),
        ("embed --rows 5 --model no-such", "--model no-such: there is no such configuration"),
        ("embed images --rows 5 --model x", "images are not counted"),
        ("train --model x", "--rows is missing"),
        ("dedup --rows 5", "--dim is missing"),
        ("scan a b", "'b' is one store too many"),
        ("scan --count a=5", "--count goes with a recipe"),
        ("decontaminate --test a=b", "a recipe says what it reads"),
        ("decontaminate --count nothing=5", "has no such path or stage"),
        ("decontaminate --count train=5 --count evaluation=5", "reads embeddings of unknown size"),
    ],
)
def test_what_cannot_be_planned(
    kept: Path, call: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *call.split(), "--on", "2cores", f"--measured={kept}"]) == 2
    assert said in capsys.readouterr().err


def test_stores_say_their_sizes(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = kept.parent
    for seed, (name, rows) in enumerate({"train": 50, "a": 7, "b": 5, "ref": 9}.items()):
        np.save(folder / f"{name}.npy", unit_rows(rows, seed).astype(np.float32))
    call = ["plan", str(folder / "train.npy"), f"--test=a={folder / 'a.npy'}"]
    call += [f"--test=b={folder / 'b.npy'}", f"--reference={folder / 'ref.npy'}", "--json"]
    assert main([*call, f"--measured={kept}"]) == 0
    found = json.loads(capsys.readouterr().out)
    dim = np.load(folder / "train.npy").shape[1]
    gap, scan, _ = found["stages"]
    assert (gap["rows"], scan["rows"]) == (9, 50)
    assert scan["operations"] == 2 * 50 * 12 * dim
    assert scan["bytes_read"] == 50 * (4 * dim + 12)
    assert scan["bytes_written"] == 50 * (12 + 2 * 16)
    assert found["projection"] is True


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--rows", "many"], "--rows many: expected a number"),
        (["--rows", "0"], "--rows 0: expected a number"),
        (["--on", "A100"], "--on A100"),
        (["--on", "0cores"], "--on 0cores"),
        (["--disk", "fast"], "--disk fast"),
        (["--rows", ""], "--rows"),
        (["--efficiency", "7"], "between 0.001 and 2"),
    ],
)
def test_numbers_that_are_none(
    kept: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call = f"plan --rows 5 --tests 5 --dim 5 --on 4cores --measured {kept}".split()
    assert main([*call, *more]) == 2
    assert said in capsys.readouterr().err


def test_what_is_missing_or_said_twice(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(kept.parent / "train.npy", unit_rows(5, 0))
    store = str(kept.parent / "train.npy")
    for call, said in (
        (["--tests", "5", "--dim", "5"], "--rows is missing"),
        ([store], "--tests is missing"),
        (["--rows", "5", "--tests", "5"], "--dim is missing"),
        ([store, "--tests", "5", "--rows", "5"], "--rows is given beside a store"),
        ([store, "--tests", "5", "--dim", "5"], "--dim is given beside a store"),
    ):
        assert main(["plan", *call, "--measured", str(kept)]) == 2
        assert said in capsys.readouterr().err
    typed = ["plan", "--rows", "5", "--tests", "5", "--dim", "5"]
    assert main([*typed, "--measured", str(kept.parent / "none")]) == 2
    assert "clipgap bench" in capsys.readouterr().err
    kept.write_text(kept.read_text() + '{"suite": "kernels"}\n')
    assert main([*typed, "--measured", str(kept)]) == 3
    assert f"{kept}, line {len(ROWS) + 1}: not a row" in capsys.readouterr().err
