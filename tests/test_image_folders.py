"""One order, one rule for what is an image: embedding, training and evaluating agree."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.clip.data.classes import Classes
from clipgap.clip.embed.api import embed
from clipgap.clip.embed.sources import find_units
from clipgap.clip.eval.sets import open_set
from clipgap.clip.images import decoding
from clipgap.clip.images.ahead import Ahead, Submit
from clipgap.clip.images.reading import BadLabel, class_of, find_images, is_image_folder
from clipgap.clip.train.shards import CHUNK, ImageFolder, count_folder
from clipgap.errors import InputError, ResumeError
from clipgap.select.rules import Rand
from clipgap.shards.problems import refuse
from clipgap.shards.samples import Sample
from tests.clip_worlds import encoded, render, write_checkpoint, write_config
from tests.shards import write_keep, write_shard

IMAGES = (
    "cat/10.jpg",
    "cat/2.gif",
    "cat/2.jpg",
    "cat/B.PNG",
    "cat/a.bmp",
    "cat/deep/1.webp",
    "cat/no-break\u00a0space.jpg",
    "cat/with 100% #odd?[x]{y}*.jpg",
    "dog/x....jpg",
    "dog/z\u2028z.jpeg",
    "dog/\u00e9\u732b.jpg",
)
DEBRIS = (
    ".DS_Store",
    ".hidden.jpg",
    ".git/1.jpg",
    "__MACOSX/cat/1.jpg",
    "cat/._2.jpg",
    "cat/.thumbs/2.jpg",
    "cat/labels.txt",
    "cat/2.jpg.part",
)


def fill(folder: Path, paths: tuple[str, ...] = (*IMAGES, *DEBRIS)) -> Path:
    """A class tree with images in every format, names that are odd, and debris."""
    forms = {".gif": "GIF", ".bmp": "BMP", ".png": "PNG", ".webp": "WEBP"}
    for number, path in enumerate(paths):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        form = forms.get(file.suffix.lower(), "JPEG")
        file.write_bytes(encoded(render(number % 4, number), form) if path in IMAGES else b"x")
    return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("tree") / "00000")  # called like a shard of a store


def trained_on(folder: Path, keep: Path | None) -> list[tuple[str, bytes]]:
    """Keys and labels of a training, in the order of its chunks."""
    images = ImageFolder(folder, keep)
    chunks = range(-(-len(images.paths) // CHUNK))
    return [(s.key, s.contents["cls"]) for chunk in chunks for s in images.read(chunk, refuse)]


def test_embedding_splitting_and_training_agree(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipgap.clip.embed.sources.FOLDER_UNIT", 4)
    config = write_config(tmp_path)
    checkpoint = write_checkpoint(config, tmp_path / "tiny.pt")
    store = tmp_path / "store"
    embedded = embed(tree, str(config), str(checkpoint), out=store, device="cpu")
    assert embedded.problems == 0
    parts = sorted((store / "keys").iterdir())
    keys = [key for part in parts for key in pq.read_table(part)["key"].to_pylist()]
    assert keys == sorted(IMAGES) and len(parts) == 3
    clipgap.scan(store, {"same": store}, out=tmp_path / "scan", threads=1)
    kept = clipgap.split(tmp_path / "scan", Rand(7, seed=1), out=tmp_path / "keep").keep
    assert kept is not None
    wanted = [key for shard in range(3) for key in kept.keys(shard).to_pylist()]
    _, counted, classes = count_folder(tree, tmp_path / "keep")
    assert classes == ("cat", "dog") and sum(chunk.samples for chunk in counted) == 7
    labels = {"cat": b"0", "dog": b"1"}
    assert trained_on(tree, tmp_path / "keep") == [(k, labels[k.split("/")[0]]) for k in wanted]
    evaluated = open_set("pics", str(tree), Classes.plain(["dog", "cat"], ("a {}",)))
    items = [(item.image.key, item.label) for item in evaluated.images.items(refuse)]
    assert items == [(key, int(key.startswith("cat"))) for key in keys]
    assert [key for key, _ in trained_on(tree, None)] == keys


@pytest.mark.parametrize("root", ["/data/set/", "images/", "/cat/"])
def test_whole_paths_fit_by_what_they_end_in(tree: Path, tmp_path: Path, root: str) -> None:
    """clip-retrieval's input format `files`, and clip-ood, call images so."""
    wanted = sorted(IMAGES)[1::2]
    whole = [root + path for path in sorted(IMAGES)]
    keep = write_keep(tmp_path / "keep", {"0": whole}, {("0", i) for i in range(1, len(whole), 2)})
    _, counted, _ = count_folder(tree, keep)
    assert sum(chunk.samples for chunk in counted) == len(wanted)
    assert [key for key, _ in trained_on(tree, keep)] == wanted


@pytest.mark.parametrize(
    ("paths", "keys", "reason"),
    [
        (("a/1.jpg", "a/2.jpg"), ["/x/a/1.jpg", "/y/a/2.jpg"], "holds no image that"),
        (
            ("a/1.jpg",),
            ["/x/a/1.jpg", "a/1.jpg", "/x/a/2.jpg"],
            r"has 1 of the 3 images .* behind that of one",
        ),
        (("a/1.jpg", "b/a/1.jpg"), ["/x/b/a/1.jpg"], r"could have lain in /x/ or in /x/b/"),
    ],
)
def test_whole_paths_fit_in_one_way_or_not_at_all(
    tmp_path: Path, paths: tuple[str, ...], keys: list[str], reason: str
) -> None:
    folder = fill(tmp_path / "in", paths)
    keep = write_keep(tmp_path / "keep", {"0": keys}, {("0", i) for i in range(len(keys))})
    with pytest.raises(InputError, match=reason):
        count_folder(folder, keep)


