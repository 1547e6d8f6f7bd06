"""How alike domains are inside of a model: the mathematics by hand, then the command."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import clipgap
from clipgap.__main__ import main
from clipgap.clip.analyze import similarity
from clipgap.clip.analyze.circuits import Tracing, circuit_rows
from clipgap.clip.analyze.concepts import (
    TOPS_SCHEMA,
    _by_frequency,
    concept_rows,
    top_concepts,
)
from clipgap.clip.analyze.probing import Block, Probe, natural_blocks
from clipgap.clip.analyze.probing import Path as Neurons
from clipgap.clip.analyze.similarity import (
    Graph,
    chance_jaccard,
    cka,
    draws,
    hsic,
    jaccard,
    linear_kernel,
    rbf_kernel,
    top,
    weisfeiler_lehman,
)
from clipgap.clip.analyze.tables import map_table, principal
from clipgap.clip.analyze.work import EMBEDDINGS_SCHEMA, _sampled, chosen
from clipgap.clip.data.classes import Classes
from clipgap.clip.eval.sets import EvalSet, Item
from clipgap.clip.eval.work import Batch
from clipgap.clip.images.reading import RawImage
from clipgap.errors import UsageError
from clipgap.synthetic import rows as synthetic
from tests.clip_worlds import CONFIG, encoded, render, write_checkpoint, write_config

ONCE = np.ones((6, 1))


def rows(seed: int, n: int = 6, d: int = 5) -> similarity.Matrix:
    return np.random.default_rng(seed).normal(size=(n, d))


# --- HSIC and CKA


def by_quadruples(k: similarity.Matrix, m: similarity.Matrix, w: similarity.Matrix) -> float:
    """The definition: over all ordered fours of different classes."""
    return math.fsum(
        w[i] * w[j] * w[q] * w[r] * (k[i, j] * m[i, j] + k[i, j] * m[q, r] - 2 * k[i, j] * m[i, q])
        for i, j, q, r in permutations(range(len(k)), 4)
    )


def test_hsic_is_the_sum_over_quadruples_however_classes_weigh() -> None:
    k, m = linear_kernel(rows(1)), rbf_kernel(rows(2))
    weights = draws(6, 5, seed=3)
    expected = [by_quadruples(k, m, column) for column in weights.T]
    assert hsic(k, m, weights) == pytest.approx(expected, rel=1e-12)


def test_hsic_is_the_published_estimator() -> None:
    k, m = (each - np.diag(np.diag(each)) for each in (linear_kernel(rows(1)), rbf_kernel(rows(2))))
    n, one = 6, np.ones(6)
    published = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    published = (published - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))
    assert hsic(k, m, ONCE)[0] / math.perm(6, 4) == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize("kernel", [linear_kernel, rbf_kernel])
def test_cka_does_not_see_rotation_scale_or_place(kernel: Any) -> None:
    first, second = rows(1), rows(2)
    rotation = np.linalg.qr(rows(3, 5, 5))[0]
    value = cka(kernel(first), kernel(second), ONCE)[0]
    moved = cka(kernel(7.5 * first @ rotation + 3), kernel(second), ONCE)[0]
    assert moved == pytest.approx(value, abs=1e-12)
    assert cka(kernel(first), kernel(-0.1 * first @ rotation), ONCE)[0] == pytest.approx(1)
    assert cka(kernel(second), kernel(first), ONCE)[0] == pytest.approx(value)


def test_cka_of_cases_in_closed_form() -> None:
    # Kernels of two pairings of four classes. Of K and itself same, apart and one are 4, 4 and 0
    # fours; of K and another pairing K_ij L_iq has the 4 chains alone.
    k, m = np.zeros((2, 4, 4))
    for one, other in ((0, 1), (2, 3)):
        k[one, other] = k[other, one] = 1
    for one, other in ((0, 2), (1, 3)):
        m[one, other] = m[other, one] = 1
    once = np.ones((4, 1))
    assert hsic(k, k, once)[0] == 2 * 4 + 8
    assert hsic(k, m, once)[0] == -2 * 4
    assert cka(k, m, once)[0] == -0.5  # an unbiased CKA can be negative


def test_no_cka_without_four_classes_or_variation() -> None:
    k = linear_kernel(rows(1))
    weights = np.array([[1, 1, 1, 1, 0, 0], [2, 2, 2, 0, 0, 0.0]]).T
    assert np.isnan(cka(k, k, weights)).tolist() == [False, True]
    assert np.isnan(cka(rbf_kernel(np.ones((6, 3))), k, ONCE)).all()


def test_the_width_of_rbf_is_the_median_of_distances_that_are_not_zero() -> None:
    points = np.array([[0.0], [0.0], [1.0], [3.0]])
    # Squared distances: 0, and twice each 1, 1, 9, 9, 4 (of 1 and 3); their median is 4.
    assert rbf_kernel(points)[2, 3] == pytest.approx(math.exp(-4 / (2 * 4)))
    assert rbf_kernel(points)[0, 1] == 1


def test_seed_0_is_a_seed() -> None:
    assert (draws(9, 4, 0) == draws(9, 4, 0)).all()
    assert (draws(9, 4, 0) != draws(9, 4, 1)).any()
    assert (draws(9, 4, 0)[:, 0] == 1).all()


# --- neurons


def test_top_neurons_of_equals_are_the_first() -> None:
    effects = np.array([[0.0, -3, 3, 1, 3], [0, 0, 0, 0, 0.0]])
    assert [np.flatnonzero(row).tolist() for row in top(effects, 0.4)] == [[1, 2], [0, 1]]
    assert top(np.ones((1, 11)), 0.1).sum() == 2  # rounded up


def test_jaccard_and_chance_by_counting() -> None:
    first = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], np.bool_)
    second = np.array([[0, 1, 1, 0], [0, 0, 1, 1]], np.bool_)
    assert jaccard(first, second).tolist() == [1 / 3, 0]
    sets = [set(each) for each in combinations(range(7), 3)]
    counted = np.mean([len(a & b) / len(a | b) for a in sets for b in sets])
    assert chance_jaccard(7, 3) == pytest.approx(counted)
    assert chance_jaccard(2048, 205) == pytest.approx(205 / (2 * 2048 - 205), rel=0.005)


class Tower(nn.Module):
    """x → (w x) → relu → sum, with a block that works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.last = nn.Linear(3, 2, bias=False)
        self.first.weight.data = torch.tensor([[1.0, 0], [0, 1], [1, -1]])
        self.last.weight.data = torch.tensor([[2.0, -1, 4], [0, 3, 1]])
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.act(self.first(x)))


