"""The tar reader: the same members as Python's own, and no damage that passes for an end."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgap.errors import InputError, UsageError
from clipgap.files.volumes import LocalVolume
from clipgap.shards.finding import find_shards
from clipgap.shards.groups import split_name
from clipgap.shards.problems import Problem
from clipgap.shards.samples import Sample, read_samples
from clipgap.shards.tar import BLOCK, TarDamage, TarReader
from tests.shards import FORMATS, contents, member, sample, tar_bytes, write_shard
from tests.thorough import examples

webdataset = pytest.importorskip("webdataset")

NAMES = st.text(st.sampled_from("ab0/._-é"), min_size=1, max_size=12).map(lambda n: n + "x")
LONG = st.builds(lambda n, k: "/".join([n * 7] * k) + ".jpg", NAMES, st.integers(1, 6))


def reader_of(folder: Path, archive: bytes, window: int = 1 << 20) -> TarReader:
    path = folder / "archive.tar"
    path.write_bytes(archive)
    file = LocalVolume().file(str(path))
    assert file is not None
    return TarReader(file, window)


def read_all(path: Path, **options: object) -> tuple[list[Sample], list[Problem]]:
    problems: list[Problem] = []
    samples = read_samples(path, on_problem=problems.append, **options)  # type: ignore[arg-type]
    return list(samples), problems


@given(
    names=st.lists(NAMES | LONG, max_size=6),
    sizes=st.lists(st.integers(0, 2000), min_size=6, max_size=6),
    format=st.sampled_from(sorted(FORMATS)),
    times=st.booleans(),
    window=st.sampled_from([BLOCK, 3 * BLOCK + 7, 1 << 20]),
)
@examples(60)
def test_the_same_members_as_tarfile(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    sizes: list[int],
    format: str,
    times: bool,
    window: int,
) -> None:
    entries = [
        member(name, bytes([i]) * size, mtime=1.5 if times else 7)
        for i, (name, size) in enumerate(zip(names, sizes, strict=False))
    ]
    try:
        archive = tar_bytes(entries, FORMATS[format])
    except ValueError:  # a name too long for ustar
        return
    reader = reader_of(tmp_path_factory.mktemp("tar"), archive, window)
    found = [
        (m.name.decode(), m.start, m.content, m.size, bytes(reader.read(m.content, m.size)))
        for m in reader
    ]
    with tarfile.open(fileobj=io.BytesIO(archive)) as theirs:
        assert found == [
            (t.name, t.offset, t.offset_data, t.size, theirs.extractfile(t).read())  # type: ignore[union-attr]
            for t in theirs
        ]
    stops = [0, *(m.stop for m in reader)]
    assert stops[:-1] == [m.start for m in reader]
    assert not any(archive[stops[-1] :])


@given(st.text(st.sampled_from("ab0/._"), max_size=10))
@examples(100)
def test_keys_are_those_of_webdataset(name: str) -> None:
    key, extension = webdataset.tariterators.base_plus_ext(name)
    if name.startswith("__"):
        return
    assert split_name(name) == (None if key is None else (key, extension.lower()))


def test_metadata_of_webdataset_is_no_sample() -> None:
    assert split_name("__index__/a.jpg") is None
    assert split_name("__a.jpg") == ("__a", "jpg")


def test_cut_anywhere_it_is_never_silently_short(tmp_path: Path) -> None:
    entries = [entry for key in ("a", "b", "c") for entry in sample(key, sizes=(600, 1))]
    archive = tar_bytes(entries)
    path = tmp_path / "cut.tar"
    path.write_bytes(archive)
    whole, problems = read_all(path)
    assert len(whole) == 3 and not problems
    end = max(m.stop for m in reader_of(tmp_path, archive))
    for cut in [*range(0, end + BLOCK, 64), *range(1, end + BLOCK, 509), end - 1, end]:
        path.write_bytes(archive[:cut])
        samples, problems = read_all(path)
        assert samples == whole[: len(samples)]
        assert len(samples) < 3 and problems, cut
        with pytest.raises(InputError, match=r"cut\.tar"):
            list(read_samples(path))
    path.write_bytes(archive[: end + BLOCK])  # all is there, if not all of the padding
    assert read_all(path) == (whole, [])


def test_any_flipped_bit_of_a_header_is_found(tmp_path: Path) -> None:
    archive = tar_bytes([*sample("a"), *sample("b")], tarfile.USTAR_FORMAT)
    starts = [m.start for m in reader_of(tmp_path, archive)]
    for at in [start + i for start in starts for i in range(0, BLOCK, 5) if i != 155]:
        spoilt = bytearray(archive)
        spoilt[at] ^= 0x10
        with pytest.raises(TarDamage):
            list(reader_of(tmp_path, bytes(spoilt)))


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>" * 200, "not a tar archive"),
        (b"\x1f\x8b" + bytes(2000), "gunzip"),
        (b"x" * 100, "truncated"),
        (tar_bytes([member("a.jpg", b"1")]) + tar_bytes([member("b.jpg", b"2")]), "data after"),
        (tar_bytes([member("a.jpg", b"1")], pax_headers={"path": "b.jpg"}), "global header"),
        (tar_bytes([member("a.jpg", b"1", pax_headers={"GNU.sparse.major": "1"})]), "sparse"),
        (tar_bytes([member("a.jpg", b"", type=b"V")]), "type b'V'"),
        (tar_bytes([member("a.jpg", b"", type=b"2", size=7)]), "with content"),
    ],
)
def test_damage(tmp_path: Path, archive: bytes, reason: str) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(archive)
    samples, problems = read_all(path)
    assert [problem.what for problem in problems][:1] == ["shard"]
    assert reason in str(problems[0]) and "bad.tar" in str(problems[0])
    # What stands behind the end is not read; what stands before it is.
    assert [s.key for s in samples] == (["a"] if reason == "data after" else [])


def test_an_archive_of_nothing_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "none.tar"
    path.write_bytes(tar_bytes([]))
    assert read_all(path) == ([], [])


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (member("../../x.jpg", b"1"), "leads outside"),
        (member("a/../../x.jpg", b"1"), "leads outside"),
        (member("/etc/x.jpg", b"1"), "absolute path"),
        (member("C:/x.jpg", b"1"), "absolute path"),
        (member("..\\x.jpg", b"1"), "absolute path"),
        (member("a\nb.jpg", b"1"), "control characters"),
        (member("x.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "link"),
        (member("x.jpg", type=tarfile.LNKTYPE, linkname="a.jpg"), "link"),
        (member("x.jpg", type=tarfile.FIFOTYPE), "device"),
    ],
)
def test_hostile_members(tmp_path: Path, entry: tuple[tarfile.TarInfo, bytes], reason: str) -> None:
    path = tmp_path / "hostile.tar"
    path.write_bytes(tar_bytes([*sample("a"), entry, *sample("b")]))
    samples, problems = read_all(path)
    assert [s.key for s in samples] == ["a", "b"]
    assert [(p.what, p.name) for p in problems] == [("member", entry[0].name)]
    assert reason in problems[0].reason


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    archive = tar_bytes([member("\udcff.jpg", b"1"), *sample("a")], tarfile.GNU_FORMAT)
    (tmp_path / "x.tar").write_bytes(archive)
    samples, problems = read_all(tmp_path / "x.tar")
    assert [s.key for s in samples] == ["a"] and "UTF-8" in problems[0].reason


def test_only_known_extensions_are_read(tmp_path: Path) -> None:
    names = ["a.JPG", "a.txt", "a.pkl", "a.pyd", "a.pth", "a.jpg.pkl", "b.pkl", "README", ".x.jpg"]
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes([member(name, name.encode()) for name in names]))
    samples, problems = read_all(path)
    assert not problems
    assert samples == [Sample("a", str(path), {"jpg": b"a.JPG", "txt": b"a.txt"})]


def test_members_beyond_the_limit_are_set_aside(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "x.tar", ["a", "b"])
    big = tar_bytes([*sample("c", sizes=(5000, 1)), *sample("d")])
    path.write_bytes(big)
    samples, problems = read_all(path, largest=4999)
    assert [s.key for s in samples] == ["d"]
    assert "5,000 bytes" in problems[0].reason and problems[0].name == "c"


def test_neighbours_with_one_key_are_two_samples(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "x.tar", ["a", "a", "b"])
    samples, problems = read_all(path)
    assert [s.key for s in samples] == ["a", "a", "b"] and not problems
    assert samples[0].contents != samples[1].contents
    assert [c for s in samples for c in s.contents.values()] == [c for _, c in contents(path)]


@pytest.mark.parametrize(("text", "found"), [('{"successes": 3}', "says 3"), ("{", "statistics")])
def test_the_statistics_are_believed(tmp_path: Path, text: str, found: str) -> None:
    path = write_shard(tmp_path / "00000.tar", ["a", "b"])
    (tmp_path / "00000_stats.json").write_text(text)
    samples, problems = read_all(path)
    assert len(samples) == 2 and found in str(problems[0])
    (tmp_path / "00000_stats.json").write_text('{"successes": 2}')
    assert read_all(path)[1] == []


def test_names_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/10.tar", "a/2.tar", "b/2.tar"):
        write_shard(tmp_path / name, ["k"])
    (tmp_path / "a" / "2.parquet").write_bytes(b"p")

    def names(source: object) -> list[tuple[str, str]]:
        return [(s.path, s.name) for s in find_shards(source)]  # type: ignore[arg-type]

    assert names("a") == [("a/2.tar", "2"), ("a/10.tar", "10")]
    assert names("a/*.tar") == names("a")
    assert names("a/{10,2}.tar") == [("a/10.tar", "10"), ("a/2.tar", "2")]
    assert names("a::b/2.tar") == [("a/2.tar", "a/2"), ("a/10.tar", "10"), ("b/2.tar", "b/2")]
    assert names([Path("b"), "a/10.tar"]) == [("b/2.tar", "2"), ("a/10.tar", "10")]
    assert names(f"file://{tmp_path}/b") == [(f"{tmp_path}/b/2.tar", "2")]
    parquets = [s.parquet and s.parquet.path for s in find_shards("a")]
    assert parquets == ["a/2.parquet", None]
    for wrong, reason in [
        ("c", "no such"),
        ("a/{2..3}.tar", "no such file"),
        ("a/*.txt", "no file matches"),
        ("a/2.tar::a", "named 2 times"),
        ("a/2.parquet", "expected a .tar"),
    ]:
        with pytest.raises(InputError, match=reason):
            find_shards(wrong)
    with pytest.raises(UsageError, match="not run"):
        find_shards("pipe:cat a/2.tar")


def test_shards_behind_a_url(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    archive = tar_bytes([*sample("a"), *sample("b")])
    with fsspec.open("memory://shards/0.tar", "wb") as file:
        file.write(archive)
    (tmp_path / "0.tar").write_bytes(archive)
    here, _ = read_all(tmp_path / "0.tar")
    there = list(read_samples("memory://shards"))
    assert [(s.key, s.contents) for s in there] == [(s.key, s.contents) for s in here]
