"""Mixes: exact counts, by brute force; nested, whatever the order of labels; bad input by name."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import clipgap
from clipgap.__main__ import main
from clipgap.errors import ClipgapError, InputError, UsageError
from clipgap.keep.lists import KeepList, open_keep
from clipgap.keep.writing import KeepWriter
from clipgap.mix import ranks
from clipgap.mix.rules import largest_remainder
from clipgap.select.hashes import Hashed
from clipgap.store.opening import open_store
from tests.stores import write_keys
from tests.test_verify import failures
from tests.worlds import unit_rows

Row = tuple[int, int]
Label = tuple[str, str, str]  # source, domain, class
MASK = 2**64 - 1


def write_pool(folder: Path, shards: Sequence[Sequence[str]]) -> Path:
    """A store with these keys."""
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for number, keys in enumerate(shards):
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", unit_rows(len(keys), 4, number))
        write_keys(folder / "metadata" / f"metadata_{number}.parquet", "image_path", keys)
    return folder


def write_labels(path: Path, labels: Mapping[Row, Label]) -> Path:
    rows = list(labels)
    columns: dict[str, Any] = {"shard": [s for s, _ in rows], "row": [r for _, r in rows]}
    for place, name in enumerate(("source", "domain", "class")):
        columns[name] = pa.array([labels[row][place] or None for row in rows], pa.string())
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


def draw(folder: Path, text: str, labels: Mapping[Row, Label], **more: Any) -> clipgap.mix.Split:  # type: ignore[name-defined]
    recipe = folder / "recipe.toml"
    recipe.write_text(text)
    table = write_labels(folder / "labels.parquet", labels)
    more = {"store": str(folder / "store"), "labels": (str(table),), **more}
    return clipgap.mix(recipe, **more)


def kept(split: Any, shards: int) -> set[Row]:
    return {(s, int(r)) for s in range(shards) for r in np.flatnonzero(split.mask(s))}


# --- ranks, in plain Python


def mixed(x: int) -> int:
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return x ^ x >> 31


def rank_of(seed: int, shard: str, key: str) -> int:
    step = 0x9E3779B97F4A7C15
    named = int.from_bytes(blake2b(shard.encode(), digest_size=8).digest(), "little")
    begin = mixed((mixed((seed + step) & MASK) ^ named) + step & MASK)
    text = key.encode()
    rank = mixed(begin + len(text) * step & MASK)
    for at in range(0, len(text), 8):
        rank = mixed((rank ^ int.from_bytes(text[at : at + 8], "little")) + step & MASK)
    return rank


@given(st.lists(st.text(max_size=30), max_size=9), st.integers(0, 9), st.integers(0, 4))
def test_ranks_are_those_of_plain_python(keys: list[str], seed: int, skip: int) -> None:
    keys = [key.encode("utf-8", "ignore").decode() for key in keys]
    array = pa.array(keys, pa.string())[skip:]
    found = Hashed(seed).of("a shard", array, np.arange(len(array)), 0)
    assert found.tolist() == [rank_of(seed, "a shard", key) for key in keys[skip:]]


# --- counts


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any), st.integers(0, 300))
def test_largest_remainder(weights: list[int], total: int) -> None:
    parts = largest_remainder(total, weights)
    assert sum(parts) == total
    shares = [Fraction(total * weight, sum(weights)) for weight in weights]
    assert all(abs(part - share) < 1 for part, share in zip(parts, shares, strict=True))
    # No row would lie better with another cell: whoever was rounded up had a remainder not smaller.
    up = [s - int(s) for s, p in zip(shares, parts, strict=True) if p > int(s)]
    down = [s - int(s) for s, p in zip(shares, parts, strict=True) if p == int(s)]
    assert not up or not down or min(up) >= max(down)


def test_equal_remainders_go_to_the_first() -> None:
    assert largest_remainder(5, [1, 1, 1, 1]) == [2, 1, 1, 1]
    assert largest_remainder(16, [Fraction("15.75"), Fraction("0.25")]) == [16, 0]
    assert largest_remainder(1600, [Fraction("15.75"), Fraction("0.25")]) == [1575, 25]


# --- rows, by brute force

SHARDS = (23, 0, 40)
NAMES = [[f"{shard:02d}{row:04d}" for row in range(n)] for shard, n in enumerate(SHARDS)]
PLACES = [(shard, row) for shard, n in enumerate(SHARDS) for row in range(n)]

labels = st.lists(
    st.tuples(
        st.sampled_from(["", "web"]),
        st.sampled_from(["", "natural", "rendition", "ambiguous"]),
        st.sampled_from(["", "axe", "bed"]),
    ),
    min_size=len(PLACES),
    max_size=len(PLACES),
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mix")
    write_pool(folder / "store", NAMES)
    return folder


def brute(rows: list[Row], n: int, seed: int) -> set[Row]:
    def place(row: Row) -> Any:
        shard, number = row
        return rank_of(seed, f"img_emb_{shard}", NAMES[shard][number]), shard, number

    return set(sorted(rows, key=place)[:n])


@given(
    said=labels,
    seed=st.integers(0, 3),
    sizes=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    bins=st.sampled_from([1, 4, 22]),
    order=st.randoms(use_true_random=False),
)
def test_rows_are_the_first_of_each_domain(
    pool: Path, said: list[Label], seed: int, sizes: tuple[int, int], bins: int, order: Random
) -> None:
    """In whatever order the labels come."""
    lines = [(row, label) for row, label in zip(PLACES, said, strict=True) if label[1]]
    order.shuffle(lines)
    known = dict(lines)
    domains = {name: [r for r in known if known[r][1] == name] for name in ("natural", "rendition")}
    wanted = dict(zip(domains, sizes, strict=True))
    text = f'[mixes.a]\nrule = "counts"\nparts = {{ natural = {sizes[0]}, rendition = {sizes[1]} }}'
    lacking = [name for name in domains if len(domains[name]) < wanted[name]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "_BINS", bins)
        if lacking or not all(domains.values()):
            with pytest.raises(InputError):
                draw(pool, text, known, seed=seed)
            return
        found = draw(pool, text, known, seed=seed)
        assert kept(found, 3) == brute(domains["natural"], sizes[0], seed) | brute(
            domains["rendition"], sizes[1], seed
        )
        before = Counter(known.values())
        after = Counter(known[row] for row in kept(found, 3))
        stated = found.sizes["cells"]
        names = [(cell["source"], cell["domain"], cell["class"]) for cell in stated]
        assert names == sorted(before)
        assert [cell["before"] for cell in stated] == [before[name] for name in names]
        assert [cell["after"] for cell in stated] == [after[name] for name in names]
        # The random control of the same size.
        control = '[mixes.r]\nrule = "random"\nlike = "a"\n' + text
        randomly = draw(pool, control, known, seed=seed, mix="r")
        assert kept(randomly, 3) == brute(list(known), sum(sizes), seed)


@settings(max_examples=10)
@given(said=labels, share=st.integers(0, 10))
def test_a_ratio_is_nested(pool: Path, said: list[Label], share: int) -> None:
    known = {row: (s, d or "natural", c) for row, (s, d, c) in zip(PLACES, said, strict=True)}
    there = Counter(domain for _, domain, _ in known.values())
    most = min(there["natural"], there["rendition"])
    smaller: set[Row] = set()
    for rows in range(0, most + 1, 3):
        text = (
            f'[mixes.a]\nrule = "ratio"\nrows = {rows}\n'
            f"parts = {{ natural = {10 - share}, rendition = {share} }}"
        )
        if not there["rendition"]:
            return
        found = kept(draw(pool, text, known), 3)
        assert len(found) == rows
        assert smaller <= found
        smaller = found


def test_labels_may_come_in_any_order_and_form(pool: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    known = {
        row: ("", str(random.choice(["natural", "rendition"])), str(random.choice(["axe", "bed"])))
        for row in PLACES
    }
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[mixes.a]\nrule = "random"\nrows = 20')
    rows = [PLACES[i] for i in random.permutation(len(PLACES))]
    lines = [f"{s},{r},{known[s, r][1]},{known[s, r][2]}" for s, r in rows]
    (tmp_path / "places.csv").write_text("\n".join(["shard,row,domain,class", *lines]))
    lines = [f"{NAMES[s][r]}\t{known[s, r][1]}\t{known[s, r][2]}" for s, r in rows]
    (tmp_path / "keys.tsv").write_text("\n".join(["key\tdomain\tclass", *lines]))
    (tmp_path / "parts" / "inner").mkdir(parents=True)
    for number, some in enumerate((rows[:9], rows[9:])):
        write_labels(
            tmp_path / "parts" / "inner" / f"{number}.parquet", {row: known[row] for row in some}
        )
    wanted = kept(draw(pool, recipe.read_text(), known), 3)
    for tables in (("places.csv",), ("keys.tsv",), ("parts",), ("parts", "keys.tsv")):
        found = clipgap.mix(
            recipe,
            store=str(pool / "store"),
            labels=tuple(str(tmp_path / table) for table in tables),
        )
        assert kept(found, 3) == wanted


def test_rows_that_are_added_move_no_others(tmp_path: Path) -> None:
    """Another shard behind, and other labels: of the rows that were there, the order stays."""
    shards = [[f"{s}/{r}" for r in range(9)] for s in range(3)]
    found = []
    for number, folder in ((2, tmp_path / "less"), (3, tmp_path / "more")):
        write_pool(folder / "store", shards[:number])
        known = {(s, r): ("", "natural", "") for s in range(number) for r in range(9)}
        text = '[mixes.a]\nrule = "random"\nrows = {}'
        orders = [kept(draw(folder, text.format(n), known), number) for n in range(9 * number + 1)]
        steps = [next(iter(b - a)) for a, b in itertools.pairwise(orders)]
        found.append([row for row in steps if row[0] < 2])
    assert found[0] == found[1]
    assert len(found[0]) == 18


def test_a_key_that_two_rows_have_does_not_tie_them(tmp_path: Path) -> None:
    """Equal keys in one shard have equal ranks, and the first comes first; in two shards not."""
    write_pool(tmp_path / "store", [["a"] * 9, ["a"] * 9])
    known = {(s, r): ("", "natural", "") for s in range(2) for r in range(9)}
    first = 0 if rank_of(0, "img_emb_0", "a") < rank_of(0, "img_emb_1", "a") else 1
    found = draw(tmp_path, '[mixes.a]\nrule = "random"\nrows = 13', known)
    assert kept(found, 2) == {(first, r) for r in range(9)} | {(1 - first, r) for r in range(4)}


def test_every_seed_counts_also_0(pool: Path) -> None:
    known = dict.fromkeys(PLACES, ("", "natural", ""))
    text = '[draw]\nseed = 1\n[mixes.a]\nrule = "random"\nrows = 20'
    drawn = [kept(draw(pool, text, known, **more), 3) for more in ({}, {"seed": 0}, {"seed": 1})]
    assert drawn[0] == drawn[2] != drawn[1]
    again = draw(pool, text.replace("[draw]\nseed = 1\n", ""), known)
    assert kept(again, 3) == drawn[1]


# --- rules by domain and class

TASK = '[pool]\nbase = ["base"]\nextra = ["more"]\n' + (
    '[task]\nnatural = "real"\ntest = "sketch"\nqueried = ["axe"]\n'
)
CELLS = {
    ("base", "real", "axe"): 5,
    ("base", "real", "cat"): 4,
    ("dn", "real", "ant"): 7,
    ("dn", "real", "axe"): 6,
    ("dn", "sketch", "ant"): 8,
    ("dn", "sketch", "axe"): 10,
    ("dn", "sketch", "bed"): 2,
    ("dn", "clipart", "ant"): 3,
    ("dn", "clipart", "axe"): 4,
    ("more", "sketch", "antelope"): 6,
    ("more", "sketch", "ant"): 5,
}
WITHOUT = {("dn", "sketch", "axe"): 0}
MORE = {("more", "sketch", "antelope"): 0, ("more", "sketch", "ant"): 0}
CLIPART = {("dn", "clipart", "ant"): 0, ("dn", "clipart", "axe"): 0}
SKETCH = {("dn", "sketch", "ant"): 0, ("dn", "sketch", "axe"): 0, ("dn", "sketch", "bed"): 0}
CUT = {  # 30 rows cut to 23: 7 6 8 2 3 4 become 5⅖ 4⅗ 6⅒ 1½ 2³⁄₁₀ 3¹⁄₁₅
    ("dn", "real", "ant"): 5,
    ("dn", "real", "axe"): 5,
    ("dn", "sketch", "ant"): 6,
    ("dn", "sketch", "bed"): 2,
    ("dn", "clipart", "ant"): 2,
    ("dn", "clipart", "axe"): 3,
}


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Row, Label]]:
    folder = tmp_path_factory.mktemp("styles")
    total = sum(CELLS.values())
    write_pool(folder / "store", [[f"{row:04d}" for row in range(total)]])
    names = np.random.default_rng(5).permutation(
        np.repeat(np.arange(len(CELLS)), list(CELLS.values()))
    )
    return folder, {(0, row): list(CELLS)[name] for row, name in enumerate(names)}


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ('rule = "natural-only"', {**CLIPART, **SKETCH}),
        ('rule = "leave-domain-out"', SKETCH),
        ('rule = "low-diversity"', {**CLIPART, **WITHOUT}),
        ('rule = "high-diversity"', WITHOUT),
        ('rule = "high-diversity"\nlike = "low"', {**WITHOUT, **CUT}),
        ('rule = "domains"\ndomains = ["sketch", "clipart"]', {
            **WITHOUT, ("dn", "real", "ant"): 0, ("dn", "real", "axe"): 0,
        }),
        ('rule = "upper-bound"', {}),
        ('rule = "upper-bound"\ndiversity = "low"', CLIPART),
        ('rule = "share-seen"\nshare = 0.05', {("dn", "sketch", "axe"): 1}),
        ('rule = "share-seen"\nshare = 0.8', {("dn", "sketch", "axe"): 8}),
        ('rule = "others-mixed"\nclasses = 0', SKETCH),
        ('rule = "others-mixed"\nclasses = 2\ndiversity = "low"', {**CLIPART, **WITHOUT}),
        ('rule = "others-added"\nsource = "more"\nlike = "high"\nadded = 6',
            {**WITHOUT, ("more", "sketch", "antelope"): 6, ("dn", "real", "ant"): 6,
             ("dn", "real", "axe"): 5, ("dn", "sketch", "ant"): 6, ("dn", "sketch", "bed"): 2,
             ("dn", "clipart", "ant"): 2, ("dn", "clipart", "axe"): 3}),
    ],
)  # fmt: skip
def test_composition_by_hand(
    styles: tuple[Path, dict[Row, Label]], rule: str, change: Mapping[Label, int]
) -> None:
    folder, known = styles
    others = '[mixes.low]\nrule = "low-diversity"\n[mixes.high]\nrule = "high-diversity"\n'
    found = draw(folder, f"{TASK}{others}[mixes.a]\n{rule}", known, mix="a")
    expected = {**CELLS, **MORE, **change}
    assert Counter(known[row] for row in kept(found, 1)) == Counter(expected)


def test_domains_without_a_task_are_whole(styles: tuple[Path, dict[Row, Label]]) -> None:
    folder, known = styles
    found = draw(folder, '[mixes.a]\nrule = "domains"\ndomains = ["sketch"]', known)
    assert set(kept(found, 1)) == {row for row in known if known[row][1] == "sketch"}


def test_shares_of_classes_are_nested(styles: tuple[Path, dict[Row, Label]]) -> None:
    folder, known = styles
    drawn = []
    for classes in ("0", "1", "0.5", "1.0"):
        text = f'{TASK}[mixes.a]\nrule = "others-mixed"\nclasses = {classes}'
        rows = kept(draw(folder, text, known), 1)
        drawn.append({known[row][2] for row in rows if known[row][:2] == ("dn", "sketch")})
    assert [len(classes) for classes in drawn] == [0, 1, 1, 2]
    assert drawn[0] < drawn[1] == drawn[2] < drawn[3] == {"ant", "bed"}


def test_the_released_rule(styles: tuple[Path, dict[Row, Label]]) -> None:
    """The first rows by file; 7 6 8 2 3 4 to 18 of 30 are 5 4 5 2 2 3, three too many.

    One less for class after class of the largest domain, real (13 rows), then of the next.
    """
    folder, known = styles
    text = f'{TASK}[draw]\norder = "file"\n[mixes.a]\nrule = "high-diversity"\nrows = 18'
    rows = kept(draw(folder, text, known), 1)
    wanted = {
        ("dn", "real", "ant"): 4,
        ("dn", "real", "axe"): 3,
        ("dn", "sketch", "ant"): 4,
        ("dn", "sketch", "bed"): 2,
        ("dn", "clipart", "ant"): 2,
        ("dn", "clipart", "axe"): 3,
    }
    for label, n in wanted.items():
        assert [r for r in sorted(rows) if known[r] == label] == sorted(
            r for r in known if known[r] == label
        )[:n]
    assert len(rows) == 18 + 9  # with the base


# --- within a keep-list, on disk, on the command line


def write_world(folder: Path) -> Path:
    write_pool(folder / "store", NAMES)
    domains = ["natural", "rendition", "ambiguous"]
    known = {row: ("", domains[i % 3], "axe" if i % 2 else "bed") for i, row in enumerate(PLACES)}
    write_labels(folder / "labels.parquet", known)
    (folder / "recipe.toml").write_text(
        '[pool]\nstore = "store"\nlabels = ["labels.parquet"]\n'
        '[mixes.a]\nrule = "counts"\nparts = { natural = 9, rendition = 5 }\n'
    )
    return folder


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_world(tmp_path)
    call = ["mix", str(folder / "recipe.toml"), "-o", str(folder / "out")]
    assert main([*call, "--dry-run"]) == 0
    assert not (folder / "out").exists()
    table = capsys.readouterr().err
    assert "  natural               21      9\n" in table
    assert main([*call, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["sizes"]["kept"] == 14
    lines = printed.err.splitlines()
    before = next(i for i, line in enumerate(lines) if "before and after" in line)
    assert not any("writing" in line for line in lines[:before])
    assert main([*call, "--resume"]) == 0
    assert "already complete" in capsys.readouterr().out
    assert main(["verify", str(folder / "out")]) == 0
    assert open_keep(folder / "out").kept == 14


def test_within_a_keep_list(tmp_path: Path) -> None:
    folder = write_world(tmp_path)
    recipe = folder / "recipe.toml"
    wide = clipgap.mix(recipe, out=folder / "wide")
    recipe.write_text(recipe.read_text().replace("9, rendition = 5", "4, rendition = 5"))
    narrow = clipgap.mix(recipe, out=folder / "narrow", within=str(folder / "wide"))
    assert kept(narrow, 3) < kept(wide, 3)
    assert narrow.sizes["candidates"] == 14
    assert narrow.sizes["outside"] == len(PLACES) - 14
    assert clipgap.verify(folder / "narrow").ok


Lie = Callable[[NDArray[np.bool_]], None]


def swap(mask: NDArray[np.bool_]) -> None:
    """Another row of the same domain instead of one that is kept: every third row is natural."""
    natural = np.arange(0, 23, 3)
    kept, removed = natural[mask[natural]], natural[~mask[natural]]
    mask[[kept[0], removed[0]]] = False, True


def drop(mask: NDArray[np.bool_]) -> None:
    mask[np.flatnonzero(mask)[0]] = False


@pytest.mark.parametrize(
    ("lie", "check", "words"),
    [
        (swap, "order", "natural"),
        (drop, "counts", "rows are kept, not"),
    ],
)
def test_a_lie_is_found(tmp_path: Path, lie: Lie, check: str, words: str) -> None:
    folder = write_world(tmp_path)
    true = clipgap.mix(folder / "recipe.toml", out=folder / "true")
    store = open_store(str(folder / "store"))
    with KeepWriter(folder / "lie", store.identity(), true.rule) as writer:
        for shard in range(3):
            mask = true.mask(shard).copy()
            if not shard:
                lie(mask)
            keys = pa.array(np.array(NAMES[shard], object)[mask], pa.string())
            writer.add(shard, mask, keys)
        writer.note(sizes=true.sizes)
    assert words in failures(clipgap.verify(folder / "lie"))[check]


def test_labels_that_changed_are_named(tmp_path: Path) -> None:
    folder = write_world(tmp_path)
    clipgap.mix(folder / "recipe.toml", out=folder / "out")
    write_labels(folder / "labels.parquet", dict.fromkeys(PLACES, ("", "natural", "")))
    assert "no longer the table" in failures(clipgap.verify(folder / "out"))["labels"]


# --- bad input

GOOD = '[mixes.a]\nrule = "random"\nrows = 5\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no mix"),
        ("[mixes]\na = 1", ":2: mix 'a' must be a table"),
        ("[mixes.a]\nrows = 3", ":1: mix 'a' needs `rule`"),
        ('[mixes.a]\nrule = "ration"', ":2: unknown rule 'ration'; did you mean 'ratio'?"),
        ('[mixes.a]\nrule = "ratio"\nrows = 3', "needs `parts`"),
        ('[mixes.a]\nrule = "random"', "needs one of `rows` and `like`"),
        ('[mixes.a]\nrule = "random"\nrows = 3\nlike = "a"', "one of `rows` and `like`"),
        ('[mixes.a]\nrule = "random"\nlike = "a"', "like each other: a, a"),
        ('[mixes.a]\nrule = "random"\nlike = "b"', "is to be like 'b', which is not there"),
        ('[mixes.a]\nrule = "random"\nrows = -3', ":3: `rows` must be a number of rows"),
        ('[mixes.a]\nrule = "random"\nrows = 5\nseed = 1', ":4: unknown key 'seed'"),
        ('[mixes.a]\nrule = "counts"\nparts = { natural = 1.5 }', "whole numbers"),
        ('[mixes.a]\nrule = "ratio"\nrows = 3\nparts = { natural = 0 }', "not all be 0"),
        ('[mixes.a]\nrule = "low-diversity"', "needs `natural` in [task]"),
        (f'[draw]\norder = "random"\n{GOOD}', ":2: `order` must be 'hash' or 'file'"),
        (f"[pol]\n{GOOD}", ":1: unknown key 'pol'; did you mean 'pool'?"),
        (f'[pool]\nbase = ["a"]\nextra = ["a"]\n{GOOD}', ":3: 'a' is both base and extra"),
        (f'[pool]\nbase = ["a"]\n{GOOD}', "the labels know no source 'a'"),
        ("[mixes.a", "is not valid TOML"),
        (
            '[mixes.a]\nrule = "counts"\nparts = { natural = 22 }',
            "it asks for 22 rows of the domain 'natural', there are 21, so 1 are lacking",
        ),
        ('[mixes.a]\nrule = "random"\nrows = 64', "asks for 64 rows, there are 63, so 1 are"),
        (
            '[mixes.a]\nrule = "ratio"\nrows = 42\nparts = { natural = 1, ambiguous = 0.9 }',
            "asks for 22 rows of the domain 'natural', there are 21, so 1 are lacking",
        ),
        (
            '[mixes.a]\nrule = "counts"\nparts = { naturel = 1 }',
            "the labels know no domain 'naturel'; did you mean 'natural'?",
        ),
        (
            '[task]\nnatural = "natural"\ntest = "rendition"\nqueried = ["ax"]\n'
            '[mixes.a]\nrule = "low-diversity"',
            "no class of the domain 'rendition' 'ax'; did you mean 'axe'?",
        ),
        (
            '[task]\nnatural = "natural"\ntest = "sketch"\nqueried = []\n'
            '[mixes.a]\nrule = "low-diversity"',
            "no domain 'sketch'",
        ),
        (
            '[task]\nnatural = "natural"\ntest = "rendition"\nqueried = ["axe"]\n'
            '[mixes.a]\nrule = "others-mixed"\nclasses = 2',
            "asks for 2 classes that are not queried, of 1",
        ),
        (
            '[task]\nnatural = "natural"\ntest = "rendition"\nqueried = ["axe"]\n'
            '[mixes.a]\nrule = "others-added"\nsource = "web"',
            "'web' is no extra source",
        ),
    ],
)
def test_a_recipe_that_cannot_be_met(tmp_path: Path, text: str, words: str) -> None:
    folder = write_world(tmp_path)
    recipe = folder / "bad.toml"
    recipe.write_text(text)
    with pytest.raises(InputError) as error:
        clipgap.mix(
            recipe,
            out=folder / "out",
            store=str(folder / "store"),
            labels=(str(folder / "labels.parquet"),),
        )
    assert words in str(error.value)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("shard,row,class\n0,1,axe", "labels.csv has no column 'domain'"),
        ("domain,class\nnatural,axe", "labels.csv names no rows"),
        ("shard,row,domain\n0,23,natural", "1 labels are of rows that"),
        ("shard,row,domain\n7,0,natural", "such as shard 7 row 0"),
        ("shard,row,domain\n-1,0,natural", "such as shard -1 row 0"),
        ("shard,row,domain\n0,x,natural", "the column 'row' must be whole numbers"),
        ("shard,row,domain\n0,,natural", "the column 'row' must be whole numbers"),
        ("shard,row,domain\n0,1,natural\n0,1,rendition", "1 rows have labels that contradict"),
        ("key,domain\n000001,natural\n000001,rendition", "1 keys have labels that contradict"),
        ("key,domain\n1,natural", "1 keys are of no row of"),
        ("shard,row,domain\n0,1,", "no row has a domain"),
        ("shard,row,domain,domain\n0,1,natural,natural", "the column 'domain' more than once"),
        ("", "cannot read"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path: Path, table: str, words: str) -> None:
    folder = write_world(tmp_path)
    (folder / "labels.csv").write_text(table)
    with pytest.raises(InputError) as error:
        clipgap.mix(folder / "recipe.toml", labels=(str(folder / "labels.csv"),))
    assert words in str(error.value)
    assert "labels.csv" in str(error.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("n1/b.jpg", "if 'n1/b.jpg' is '/data/n1/b.jpg', put '/data/' before them):"),
        ("val/n1/b.jpg", "put '/data/' before them in place of 'val/'):"),
        ("n1/c.jpg", "keys are of no row of {store}:"),
        ("/data/n1/b.jpg,natural\nc", "keys are of no row of {store}:"),
    ],
)
def test_labels_of_the_same_images_in_another_folder(
    tmp_path: Path, given: str, words: str
) -> None:
    """Refused like other strangers, with what would make them fit."""
    store = write_pool(tmp_path / "store", [[], ["/data/n1/b.jpg", "/data/n2/b.jpg"]])
    (tmp_path / "labels.csv").write_text(f"key,domain\n{given},natural\n")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[pool]\nstore = "store"\nlabels = ["labels.csv"]\n' + GOOD)
    with pytest.raises(InputError) as error:
        clipgap.mix(recipe)
    assert words.format(store=store) in str(error.value)


def test_a_key_that_names_two_rows_is_refused(tmp_path: Path) -> None:
    write_pool(tmp_path / "store", [["a", "b"], ["a"]])
    (tmp_path / "labels.csv").write_text("key,domain\na,natural\nb,natural")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[pool]\nstore = "store"\nlabels = ["labels.csv"]\n' + GOOD)
    with pytest.raises(InputError, match="of several rows") as error:
        clipgap.mix(recipe)
    assert "  - a" in str(error.value)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"key": ["000001", None]}, "1 of its rows have no 'key'"),
        ({"key": [["a"], ["b"]]}, "the column 'key' must be of text"),
        ({"key": ["000001", "000002"], "class": [["a"], ["b"]]}, "the column 'class' must be of"),
    ],
)
def test_tables_of_labels_that_cannot_be_used(
    tmp_path: Path, columns: dict[str, Any], words: str
) -> None:
    folder = write_world(tmp_path)
    pq.write_table(pa.table({**columns, "domain": ["natural"] * 2}), folder / "n.parquet")
    with pytest.raises(InputError, match=words):
        clipgap.mix(folder / "recipe.toml", labels=(str(folder / "n.parquet"),))


@pytest.mark.parametrize(
    "mix",
    [
        'rule = ["random"]\nrows = 3',
        'rule = "share-seen"\nshare = nan',
        'rule = "share-seen"\nshare = 1e-999999999',
        'rule = "ratio"\nrows = 3\nparts = { natural = 9e999999, rendition = 9e999999 }',
    ],
)
def test_numbers_that_no_recipe_means(tmp_path: Path, mix: str) -> None:
    folder = write_world(tmp_path)
    recipe = folder / "odd.toml"
    recipe.write_text(f'[pool]\nstore = "store"\nlabels = ["labels.parquet"]\n[mixes.a]\n{mix}\n')
    with pytest.raises(ClipgapError, match=r"odd\.toml"):
        clipgap.mix(recipe)


def test_numbers_are_no_keys(tmp_path: Path) -> None:
    """Written as numbers, keys have lost their zeros, and are of no row."""
    folder = write_world(tmp_path)
    pq.write_table(pa.table({"key": [1, 2], "domain": ["natural"] * 2}), folder / "n.parquet")
    with pytest.raises(InputError, match="are of no row"):
        clipgap.mix(folder / "recipe.toml", labels=(str(folder / "n.parquet"),))


def test_what_is_left_open_is_asked_for(tmp_path: Path) -> None:
    folder = write_world(tmp_path)
    recipe = folder / "open.toml"
    recipe.write_text(GOOD + GOOD.replace("a]", "b]"))
    cases: dict[str, dict[str, Any]] = {
        "2 mixes; choose one with --mix: a, b": {},
        "has no mix 'c'": {"mix": "c"},
        "no store is named": {"mix": "a"},
        "no labels are named": {"mix": "a", "store": "x"},
    }
    for words, options in cases.items():
        with pytest.raises(UsageError, match=words):
            clipgap.mix(recipe, **options)
    with pytest.raises(UsageError, match="both input and output"):
        clipgap.mix(folder / "recipe.toml", out=folder / "store")


def test_a_keep_list_of_another_store(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "one")
    other = write_pool(tmp_path / "other", [["a"]])
    with KeepWriter(tmp_path / "keep", open_store(str(other)).identity(), {"name": "x"}) as keep:
        keep.add(0, np.ones(1, np.bool_), pa.array(["a"]))
    with pytest.raises(InputError, match="is of another store"):
        clipgap.mix(folder / "recipe.toml", within=str(tmp_path / "keep"))


def test_it_is_a_keep_list_like_any_other(tmp_path: Path) -> None:
    folder = write_world(tmp_path)
    keep = clipgap.mix(folder / "recipe.toml", out=folder / "out", threads=1).keep
    assert isinstance(keep, KeepList)
    again = clipgap.mix(folder / "recipe.toml", out=folder / "again", threads=3).keep
    assert again is not None
    assert again.manifest["files"] == keep.manifest["files"]
    keys = [key for shard in range(3) for key in keep.keys(shard).to_pylist()]
    rows = [(s, r) for s in range(3) for r in keep.rows_of(s)]
    assert keys == [NAMES[s][r] for s, r in rows]


def test_it_can_be_a_stage_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_world(tmp_path)
    (folder / "study.toml").write_text(
        '[lists]\nmix = ["a"]\n[stages."drawn-$mix"]\ncommand = "mix"\nmix = "$mix"\n'
        f'recipe = "{folder}/recipe.toml"\n'
    )
    assert main(["run", str(folder / "study.toml"), "-o", str(folder / "out"), "--dry-run"]) == 0
    assert "mix" in capsys.readouterr().out
