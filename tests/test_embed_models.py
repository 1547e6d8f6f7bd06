"""Models by name: what is loaded, what is refused, and in which words."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from clipgap.clip import networks
from clipgap.clip.models import identify, load, resolve_device
from clipgap.clip.networks import register_config
from clipgap.errors import ClipgapError, InputError, MissingDependency, UsageError
from tests.clip_worlds import CONFIG, render, write_checkpoint, write_config


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    config = write_config(folder)
    return config, write_checkpoint(config, folder / "tiny.pt")


def message(kind: type[ClipgapError], *arguments: Any) -> str:
    with pytest.raises(kind) as caught:
        load(*arguments)
    return str(caught.value)


def test_a_checkpoint_is_what_open_clip_makes_of_it(tiny: tuple[Path, Path]) -> None:
    import open_clip

    config, checkpoint = tiny
    open_clip.add_model_config(config)
    wanted, _, preprocess = open_clip.create_model_and_transforms(
        config.stem, pretrained=str(checkpoint)
    )
    wanted.eval()
    loaded = load(str(config), str(checkpoint), "cpu")
    image = render(1, 9)
    assert torch.equal(loaded.preprocess(image), preprocess(image))
    batch = torch.stack([loaded.preprocess(render(label, 3)) for label in range(4)])
    with torch.no_grad():
        assert torch.equal(loaded.image_features(batch), wanted.encode_image(batch))
    assert loaded.dim == 16 == loaded.image_features(batch).shape[1]
    assert loaded.tokenizer is not None
    words = ["a red circle", "a dog"]
    assert torch.equal(loaded.tokenizer(words), open_clip.get_tokenizer(config.stem)(words))


def test_random_weights_are_always_the_same(
    tiny: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    config, checkpoint = tiny
    batch = torch.rand(2, 3, 32, 32)
    state = torch.random.get_rng_state()
    first = load(str(config), "", "cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "has random weights" in caplog.text
    torch.manual_seed(123)
    assert torch.equal(
        first.image_features(batch), load(str(config), "", "cpu").image_features(batch)
    )
    trained = load(str(config), str(checkpoint), "cpu")
    assert not torch.equal(first.image_features(batch), trained.image_features(batch))


def test_networks_that_load_side_by_side_leave_warnings_on(
    tiny: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)  # whatever a training before left
    one, other = networks._quiet(), networks._quiet()
    for step in (one.__enter__, other.__enter__):
        step()
    for end in (one, other):
        end.__exit__(None, None, None)
    load(str(tiny[0]), "", "cpu")
    assert [record.name for record in caplog.records] == ["clipgap.clip.models"]


@pytest.mark.parametrize("precision", ["amp", "bf16"])
def test_lower_precision_is_near(tiny: tuple[Path, Path], precision: str) -> None:
    batch = torch.rand(2, 3, 32, 32)
    exact = load(str(tiny[0]), str(tiny[1]), "cpu").image_features(batch)
    rough = load(str(tiny[0]), str(tiny[1]), "cpu", precision).image_features(batch).float()
    assert not torch.equal(exact, rough)
    assert torch.cosine_similarity(exact, rough).min() > 0.999


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet10t"])
def test_features_come_before_the_classifier(name: str) -> None:
    loaded = load(name, "", "cpu")
    assert loaded.dim == 512 and loaded.clip is None and loaded.tokenizer is None
    features = loaded.image_features(loaded.preprocess(render(0, 0))[None])
    assert features.shape == (1, 512) and features.min() >= 0  # pooled behind a ReLU


def test_a_classifier_of_other_classes_gives_its_features(tmp_path: Path) -> None:
    import torchvision

    classifier = torchvision.models.resnet18(num_classes=7).eval()
    torch.save({"state_dict": classifier.state_dict()}, tmp_path / "seven.pt")
    loaded = load("torchvision:resnet18", str(tmp_path / "seven.pt"), "cpu")
    batch = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        wanted = classifier(batch)
        got = classifier.fc(loaded.image_features(batch))
    assert torch.equal(got, wanted)


TOWER = """
import torch

def tower():
    pool, flatten = torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()
    return torch.nn.Sequential(pool, flatten, torch.nn.Linear(12, 5))

