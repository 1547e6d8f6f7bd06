"""Captioned shards of a folder of images: every byte by hand, refusals, and where they go next."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.clip.data.captioned import plan_captions
from clipgap.clip.data.classes import imagenet_ids
from clipgap.clip.data.registry import registry
from clipgap.errors import InputError, Interrupted, UsageError
from clipgap.runs.how import Progress
from clipgap.shards.finding import find_shards
from clipgap.shards.layout import plain_layout
from tests.test_cli_commands import call


def write(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode() * 99)
    return root


def samples_of(folder: Path) -> list[tuple[str, dict[str, bytes]]]:
    """As Python's own tarfile reads them."""
    found: list[tuple[str, dict[str, bytes]]] = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                if not found or found[-1][0] != key:
                    found.append((key, {}))
                file = archive.extractfile(member)
                assert file is not None
                found[-1][1][extension] = file.read()
    return found


def test_each_image_has_its_caption_and_label(tmp_path: Path) -> None:
    names = [
        f"{kind}/{n}.{end}"
        for kind in ("tabby_cat", "pug")
        for n, end in enumerate(["JPEG", "png", "webp"])
    ]
    write(tmp_path / "in", *names)
    made = clipgap.caption_folder(tmp_path / "in", tmp_path / "out", per_shard=4, seed=3)
    assert (made.images, made.shards, made.classes) == (6, 2, 2)
    found = samples_of(tmp_path / "out")
    assert sorted(key for key, _ in found) == sorted(name.partition(".")[0] for name in names)
    for key, said in found:
        (ending,) = said.keys() - {"txt", "cls"}
        (path,) = [name for name in names if name.startswith(f"{key}.")]
        assert path.lower() == f"{key}.{ending}"
        assert said[ending] == path.encode() * 99
        cat = key.startswith("tabby_cat")
        assert said["txt"].decode() == f"a photo of a {'tabby cat' if cat else 'pug'}"
        assert said["cls"] == (b"1" if cat else b"0"), "folders in the order of their names"
    for shard in find_shards(tmp_path / "out"):
        assert plain_layout(shard.file) is not None, "the fast reader has nothing to look at twice"
    again = clipgap.caption_folder(tmp_path / "in", tmp_path / "again", per_shard=4, seed=3)
    assert samples_of(again.path) == found
    other = clipgap.caption_folder(tmp_path / "in", tmp_path / "other", per_shard=4, seed=4)
    assert samples_of(other.path) != found
    assert clipgap.verify(tmp_path / "out").ok


def test_captions_are_drawn_by_the_seed_and_the_key(tmp_path: Path) -> None:
    write(tmp_path / "in", *(f"pug/{n:03d}.jpg" for n in range(200)))
    said = ("a {class}", "the {class}", "{class}, a {class}")

    def captions(**options: Any) -> dict[str, str]:
        plan = plan_captions(tmp_path / "in", caption=said, **options)
        return {image.key: image.caption for shard in plan.shards for image in shard.images}

    one = captions(seed=1)
    assert sorted(set(one.values())) == ["a pug", "pug, a pug", "the pug"]
    assert min(list(one.values()).count(text) for text in set(one.values())) > 40
    assert captions(seed=2) != one
    (tmp_path / "in/pug/100.jpg").unlink()
    assert captions(seed=1) == {key: text for key, text in one.items() if key != "pug/100"}