def test_what_decides_between_tars_and_a_folder(tmp_path: Path) -> None:
    fill(tmp_path, ("cat/1.jpg", "._0.tar", ".1.tar", "x.tar/1.jpg"))
    assert is_image_folder(tmp_path)
    assert len(find_units(tmp_path)) == 1
    write_shard(tmp_path / "0.tar", ["a"])
    assert not is_image_folder(tmp_path) and not is_image_folder(tmp_path / "0.tar")
    assert [unit.name for unit in find_units(tmp_path)] == ["0"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    fill(tmp_path / "in", ("a/1.jpg",))
    (tmp_path / "in" / "b").symlink_to(tmp_path / "in" / "a")
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert [path for path, _ in find_images(tmp_path / "in")] == ["a/1.jpg", "b/1.jpg"]


@pytest.mark.parametrize("name", [b"\xff.jpg", b"a\nb.jpg", b"a\x1b[31m.jpg", b"\xc2\x85.jpg"])
def test_names_that_cannot_be_keys_are_refused_by_all(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "cat").mkdir()
    (Path(bytes(tmp_path).decode()) / "cat" / name.decode("utf-8", "surrogateescape")).touch()
    for refused in (
        lambda: find_units(tmp_path),
        lambda: ImageFolder(tmp_path, None).paths,
        lambda: open_set("x", str(tmp_path), Classes.plain(["cat"], ("a {}",))),
    ):
        with pytest.raises(InputError, match="cannot be keys"):
            refused()


def test_images_outside_of_classes_are_not_lost_in_silence(tmp_path: Path) -> None:
    fill(tmp_path, ("cat/1.jpg", "stray.jpg"))
    with pytest.raises(InputError, match=r"no folder of their class, the first is stray\.jpg"):
        count_folder(tmp_path, None)


@pytest.mark.parametrize(
    ("content", "label", "number"),
    [
        (b"1", 1, 1),
        (b" 01\n", 1, 1),
        (b"dog", 1, None),
        (b"2", None, 2),
        (b"-1", None, None),
        ("\u0661".encode(), None, None),
        (b"1" * 5000, None, None),
        (b"\xff", None, None),
        (b"", None, None),
        (None, None, None),
    ],
)
def test_one_rule_for_cls(content: bytes | None, label: int | None, number: int | None) -> None:
    """With the classes known, as in `eval`, and unknown, as in `train`."""
    sample = Sample("k", "0.tar", {} if content is None else {"cls": content})
    for labels, wanted in (({"cat": 0, "dog": 1}, label), (None, number)):
        if wanted is None:
            with pytest.raises(BadLabel, match=r"0\.tar, sample 'k': "):
                class_of(sample, labels)
        else:
            assert class_of(sample, labels) == wanted


def test_a_changed_image_of_the_same_size_is_another_input(tmp_path: Path) -> None:
    fill(tmp_path / "in", ("cat/1.jpg", "cat/2.jpg"))
    (unit,) = find_units(tmp_path / "in")
    before, mark = unit.describe(), unit.changed()
    (tmp_path / "in" / "cat" / "1.jpg").write_bytes(b"y")
    (unit,) = find_units(tmp_path / "in")
    assert unit.describe()["fingerprint"] != before["fingerprint"]
    assert unit.describe()["bytes"] == before["bytes"] and unit.changed() != mark


def test_an_embedding_of_changed_images_is_not_resumed(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    folder = tmp_path / "in"
    fill(folder, ("cat/10.jpg", "cat/2.jpg"))

    def run(resume: bool = False) -> None:
        embed(folder, str(config), "", out=tmp_path / "out", device="cpu", resume=resume)

    run()
    image = folder / "cat" / "2.jpg"
    content = bytearray(image.read_bytes())
    content[-5] ^= 1
    image.write_bytes(content)
    with pytest.raises(ResumeError, match="fingerprint"):
        run(resume=True)


def test_too_little_memory_is_no_fault_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.Image.Image.convert", full)
    with pytest.raises(MemoryError):
        decoding.decode(encoded(render(0, 0).convert("L"), "PNG"), "here")


class TestAhead:
    def test_all_comes_in_order_and_no_further_ahead_than_allowed(self) -> None:
        read = 0

        def numbers(submit: Submit):
            nonlocal read
            for read in range(1, 41):
                yield submit(lambda n: n * n, read)

        with Ahead(numbers, 3, 5) as ahead:
            for done, future in enumerate(ahead, start=1):
                assert future.result() == done * done
                assert read <= done + 6  # those in the queue, one in hand

    def test_what_fails_while_reading_fails_where_it_is_wanted(self) -> None:
        def broken(submit: Submit):
            yield 1
            raise InputError("broken")

        with Ahead(broken, 1, 5) as ahead, pytest.raises(InputError, match="broken"):
            assert [next(iter(ahead))] == [1]
            list(ahead)

    def test_leaving_early_ends_its_threads(self) -> None:
        def endless(submit: Submit):
            while True:
                yield submit(int)

        with Ahead(endless, 2, 3) as ahead:
            next(iter(ahead))
        assert not ahead._reader.is_alive()