def with_pixels():
    return tower(), lambda image: torch.full((3, 2, 2), image.size[0] / 100)

def names():
    return ["not", "a", "network"]
"""


def test_a_function_makes_a_network_and_a_file_its_weights(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TOWER)
    loaded = load(f"{file}:with_pixels", None, "cpu")
    assert (
        loaded.dim == 5 and loaded.preprocess(render(0, 0))[0, 0, 0] == render(0, 0).size[0] / 100
    )
    said = loaded.identity["preprocess"]["transforms"]
    assert said == "<function with_pixels.<locals>.<lambda>>"  # in whatever process
    usual = load(f"{file}:tower", None, "cpu")
    assert usual.preprocess(render(0, 0)).shape == (3, 224, 224)
    state = {"2.weight": torch.eye(5, 12), "2.bias": torch.zeros(5)}
    torch.save(state, tmp_path / "weights.pt")
    weighted = load(f"{file}:tower", str(tmp_path / "weights.pt"), "cpu")
    batch = torch.rand(8, 3, 2, 2)
    assert torch.equal(weighted.image_features(batch), batch.flatten(1)[:, :5])
    wrong = message(InputError, f"{file}:names", None, "cpu")
    assert "gives a list; it has to give a torch.nn.Module" in wrong
    assert "has no function 'towr'" in message(UsageError, f"{file}:towr", None, "cpu")
    assert "cannot import no_such" in message(UsageError, "no_such.module:tower", None, "cpu")
    torch.save({"2.weight": torch.eye(5, 12)}, tmp_path / "half.pt")
    half = f"{file}:tower", str(tmp_path / "half.pt"), "cpu"
    assert "2.bias is missing" in message(InputError, *half)


def test_who_changes_his_function_has_another_model(tmp_path: Path) -> None:
    file, moved = tmp_path / "mine.py", tmp_path / "elsewhere" / "mine.py"
    moved.parent.mkdir()
    for each in (file, moved):
        each.write_text(TOWER)
    first = identify(f"{file}:tower", None)
    assert first == identify(f"{moved}:tower", None) and first["model"] == "mine.py:tower"
    moved.write_text(TOWER + "# another\n")
    assert first != identify(f"{moved}:tower", None)


def test_torchscript_computes_what_was_traced(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()).eval()
    batch = torch.rand(8, 3, 16, 16)
    file = tmp_path / "traced.pt"
    torch.jit.trace(network, batch).save(str(file))
    loaded = load(str(file), None, "cpu")
    assert loaded.dim == 12 and torch.equal(loaded.image_features(batch), network(batch))
    assert loaded.identity["model"] == "traced.pt" and loaded.identity["config_sha256"]
    assert "leave --pretrained out" in message(UsageError, str(file), str(file), "cpu")
    torch.save(network.state_dict(), tmp_path / "state.pt")
    assert "go with --pretrained" in message(InputError, str(tmp_path / "state.pt"), None, "cpu")


def test_checkpoints_of_another_architecture_name_the_first_tensors(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    wide = write_config(tmp_path, "wide", vision_cfg={**CONFIG["vision_cfg"], "width": 48})  # type: ignore[dict-item]
    assert "visual.class_embedding is 32, wide has 48" in message(
        InputError, str(wide), str(tiny[1]), "cpu"
    )
    # open_clip itself would stretch the position embeddings without a word.
    larger = write_config(tmp_path, "larger", vision_cfg={**CONFIG["vision_cfg"], "image_size": 64})  # type: ignore[dict-item]
    assert "visual.positional_embedding is 17 × 32, larger has 65 × 32" in message(
        InputError, str(larger), str(tiny[1]), "cpu"
    )
    deep = write_config(tmp_path, "deep", vision_cfg={**CONFIG["vision_cfg"], "layers": 2})  # type: ignore[dict-item]
    assert "visual.transformer.resblocks.1.ln_1.weight is missing" in message(
        InputError, str(deep), str(tiny[1]), "cpu"
    )
    assert "conv1.weight is missing" in message(
        InputError, "torchvision:resnet18", str(tiny[1]), "cpu"
    )


def test_hostile_checkpoints_run_nothing(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    touched = tmp_path / "touched"
    torch.save({"state_dict": {"a": Hostile(touched)}}, tmp_path / "hostile.pt")
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps(Hostile(touched), 2))
    for name in ("hostile.pt", "pickled.pt"):
        for model in (str(tiny[0]), "torchvision:resnet18", "timm:resnet10t"):
            assert "refused" in message(InputError, model, str(tmp_path / name), "cpu")
    assert not touched.exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"garbage", "not a checkpoint that can be read"),
        (b"", "not a checkpoint that can be read"),
        ({"state_dict": {}}, "holds no tensors"),
        ([1, 2], "holds no state_dict"),
    ],
)
def test_what_is_no_checkpoint(
    tiny: tuple[Path, Path], tmp_path: Path, content: Any, why: str
) -> None:
    path = tmp_path / "bad.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    assert why in message(InputError, str(tiny[0]), str(path), "cpu")


def test_names_that_are_none(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(tiny[0])
    assert "did you mean ViT-B-32" in message(UsageError, "ViT-B-33", "", "cpu")
    assert "laion2b_e16" in message(UsageError, "ViT-B-32", "laion2b", "cpu")
    assert "resnet101" in message(UsageError, "torchvision:resnet-101", "", "cpu")
    assert "IMAGENET1K_V1" in message(UsageError, "torchvision:resnet18", "V1", "cpu")
    assert "timm has no model" in message(UsageError, "timm:resnet10", "", "cpu")
    assert "name its weights" in message(UsageError, "ViT-B-32", None, "cpu")
    assert "cannot import" in message(UsageError, ":RN50", "", "cpu")
    assert "cannot import" in message(UsageError, ".x:tower", "", "cpu")
    assert "lies in no file" in message(UsageError, "time:time", "", "cpu")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "odd_tower.py").write_text("def tower(:")
    assert "odd_tower: SyntaxError" in message(InputError, "odd_tower:tower", "", "cpu")
    assert "no such checkpoint" in message(InputError, config, "nowhere.pt", "cpu")
    assert "no such model configuration" in message(InputError, "nowhere.json", "", "cpu")
    assert "fp32, amp" in message(UsageError, config, "", "cpu", "fp64")
    assert "no device" in message(UsageError, config, "", "gpu")
    if not torch.cuda.is_available():
        message(MissingDependency, config, "", "cuda")
        assert resolve_device("auto") == "cpu"
    (tmp_path / "no.json").write_text("{]")
    assert "not a JSON file" in message(InputError, str(tmp_path / "no.json"), "", "cpu")
    (tmp_path / "hub.json").write_text('{"model_cfg": {}}')
    assert "has no 'embed_dim'" in message(InputError, str(tmp_path / "hub.json"), "", "cpu")
    broken = write_config(tmp_path, "broken", vision_cfg={"layers": "many"})
    assert "cannot be made" in message(InputError, str(broken), "", "cpu")
    with pytest.raises(UsageError, match="a model of its own of that name"):
        register_config(str(write_config(tmp_path, "ViT-B-32")))


@pytest.mark.parametrize("content", [b"{]", b"7", b"\xff\xfe{\0}\0"])
def test_a_configuration_that_was_spoilt_after_it_was_registered(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip reads it again with each one that comes later; who did it is named."""
    factory = pytest.importorskip("open_clip.factory")
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [*factory._MODEL_CONFIG_PATHS])
    first, second = (write_config(tmp_path, name) for name in ("first", "second"))
    register_config(str(first))
    first.write_bytes(content)
    with pytest.raises(InputError, match=r"second\.json: open_clip does not take it.*first\.json"):
        register_config(str(second))
    with pytest.raises(InputError, match=r"first\.json: not (a|the)"):
        register_config(str(first))
    first.unlink()
    assert register_config(str(second)) == "second"


def test_identity_follows_content_not_place(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    config, checkpoint = tiny
    moved = tmp_path / checkpoint.name
    moved.write_bytes(checkpoint.read_bytes())
    assert identify(str(config), str(moved)) == identify(str(config), str(checkpoint))
    moved.write_bytes(checkpoint.read_bytes() + b"\0")
    assert identify(str(config), str(moved)) != identify(str(config), str(checkpoint))