def test_integrated_gradients_by_hand() -> None:
    tower = Tower()
    probe = Probe("tower", tower, tower, torch.zeros(2))
    blocks = probe.blocks(["first", "act"])
    assert blocks == [Block("first", 0, 1), Block("act", 0, 1)]
    batch = torch.tensor([[1.0, 3], [2, 1]])
    features, (before, after) = probe.read(batch, blocks)
    assert before.tolist() == [[1, 3, -2], [2, 1, 1]]
    assert after.tolist() == [[1, 3, 0], [2, 1, 1]]
    for block, output in zip(blocks, (before, after), strict=True):
        found = probe.attribute(batch, block, output, lambda f: f[:, 0], steps=3)
        assert found.effects.numpy() == pytest.approx(np.array([[2, -3, 0], [4, -1, 4]]))
        assert found.change.tolist() == pytest.approx(features[:, 0].tolist())
    squared = probe.attribute(batch, blocks[1], after, lambda f: f[:, 0] ** 2, steps=2)
    # Along the way the score is s²y², so its gradient is 2 s y w, of which the mean is y w.
    assert squared.effects.numpy() == pytest.approx(np.array([[-2, 3, 0], [28, -7, 28]]))
    cubed = probe.attribute(batch, blocks[1], after, lambda f: f[:, 0] ** 3, steps=2)
    # The middles of two steps give 3 (1/16 + 9/16) / 2 = 15/16 of it.
    assert cubed.effects.sum(1).tolist() == pytest.approx([-15 / 16, 343 * 15 / 16])
    assert cubed.change.tolist() == [-1, 343]


