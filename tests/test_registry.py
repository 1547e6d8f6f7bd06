"""The sets that clipgap knows by name: their lists, and what `clipgap data check` finds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from clipgap.__main__ import main
from clipgap.clip.data import check as check_module
from clipgap.clip.data import classes as lists
from clipgap.clip.data.check import check_set
from clipgap.clip.data.parts import link_part, plan_part
from clipgap.clip.data.registry import Registered, find_set, registry
from clipgap.clip.data.tables import LabelTable
from clipgap.errors import InputError, ResumeError, UsageError
from clipgap.runs.lock import only_writer
from clipgap.runs.output import Output
from tests.shards import member, tar_bytes

COUNTS = {
    "imagenet-val": 1000,
    "imagenet-train": 1000,
    "imagenet-sketch": 1000,
    "imagenet-r": 200,
    "imagenet-a": 200,
    "imagenet-v2": 1000,
    "objectnet": 113,
    "mnist": 10,
    "svhn": 10,
    "celeba": 2,
    "waterbirds": 2,
}


def test_every_set_has_as_many_classes_as_it_should() -> None:
    assert {name: len(entry.keys) for name, entry in registry().items()} == COUNTS
    for entry in registry().values():
        assert len(set(entry.keys)) == len(entry.keys)


def test_figures_agree_with_each_other() -> None:
    for entry in registry().values():
        if entry.each is not None:
            assert entry.each * len(entry.keys) == entry.samples
        if entry.counts:
            assert len(entry.counts) == len(entry.keys)
            assert sum(entry.counts) == entry.samples
        if entry.group_counts:
            assert sum(entry.group_counts.values()) == entry.samples
            assert entry.table is not None
            assert set(entry.group_counts) == set(entry.table.groups.values())


def test_six_sets_of_the_paper() -> None:
    """166,963 test points in all."""
    six = ("val", "sketch", "r", "a", "v2")
    sizes = [registry()[f"imagenet-{name}"].samples for name in six]
    assert sum(sizes) + registry()["objectnet"].samples == 166_963


def test_lists_are_those_of_timm() -> None:
    info = files("timm") / "data" / "_info"
    for ours, theirs in (("imagenet", ""), ("imagenet-r", "_r"), ("imagenet-a", "_a")):
        ids = (info / f"imagenet{theirs}_synsets.txt").read_text().split()
        assert list(lists.known_keys(ours)) == ids
    assert list(lists.imagenet_ids()) == sorted(lists.imagenet_ids())


@pytest.mark.parametrize(
    ("wnid", "word"),
    [("n01440764", "tench"), ("n02123045", "tabby cat"), ("n15075141", "toilet paper")],
)
def test_names_belong_to_ids(wnid: str, word: str) -> None:
    known = lists.known_classes("imagenet")
    assert known.names[known.labels[wnid]] == word


def test_subsets_have_the_names_that_the_thousand_have() -> None:
    whole = lists.known_classes("imagenet")
    for name in ("imagenet-r", "imagenet-a"):
        part = lists.known_classes(name)
        for key, called in zip(part.keys, part.names, strict=True):
            assert whole.names[whole.labels[key]] == called


def test_numbered_folders_follow_the_index_not_the_alphabet() -> None:
    """ImageFolder would take folder "10" for class 2."""
    numbered = lists.known_classes("imagenet-numbers")
    assert numbered.labels["10"] == 10
    assert numbered.members[10] == (lists.imagenet_ids()[10],)


def test_templates_are_those_of_open_clip() -> None:
    import open_clip

    ours = lists.known_classes("imagenet").templates
    theirs = open_clip.OPENAI_IMAGENET_TEMPLATES
    assert len(ours) == 80
    for name in ("tench", "mobile home"):
        assert [t.format(name) for t in ours] == [t(name) for t in theirs]


def test_objectnet_stands_for_imagenet_classes() -> None:
    known = lists.known_classes("objectnet")
    ids = [wnid for group in known.members for wnid in group]
    assert len(ids) == len(set(ids)) == 125
    assert set(ids) <= set(lists.imagenet_ids())
    names = dict(zip(lists.imagenet_ids(), lists.known_classes("imagenet").names, strict=True))
    by_folder = dict(zip(known.keys, known.members, strict=True))
    assert {names[w] for w in by_folder["alarm_clock"]} == {"analog clock", "digital clock"}
    assert [names[w] for w in by_folder["banana"]] == ["banana"]
    assert {names[w] for w in by_folder["helmet"]} == {"football helmet", "crash helmet"}


def test_every_list_says_where_it_comes_from() -> None:
    folder = files("clipgap.clip.data")
    for name in ("imagenet.txt", "imagenet-r.txt", "imagenet-a.txt", "objectnet.csv"):
        assert "# Source: " in (folder / name).read_text().split("\n\n")[0]
    assert all(entry.sources for entry in registry().values())


@pytest.mark.parametrize(
    ("asked", "meant"), [("imagenet_sketch", "imagenet-sketch"), ("objctnet", "objectnet")]
)
def test_unknown_names_are_refused_with_a_suggestion(asked: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        find_set(asked)


# --- data check -----------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """ImageNet-Val with two images a class, CelebA with three images, digits with a few."""
    val = dataclasses.replace(registry()["imagenet-val"], samples=2_000, each=2)
    celeba = dataclasses.replace(registry()["celeba"], samples=3, md5={})
    mnist = dataclasses.replace(registry()["mnist"], samples=11, counts=(2,) + (1,) * 9)
    known: Mapping[str, Registered] = {"imagenet-val": val, "celeba": celeba, "mnist": mnist}
    monkeypatch.setattr(check_module, "find_set", known.__getitem__)


def write_val(root: Path) -> Path:
    for label, wnid in enumerate(lists.imagenet_ids()):
        (root / wnid).mkdir(parents=True)
        for number in (2 * label + 1, 2 * label + 2):
            (root / wnid / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(b"x")
    return root


@pytest.mark.usefixtures("small")
def test_a_right_folder_passes(tmp_path: Path) -> None:
    checked = check_set("imagenet-val", write_val(tmp_path / "val"))
    assert checked.problems == []
    assert checked.images == 2_000
    assert len(checked.holds) == 4


@pytest.mark.usefixtures("small")
def test_everything_wrong_is_listed(tmp_path: Path) -> None:
    root = write_val(tmp_path / "val")
    first, second, third = lists.imagenet_ids()[:3]
    for file in (root / first).iterdir():
        file.unlink()
    (root / first).rmdir()
    (root / "n00000000").mkdir()
    (root / second / "ILSVRC2012_val_00000003.JPEG").rename(root / second / "holiday.jpeg")
    (root / third / "ILSVRC2012_val_00000005.JPEG").write_bytes(b"")
    problems = "\n".join(check_set("imagenet-val", root).problems)
    assert f"1 of 1,000 class folders are missing: {first}" in problems
    assert "1 folders are no classes of this set: n00000000" in problems
    assert "1,998 images, not 2,000" in problems
    assert f"{first} 0 instead of 2" in problems
    assert "not called as in the original, or twice the same: holiday.jpeg" in problems
    assert f"1 images are empty files: {third}/ILSVRC2012_val_00000005.JPEG" in problems


def test_no_such_folder_says_how_to_get_the_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder.*imagenet-r.tar"):
        check_set("imagenet-r", tmp_path / "nowhere")


def write_celeba(root: Path, rows: str, images: int = 3) -> Path:
    (root / "img_align_celeba").mkdir(parents=True)
    for number in range(1, images + 1):
        (root / "img_align_celeba" / f"{number:06d}.jpg").write_bytes(b"x")
    (root / "list_attr_celeba.txt").write_text(rows)
    return root


CELEBA = "3\nEyeglasses Male\n000001.jpg -1  1\n000002.jpg  1 -1\n000003.jpg -1 -1\n"


@pytest.mark.usefixtures("small")
def test_tables_are_checked_too(tmp_path: Path) -> None:
    good = check_set("celeba", write_celeba(tmp_path / "good", CELEBA))
    assert good.problems == [] and good.images == 3
    short = check_set("celeba", write_celeba(tmp_path / "short", CELEBA, images=2))
    assert any("1 listed images are missing" in line for line in short.problems)
    extra = check_set("celeba", write_celeba(tmp_path / "extra", CELEBA, images=4))
    assert any("1 images are not listed" in line for line in extra.problems)


def test_a_table_of_another_version_is_found_by_its_checksum(tmp_path: Path) -> None:
    root = write_celeba(tmp_path, CELEBA)
    found = hashlib.md5(CELEBA.encode()).hexdigest()
    assert any(found in line for line in check_set("celeba", root).problems)


def test_labels_and_groups_of_tables(tmp_path: Path) -> None:
    entry = registry()["celeba"]
    table = LabelTable.read(entry, write_celeba(tmp_path / "txt", CELEBA), "Eyeglasses")
    assert table.labels == {"000001.jpg": 1, "000002.jpg": 0, "000003.jpg": 0}
    assert table.groups["000002.jpg"] == "Eyeglasses=1"
    root = tmp_path / "csv"
    root.mkdir()
    (root / "list_attr_celeba.csv").write_text("image_id,Male\n000001.jpg,1\n000002.jpg,-1\n")
    assert LabelTable.read(entry, root).labels == {"000001.jpg": 1, "000002.jpg": 0}

    birds = registry()["waterbirds"]
    (root / "metadata.csv").write_text(
        'img_id,img_filename,y,split,place\n1,"a, b/1.jpg",0,0,1\n2,c/2.jpg,1,2,1\n'
    )
    table = LabelTable.read(birds, root)
    assert table.labels == {"a, b/1.jpg": 0, "c/2.jpg": 1}
    assert table.groups == {"a, b/1.jpg": "landbird on water", "c/2.jpg": "waterbird on water"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("3\n", "holds no rows"),
        ("1\nEyeglasses\n000001.jpg 1\n", "has no column 'Male'"),
        ("1\nMale\n000001.jpg 7\n", "line 3: Male is '7', which is none of -1, 1"),
        ("1\nMale\n000001.jpg 1 1\n", "line 3: has 3 values for 2 columns"),
        ("2\nMale\n000001.jpg 1\n000001.jpg 1\n", "line 4: '000001.jpg' is listed twice"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, rows: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        LabelTable.read(registry()["celeba"], write_celeba(tmp_path, rows))


def test_no_table_and_no_column(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs its file of labels.*metadata.csv"):
        LabelTable.read(registry()["waterbirds"], tmp_path)
    with pytest.raises(UsageError, match="no column 'Moustache'"):
        LabelTable.read(registry()["celeba"], write_celeba(tmp_path, CELEBA), "Moustache")


@pytest.mark.usefixtures("small")
def test_shards_can_stand_for_a_set(tmp_path: Path) -> None:
    def shard(labels: list[str]) -> None:
        entries = []
        for row, label in enumerate(labels):
            entries += [member(f"s{row:02}.png", b"x"), member(f"s{row:02}.cls", label.encode())]
        (tmp_path / "0.tar").write_bytes(tar_bytes(entries))

    labels = [*"0123456789", "0"]
    shard(labels)
    assert check_set("mnist", tmp_path).problems == []
    shard([*labels[:-1], "1"])
    assert "2 classes have the wrong number" in check_set("mnist", tmp_path).problems[0]
    shard([*labels[:-1], "10"])
    assert any("its .cls says '10'" in line for line in check_set("mnist", tmp_path).problems)


# --- parts ----------------------------------------------------------------------------------


def links_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_symlink())


def test_links_to_the_classes_of_objectnet(tmp_path: Path) -> None:
    from clipgap.clip.images.reading import find_images

    keys = registry()["objectnet"].keys
    for key in (*keys, "aardvark"):
        (tmp_path / "images" / key).mkdir(parents=True)
        (tmp_path / "images" / key / "1.png").write_bytes(b"x")
    assert link_part("objectnet", tmp_path / "images", tmp_path / "part").links == 113
    assert [path for path, _ in find_images(tmp_path / "part")] == sorted(
        f"{key}/1.png" for key in keys
    )
    with pytest.raises(InputError, match="already holds a finished folder of links"):
        link_part("objectnet", tmp_path / "images", tmp_path / "part")
    assert link_part(
        "objectnet", tmp_path / "images", tmp_path / "part", resume=True
    ).already_complete
    (tmp_path / "part" / keys[0]).unlink()
    mended = link_part("objectnet", tmp_path / "images", tmp_path / "part", resume=True)
    assert not mended.already_complete
    assert links_in(tmp_path / "part") == sorted(keys)
    with pytest.raises(UsageError, match="is both input and output"):
        link_part("objectnet", tmp_path / "images", tmp_path / "images", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "1.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"not a clipgap folder of links: .*'1\.png'"):
        link_part("objectnet", tmp_path / "images", tmp_path / "mine", overwrite=True)
    with pytest.raises(UsageError, match="has no table"):
        link_part("objectnet", tmp_path / "images", tmp_path / "q", ["a=b"])
    (tmp_path / "images" / keys[3] / "1.png").unlink()
    (tmp_path / "images" / keys[3]).rmdir()
    with pytest.raises(InputError, match=f"1 of 113 class folders are missing.*{keys[3]}"):
        link_part("objectnet", tmp_path / "images", tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_links_to_images_with_an_attribute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = write_celeba(tmp_path / "celeba", CELEBA), tmp_path / "without"
    command = ["data", "link", "celeba", str(root), "-o", str(out)]
    assert main([*command, "--where", "Eyeglasses=-1"]) == 0
    assert "2 links" in capsys.readouterr().out
    assert links_in(out) == ["000001.jpg", "000003.jpg"]
    assert (out / "000001.jpg").read_bytes() == b"x"
    with pytest.raises(UsageError, match="--where COLUMN=VALUE"):
        link_part("celeba", root, tmp_path / "q")
    with pytest.raises(InputError, match="Eyeglasses is nowhere '2', but -1, 1"):
        link_part("celeba", root, tmp_path / "q", ["Eyeglasses=2"])
    (root / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of the images.*000002\.jpg"):
        link_part("celeba", root, tmp_path / "q", ["Eyeglasses=1"])


def test_a_folder_of_links_is_an_output_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipgap.clip.images.reading import find_images

    root, out = write_celeba(tmp_path / "celeba", CELEBA), tmp_path / "without"

    def link(*where: str, **how: bool) -> Any:
        return link_part("celeba", root, out, where or ["Eyeglasses=-1"], **how)

    link()
    assert sorted(path.name for path in out.iterdir()) == [*links_in(out), "manifest.json"]
    listed = json.loads((out / "manifest.json").read_bytes())["files"]
    target = os.fsencode((root / "img_align_celeba/000001.jpg").resolve())
    assert listed["000001.jpg"] == {
        "link": hashlib.sha256(target).hexdigest(),
        "size": len(target),
    }
    before = (out / "manifest.json").read_bytes()
    # A link that leads elsewhere is mended; a file in its place may be somebody's.
    (out / "000003.jpg").unlink()
    (out / "000003.jpg").symlink_to(root)
    assert not link(resume=True).already_complete
    assert (out / "000003.jpg").read_bytes() == b"x"
    (out / "000003.jpg").unlink()
    (out / "000003.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"000003\.jpg is in the way"):
        link(resume=True)
    (out / "000003.jpg").unlink()
    assert not link(resume=True).already_complete
    assert (out / "manifest.json").read_bytes() == before
    assert link(resume=True).already_complete
    # What others put there stays; only links that are no longer wanted go.
    (out / "notes.md").write_text("mine")
    assert link("Eyeglasses=1", overwrite=True).links == 1
    assert (out / "notes.md").read_text() == "mine"
    assert links_in(out) == ["000002.jpg"]
    # An interrupted one is no folder of images, needs a flag, and is compared.
    (out / "notes.md").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(Output, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            link(overwrite=True)
    with pytest.raises(InputError, match="is unfinished"):
        find_images(out)
    with pytest.raises(InputError, match="holds an unfinished folder of links"):
        link()
    with pytest.raises(ResumeError, match="--where"):
        link("Eyeglasses=1", resume=True)
    link(resume=True)
    assert [path for path, _ in find_images(out)] == links_in(out) == ["000001.jpg", "000003.jpg"]
    assert (out / "manifest.json").read_bytes() == before


def test_two_cannot_link_into_one_folder(tmp_path: Path) -> None:
    root, out = write_celeba(tmp_path / "celeba", CELEBA), tmp_path / "out"
    with only_writer(out), pytest.raises(InputError, match="another run is at work"):
        link_part("celeba", root, out, ["Eyeglasses=1"])


def test_links_to_images_where_several_columns_say_so(tmp_path: Path) -> None:
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for number, (bird, place) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (0, 1)]):
        image = tmp_path / "birds" / f"{bird}.kind" / f"{number}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"x")
        lines.append(f"{number},{bird}.kind/{number}.jpg,{bird},0,{place},/p.jpg")
    (tmp_path / "birds" / "metadata.csv").write_text("\n".join(lines))

    def chosen(*where: str) -> list[str]:
        return sorted(
            path.rpartition("/")[2] for path in plan_part("waterbirds", tmp_path / "birds", where)
        )

    assert chosen("place=1") == ["1.jpg", "3.jpg", "4.jpg"]
    assert chosen("y=0,place=1") == ["1.jpg", "4.jpg"]
    assert chosen("y=0,place=1", "y=1,place=0") == ["1.jpg", "2.jpg", "4.jpg"]
    assert chosen("y=0", "place=1") == ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]
    part = tmp_path / "part"
    link_part("waterbirds", tmp_path / "birds", part, ["place=1"])
    with pytest.raises(ResumeError, match=r"--where: was \['place=1'\], is \['y=0'\]"):
        link_part("waterbirds", tmp_path / "birds", part, ["y=0"], resume=True)
    assert link_part("waterbirds", tmp_path / "birds", part, ["y=0"], overwrite=True).links == 3
    assert sorted(link.name for link in part.rglob("*.jpg")) == ["0.jpg", "1.jpg", "4.jpg"]
    with pytest.raises(InputError, match="y=0,y=1 holds nowhere"):
        chosen("place=1", "y=0,y=1")
    with pytest.raises(UsageError, match="'y' is not COLUMN=VALUE"):
        chosen("place=1,y")
    with pytest.raises(UsageError, match="no column 'z'"):
        chosen("z=1")


# --- the commands ---------------------------------------------------------------------------


def test_data_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    text = capsys.readouterr().out
    assert "50,889 images, 1,000 classes" in text
    assert main(["data", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["sets"]
    assert {entry["name"]: entry["classes"] for entry in listed} == COUNTS


def test_data_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "n01443537").mkdir()
    assert main(["data", "check", "imagenet-r", str(tmp_path)]) == InputError.exit_code
    assert "199 of 200 class folders are missing" in capsys.readouterr().out
    assert main(["data", "check", "imagenet-q", str(tmp_path)]) == UsageError.exit_code
    assert "did you mean" in capsys.readouterr().err