def test_imagenets_names_and_labels(tmp_path: Path) -> None:
    ids = imagenet_ids()
    write(tmp_path / "in", *(f"{wnid}/{wnid}_1.JPEG" for wnid in ids))
    made = clipgap.caption_folder(tmp_path / "in", tmp_path / "out", classes="imagenet-train")
    assert (made.images, made.shards, made.classes) == (1000, 1, 1000)
    names = registry()["imagenet-train"].classes.names
    for key, said in samples_of(tmp_path / "out"):
        label = int(said["cls"])
        assert ids[label] == key.partition("/")[0]
        assert said["txt"].decode() == f"a photo of a {names[label]}"
    write(tmp_path / "in", "aardvark/1.jpg")
    with pytest.raises(InputError, match=r"0 of the 1,000 class folders .* 1 others are none"):
        plan_captions(tmp_path / "in", classes="imagenet-train")
    for path in ("aardvark/1.jpg", f"{ids[5]}/{ids[5]}_1.JPEG"):
        (tmp_path / "in" / path).unlink()
        (tmp_path / "in" / path).parent.rmdir()
    with pytest.raises(InputError, match="1 of the 1,000 class folders of imagenet-train are miss"):
        plan_captions(tmp_path / "in", classes="imagenet-train")


@pytest.mark.parametrize(
    ("paths", "options", "error", "said"),
    [
        ([], {}, InputError, "no such folder"),
        (["1.jpg"], {}, InputError, "holds no folders"),
        (["1.jpg", "pug/1.jpg"], {}, InputError, "1.jpg: lies in no folder of a class"),
        (["pug/1.gif"], {}, InputError, "pug/1.gif: shards hold jpg"),
        (["pug/1.small.jpg"], {}, InputError, "pug/1.small.jpg: cannot be the name of a sample"),
        (["pug/1.jpg", "pug/1.png"], {}, InputError, "another image has that name"),
        (["pug/1.jpg", "cat/notes.txt"], {}, InputError, r"(?s)1 classes have no image:.*cat"),
        (["pug/1.jpg"], {"caption": ["a photo"]}, UsageError, r"must have \{class\}"),
        (["pug/1.jpg"], {"classes": "imagenet-tarin"}, UsageError, "did you mean 'imagenet-train'"),
    ],
)  # fmt: skip
def test_what_cannot_be_captioned(
    tmp_path: Path, paths: list[str], options: dict[str, Any], error: type[Exception], said: str
) -> None:
    write(tmp_path / "in", *paths)
    with pytest.raises(error, match=said):
        clipgap.caption_folder(tmp_path / "in", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_it_goes_on_and_mends_one_shard(tmp_path: Path) -> None:
    write(tmp_path / "in", *(f"pug/{n}.jpg" for n in range(6)))
    place = {"path": tmp_path / "in", "out": tmp_path / "out", "per_shard": 2}

    def stopping(progress: Progress) -> None:
        if progress.part == 1:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        clipgap.caption_folder(**place, on_progress=stopping)
    clipgap.caption_folder(**place, resume=True)
    assert clipgap.verify(tmp_path / "out").ok
    assert clipgap.caption_folder(**place, resume=True).already_complete
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "captioned-00001.tar").write_bytes(b"x")
    clipgap.caption_folder(**place, resume=True)
    now = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    kept = {name for name, time in times.items() if now[name] == time}
    assert kept == {f"captioned-0000{n}{end}" for n in (0, 2) for end in (".tar", "_stats.json")}
    assert clipgap.verify(tmp_path / "out").ok
    (tmp_path / "in/pug/3.jpg").write_bytes(b"another")
    with pytest.raises(InputError, match="images"):
        clipgap.caption_folder(**place, resume=True)
    (wrong,) = [check for check in clipgap.verify(tmp_path / "out").checks if not check.ok]
    assert wrong.name == "images"


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in", "pug/1.jpg", "cat/1.jpg")
    arguments = ["data", "caption", str(tmp_path / "in"), "--caption", "one {class}"]
    planned = call(capsys, *arguments, "--dry-run")
    assert (planned["shards"], planned["images"]["bytes"]) == (1, 2 * 9 * 99)
    assert not (tmp_path / "out").exists()
    found = call(capsys, *arguments, "-o", str(tmp_path / "out"))
    assert (found["images"], found["shards"], found["classes"]) == (2, 1, 2)
    assert main([*arguments, "-o", str(tmp_path / "out"), "--resume"]) == 0
    assert "2 images of 2 classes in 1 shard" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "out")]) == 0