def test_traces_by_hand() -> None:
    """Of a relu whose input is above 0 all comes from that input, else nothing comes of it."""
    tower = Tower()
    probe = Probe("tower", tower, tower, torch.zeros(2))
    first, act = probe.blocks(["first", "act"])
    batch = torch.tensor([[1.0, 3], [2, 1]])
    _, (before, _) = probe.read(batch, [first, act])
    found = probe.trace(batch, (first, act), before, Neurons([0, 1, 2], [2, 0]), steps=2)
    assert found.tolist() == [[0, 0, 1], [3, 0, 0]]
    tracing = Tracing(probe, [first, act], [np.array([[True, True, True]])] * 2, steps=2)
    tracing.add(0, batch[:1])
    tracing.add(0, batch[1:])
    rows = list(tracing.rows(["name"]))
    assert len(rows) == 9 and {row["block"] for row in rows} == {"act"}
    strong = [(row["source"], row["target"], row["effect"]) for row in rows if row["effect"]]
    assert strong == [(0, 0, 3), (1, 1, 4), (2, 2, 1)]


def test_weisfeiler_and_lehman_by_hand() -> None:
    chain = Graph("abc", [("a", "b"), ("b", "c")])
    fork = Graph("abc", [("a", "b"), ("a", "c")])
    short = Graph("abc", [("a", "b")])
    assert weisfeiler_lehman(chain, chain, 3) == pytest.approx([1, 1, 1])
    # Each round adds three names to each; after the first none is common to chain and fork.
    assert weisfeiler_lehman(chain, fork, 3) == pytest.approx([3 / 6, 3 / 9, 3 / 12])
    # Of chain and short the first round has one, a, which leads to b in both; the second has none.
    assert weisfeiler_lehman(chain, short, 2) == pytest.approx([4 / 6, 4 / 9])


def test_circuits_of_two_domains() -> None:
    nodes = [(0, 1), (1, 2), (1, 3)]
    one = {"x": Graph(nodes, [(nodes[0], nodes[1]), (nodes[0], nodes[2])])}
    other = {"y": one["x"], "x": Graph(nodes[:2], [(nodes[0], nodes[1])])}
    rows = list(circuit_rows("a", {"first": one, "second": other}, 4, 0))
    assert [(row["measure"], row["classes"]) for row in rows] == [
        ("edges", 1),
        ("wl-1", 1),
        ("wl-2", 1),
        ("wl-3", 1),
    ]
    assert rows[0]["value"] == rows[0]["low"] == 0.5
    assert rows[1]["value"] == pytest.approx((2 + 1) / math.sqrt(6 * 4))


# --- concepts


def test_concepts_that_domains_share_by_hand() -> None:
    images = [("one", [4, 2]), ("one", [4]), ("one", []), ("other", [4, 3])]
    table = pa.Table.from_pylist(
        [
            {"checkpoint": "a", "domain": domain, "key": "k", "class": "x", "concepts": found}
            for domain, found in images
        ],
        schema=TOPS_SCHEMA,
    )
    (row,) = concept_rows("a", table, 3, 0)
    assert row["value"] == pytest.approx((1 / 5 + 1 / 10 + 1 / 15 + 1 / 20) / 4)
    assert (row["alive"], row["chance"]) == (3, 1)  # three of three is no surprise
    assert _by_frequency({9: 1, 2: 1, 7: 2}) == [7, 2, 9]


def test_seed_0_of_the_autoencoder_is_a_seed() -> None:
    data = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    learned = [top_concepts(data, 30, seed, lambda: None) for seed in (0, 0, 1)]
    assert learned[0] == learned[1] != learned[2]
    untaught = top_concepts(data, 0, 0, lambda: None)
    assert learned[0][1]["missed"] < untaught[1]["missed"]
    assert all(0 <= place < 24 for tops in learned[0][0] for place in tops)


def test_blocks_of_networks() -> None:
    import open_clip
    import torchvision

    clip = open_clip.model.ModifiedResNet([1, 2, 1, 1], 16, 4, image_size=32, width=8)
    stem = ["act1", "act2", "act3", "avgpool"]
    layers = ["layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0"]
    assert natural_blocks(clip) == [*stem, *layers, "attnpool"]
    probe = Probe("clip", clip.eval(), clip, torch.zeros(3, 32, 32))
    found = probe.blocks()
    assert [block.name for block in found] == natural_blocks(clip)
    _, outputs = probe.read(torch.ones(2, 3, 32, 32), found)
    shapes = [tuple(b.rows(o).shape) for b, o in zip(found, outputs, strict=True)]
    assert shapes[0] == (2, 256, 4) and shapes[4] == (2, 64, 32) and shapes[-1] == (2, 1, 16)
    with torch.device("meta"):
        assert natural_blocks(torchvision.models.vit_b_16())[:2] == [
            "encoder.layers.encoder_layer_0",
            "encoder.layers.encoder_layer_1",
        ]
    assert natural_blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == ["0", "1"]


def test_modules_without_one_output_are_refused() -> None:
    act = nn.ReLU()
    tower = nn.Sequential(nn.Linear(2, 2), act, nn.Linear(2, 2), act)
    probe = Probe("tower", tower, tower, torch.zeros(2))
    with pytest.raises(UsageError, match="no one output of '1'"):
        probe.blocks(["1"])
    with pytest.raises(UsageError, match=r"--blocks x\*: tower has no such module"):
        probe.blocks(["x*"])


def test_principal_directions() -> None:
    angles = np.linspace(0, 2 * np.pi, 9)[:-1]
    flat = np.stack([5 * np.cos(angles), np.sin(angles), 0 * angles], axis=1) + 2
    places, shares = principal(flat)
    assert places == pytest.approx(flat[:, :2] - 2)
    assert shares == pytest.approx([25 / 26, 1 / 26])


def test_images_are_chosen_by_their_keys_alone() -> None:
    items = [Item(RawImage(f"{n % 5}/{n}", "", b"", 0), n % 5, None) for n in range(60)]
    classes = Classes.plain("abcde", ())
    domains = [EvalSet("d", "", classes, Listed(order)) for order in (items, items[::-1])]
    assert chosen(domains[0], 3) == chosen(domains[1], 3)
    assert Counter(label for label, _ in chosen(domains[0], 3)) == dict.fromkeys(range(5), 3)
    assert chosen(domains[0], 2) < chosen(domains[0], 3)
    first = sorted(key for _, key in chosen(domains[0], 3))
    assert first != sorted(f"{n % 5}/{n}" for n in range(15)), "not the first of the folder"
    # Two shards may have a sample of the same key; both count.
    batch = Batch(["k", "k", "other"], np.array([0, 0, 1]), [None] * 3, [])
    assert _sampled(batch, {(0, "k"), (1, "other")}, np.array([1, 1])) == [0, 2]


@dataclass(frozen=True)
class Listed:
    """Images without a place."""

    listed: list[Item]
    identity: str = ""
    samples: int | None = None

    def items(self, on_problem: Any) -> Iterator[Item]:
        return iter(self.listed)


def test_a_map_by_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is called; what it makes of rows is its own."""
    asked: list[dict[str, Any]] = []

    class Umap:
        def __init__(self, **given: Any) -> None:
            asked.append(given)

        def fit_transform(self, given: similarity.Matrix) -> Any:
            return given[:, :2].astype(np.float32)

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Umap))
    row = {"key": "k", "class": "x", "embedding": [0.25, 0.5, 1.0]}
    table = pa.Table.from_pylist([row, row], schema=EMBEDDINGS_SCHEMA)
    found, shares = map_table("a", {"one": table, "two": table}, "umap", 0)
    assert asked == [{"densmap": True, "random_state": 0}]
    assert found["domain"].to_pylist() == ["one", "one", "two", "two"]
    assert found["x"].to_pylist() == [0.25] * 4 and shares == []


# --- the command

NAMES = ("circle", "square", "triangle", "cross", "disc", "box")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three domains; `third` lacks the last class, and has an image that is none."""
    root = tmp_path_factory.mktemp("analyze")
    config = write_config(root, vision_cfg={**CONFIG["vision_cfg"], "layers": 2})
    write_checkpoint(config, root / "a.pt")
    for number, domain in enumerate(("first", "second", "third")):
        for label, name in enumerate(NAMES[: 5 if domain == "third" else 6]):
            (root / domain / name).mkdir(parents=True)
            for place in range(3):
                image = encoded(render(label, 100 * number + place))
                (root / domain / name / f"{place}.jpg").write_bytes(image)
    (root / "third" / "box").mkdir()
    (root / "third" / "circle" / "3.jpg").write_bytes(b"none")
    (root / "names.txt").write_text("\n".join(NAMES))
    (root / "prompts.txt").write_text("a picture of a {}\n")
    (root / "only.txt").write_text("\n".join(NAMES[:4]))
    return root


BLOCKS = {"transformer.resblocks.0", "transformer.resblocks.1"}
DOMAINS = ("first", "second", "third")


def arguments(world: Path, **changes: Any) -> dict[str, Any]:
    return {
        "checkpoints": [f"a={world / 'a.pt'}"],
        "data": [f"{name}={world / name}" for name in DOMAINS],
        "model": str(world / "tiny-clip.json"),
        "classnames": str(world / "names.txt"),
        "templates": str(world / "prompts.txt"),
        "device": "cpu",
        "workers": 1,
        "neurons": 2,
        "steps": 4,
        "circuits": 1,
        "concepts": 2,
        "draws": 20,
        **changes,
    }


@pytest.fixture(scope="module")
def analysis(world: Path) -> Iterator[Any]:
    yield clipgap.analyze(out=world / "out", **arguments(world))


def table(analysis: Any, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = analysis.table(f"{name}.parquet").to_pylist()
    return found


def test_each_pair_is_compared_by_the_classes_that_it_shares(analysis: Any) -> None:
    sizes = {(row["first"], row["second"]): row["classes"] for row in table(analysis, "cka")}
    assert sizes == {("first", "second"): 6, ("first", "third"): 5, ("second", "third"): 5}
    assert {row["block"] for row in table(analysis, "cka")} == BLOCKS
    for row in table(analysis, "cka"):
        assert row["value"] <= 1 + 1e-12 and row["low"] <= row["high"]


def test_each_pair_is_compared_by_its_own_domains(analysis: Any) -> None:
    """Not by the last of a loop: each value again, from the tables of the two that it names."""
    seen = {name: table(analysis, f"blocks/a/{name}") for name in DOMAINS}
    for row in table(analysis, "cka"):
        if row["kernel"] == "linear":
            first, second = (
                {
                    each["class"]: each["mean"]
                    for each in seen[row[one]]
                    if each["block"] == row["block"]
                }
                for one in ("first", "second")
            )
            pair = np.array([(first[name], second[name]) for name in first if name in second])
            kernels = (linear_kernel(pair[:, one]) for one in (0, 1))
            assert row["value"] == pytest.approx(cka(*kernels, np.ones((len(pair), 1)))[0])
    counts: dict[tuple[str, str], Counter[int]] = {}
    for row in table(analysis, "tops"):
        counts.setdefault((row["domain"], row["class"]), Counter()).update(row["concepts"])
    for row in table(analysis, "concepts"):
        shares = [
            len(set(one[:size]) & set(other[:size])) / size
            for domain, name in counts
            if domain == row["first"] and (row["second"], name) in counts
            for one, other in [[_by_frequency(counts[row[d], name]) for d in ("first", "second")]]
            for size in (5, 10, 15, 20)
        ]
        assert row["value"] == pytest.approx(np.mean(shares))


def test_means_and_neurons_follow_from_images(analysis: Any, world: Path) -> None:
    """Of one class, with a network that is run apart from all that is tested."""
    from PIL import Image

    from clipgap.clip.models import load

    model = load(str(world / "tiny-clip.json"), str(world / "a.pt"), "cpu")
    images = [Image.open(world / "second" / "cross" / f"{n}.jpg") for n in range(3)]
    batch = torch.stack([model.preprocess(image) for image in images])
    kept: list[torch.Tensor] = []
    block = model.clip.visual.transformer.resblocks[0]  # type: ignore[union-attr]
    block.register_forward_hook(lambda module, given, output: kept.append(output))
    features = model.image_features(batch)
    mean = kept[0].mean(dim=(0, 1)).tolist()
    stated = table(analysis, "blocks/a/second")
    row = next(row for row in stated if row["class"] == "cross")  # of the first block
    assert row["mean"] == pytest.approx(mean, abs=1e-5) and row["images"] == 3
    assert row["samples"] == 2 and len(row["effect"]) == 32
    assert row["error"] >= abs(sum(row["effect"]) - row["change"]) - 1e-12  # a mean of sizes
    embedding = next(
        row["embedding"]
        for row in table(analysis, "embeddings/a/second")
        if row["key"] == "cross/1.jpg"
    )
    assert embedding == pytest.approx(
        torch.nn.functional.normalize(features, dim=1)[1].tolist(), abs=1e-5
    )
    neurons = table(analysis, "neurons")
    assert {(row["neurons"], row["top"]) for row in neurons} == {(32, 4)}
    assert all(row["chance"] == chance_jaccard(32, 4) for row in neurons)
    edges = [row for row in table(analysis, "edges/a/second") if row["class"] == "cross"]
    assert {row["block"] for row in edges} == {"transformer.resblocks.1"}
    assert len(edges) == 3 * 4 and len({row["target"] for row in edges}) == 4
    sizes = {(row["first"], row["second"]): row["classes"] for row in table(analysis, "circuits")}
    assert list(sizes.values()) == [6, 5, 5]
    assert [row["classes"] for row in table(analysis, "concepts")] == [6, 5, 5]


def test_a_resumed_analysis_is_the_same(analysis: Any, world: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(analysis.path, again)
    kept = {p: p.read_bytes() for p in again.rglob("*") if p.is_file()}
    (again / "blocks" / "a" / "third.parquet").write_bytes(b"x")
    (again / "cka.parquet").unlink()
    repaired = clipgap.analyze(out=again, resume=True, **arguments(world))
    assert sorted(repaired.repaired) == ["blocks/a/third.parquet", "cka.parquet"]
    assert {p: p.read_bytes() for p in again.rglob("*") if p.is_file()} == kept


def test_some_classes_alone(world: Path, tmp_path: Path) -> None:
    found = clipgap.analyze(
        out=tmp_path / "out", **arguments(world, only=world / "only.txt", neurons=0, circuits=0)
    )
    assert {row["classes"] for row in table(found, "cka")} == {4}
    assert table(found, "neurons") == table(found, "completeness") == []


def test_the_command(analysis: Any, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["analyze", f"a={world / 'a.pt'}", "--resume", "-o", str(world / "out")]
    for name, value in arguments(world).items():
        for each in value if isinstance(value, list) else [value]:
            call += [] if name == "checkpoints" else [f"--{name.replace('_', '-')}", str(each)]
    assert main([*call, "--json"]) == 4  # an image is in quarantine
    found = json.loads(capsys.readouterr().out)
    assert found["already_complete"] and found["quarantined"] == 1
    assert found["cka"] == table(analysis, "cka")
    assert main([*call, "--allow-bad", "1"]) == 0
    said = capsys.readouterr().out
    assert "first – second" in said and "Effects of neurons miss" in said
    assert main([*call, "--dry-run"]) == 0
    assert "third            16 images" in capsys.readouterr().out


def test_verify_proves_an_analysis(analysis: Any) -> None:
    report = clipgap.verify(analysis.path)
    assert report.ok and [check.name for check in report.checks] == [
        "checksums",
        "domains",
        "pairs",
        "CKA",
        "map",
    ]


@pytest.mark.parametrize("name", ["cka", "neurons", "completeness", "circuits", "concepts", "map"])
def test_verify_finds_what_does_not_follow(analysis: Any, tmp_path: Path, name: str) -> None:
    """A table that was changed, with sums that fit it."""
    from clipgap.clip.analyze.api import KIND, SCHEMAS
    from clipgap.files.documents import MANIFEST, SUM, write_document
    from clipgap.files.parquet import write_tables

    forged, file = tmp_path / "forged", f"{name}.parquet"
    shutil.copytree(analysis.path, forged)
    stated = table(analysis, name)
    column = {"map": "x", "completeness": "error"}.get(name, "value")
    stated[1][column] += 0.01
    sums = write_tables(
        forged / file, SCHEMAS[file], [pa.Table.from_pylist(stated, schema=SCHEMAS[file])]
    )
    manifest = {key: value for key, value in analysis.manifest.items() if key != SUM}
    manifest["files"] = {**manifest["files"], file: {"sha256": sums.sha256, "size": sums.size}}
    write_document(forged / MANIFEST, KIND.form, manifest)
    assert not clipgap.verify(forged).ok


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "first={world}/first"}, "name two or more"),
        ({"only": "{world}/few.txt"}, "have images of 3 classes in common"),
        ({"only": "{world}/wrong.txt"}, "'cube' is none of the 6 classes of first"),
        ({"circuits": 3}, "--circuits 3 leads between the top neurons of as many images"),
        ({"map": "umap"}, "umap-learn is not installed"),
        ({"checkpoints": "{world}/classifier.pt"}, "is a classifier"),
    ],
)
def test_what_is_refused(world: Path, tmp_path: Path, changes: dict[str, str], said: str) -> None:
    from tests.eval_worlds import write_classifier

    (world / "few.txt").write_text("circle\nsquare\ncross")
    (world / "wrong.txt").write_text("circle\ncube")
    if "checkpoints" in changes:
        write_classifier(world / "classifier.pt", NAMES)
    filled = {k: v.format(world=world) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(clipgap.ClipgapError, match=said):
        clipgap.analyze(out=tmp_path / "out", **arguments(world, **filled))
    assert not (tmp_path / "out").exists()


def test_a_report_shows_an_analysis(analysis: Any, tmp_path: Path) -> None:
    for seed, (name, size) in enumerate({"train": 9, "val": 4}.items()):
        np.save(tmp_path / f"{name}.npy", synthetic.clip_like(size, 16, seed))
    clipgap.scan(
        tmp_path / "train.npy", {"val": tmp_path / "val.npy"}, out=tmp_path / "scan", threads=1
    )
    report = clipgap.report(tmp_path / "scan", analyses=analysis.path, out=tmp_path / "report")
    (found,) = json.loads((report.path / "report.json").read_text())["analyses"]
    assert (found["checkpoint"], found["domains"]) == ("a", list(DOMAINS))
    for name in ("cka", "neurons", "completeness", "circuits", "concepts"):
        assert found[name] == table(analysis, name)
    assert len(found["points"]) == 18 + 18 + 15
    page = report.page.read_text()
    for title in ("Likeness of domains by block", "Shared neurons by block", "Map of the"):
        assert title in page
    assert "first – second" in page and "of what the cosine changes by" in page
    figures = sorted(path.name for path in (report.path / "figures").glob("cka-by-block-*"))
    assert figures == [f"cka-by-block-{n + 1}-a-{name}.svg" for n, name in enumerate(DOMAINS)]
    assert clipgap.verify(report.path).ok
