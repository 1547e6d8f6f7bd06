"""Others at an output folder, the same for every command: a second run, edited inputs, strangers'
files, links, edited documents. Nothing is touched that is not the run's own.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest

from clipgap.clip.analyze.api import KIND as ANALYSIS
from clipgap.clip.embed.api import KIND as EMBED
from clipgap.clip.eval.api import KIND as EVAL
from clipgap.errors import InputError
from clipgap.files.documents import SUM, checksum
from clipgap.runs.lock import PROGRESS
from clipgap.runs.units import Ledger
from clipgap.scan.manifest import KIND as SCAN
from clipgap.shards.api import KIND as SHARDS
from tests.guarded_site import PASSWORD, guarded_site
from tests.lifecycle import (
    BAD_CALL,
    BAD_INPUT,
    House,
    every,
    is_visible,
    without_lock,
)
from tests.lifecycle_cases import CASES, OUT, Case
from tests.lifecycle_server import Ended
from tests.thorough import THOROUGH

# --- others ---------------------------------------------------------------------------------


@every()
def test_a_second_writer(house: House, case: Case) -> None:
    whole, writes = house.known(case)
    flags = [[], [*case.resume], ["--overwrite"]] if case.flags else [[]]
    server, middle = house.server_of(case), len(writes) // 2
    with server.at_work(case.arguments, middle, **dict(case.environment)) as first:
        left = house.tree(case)
        for more in flags:
            ended = house.run(case, *more)
            assert ended.code == BAD_INPUT and "another run is at work" in ended.said, ended
        assert house.tree(case) == left
    assert first[0].code == case.code, first[0].said
    assert house.tree(case) == whole


@every()
def test_changed_inputs(house: House, case: Case) -> None:
    """The output was begun, or made, from others: refused, and told why, or made anew."""
    for begin, time_kept in product((house.begun, house.finished), (False, True)):
        begin(case)
        case.change.apply(house.folder, time_kept)
        left = house.tree(case)
        ended = house.resume(case.changed())
        what = f"{begin.__name__}, time kept: {time_kept}, {ended}"
        if case.flags or ended.code != case.code:
            assert ended.code == BAD_INPUT, what
            assert re.search(case.change.named, ended.said), what
        if case.flags:
            assert without_lock(house.tree(case)) == without_lock(left), what
        elif ended.code == case.code:
            made = house.tree(case)
            shutil.rmtree(house.out)
            assert house.run(case).code == case.code
            assert house.tree(case) == made, what


@every()
def test_strangers_in_the_folder(house: House, case: Case) -> None:
    flags = [[], [*case.resume], ["--overwrite"]] if case.flags else [[]]
    house.out.mkdir()
    stranger = house.out / "thesis.tex"
    stranger.write_text("mine")
    left = house.tree(case)
    for more in flags:
        ended = house.run(case, *more)
        assert ended.code == BAD_INPUT, ended
        assert house.tree(case) == left


@every(flags=True)
def test_strangers_among_what_is_ours(house: House, case: Case) -> None:
    """Left alone, whether the output is then replaced or not."""
    made = house.finished(case)
    for begin in (house.finished, house.begun):
        begin(case)
        folders = [house.out, *(path for path in house.out.iterdir() if path.is_dir())]
        strangers = [folder / "thesis.tex" for folder in folders if is_visible(folder.name)]
        for stranger in strangers:
            stranger.write_text("mine")
        ended = house.run(case, "--overwrite")
        assert ended.code in (case.code, BAD_INPUT), ended
        for stranger in strangers:
            assert stranger.is_file() and stranger.read_text() == "mine", stranger
            stranger.unlink()
        if ended.code == case.code:
            assert house.tree(case) == made


# --- links ----------------------------------------------------------------------------------


@pytest.fixture
def precious(house: House) -> Iterator[Path]:
    """A folder elsewhere, which no run may touch."""
    folder = house.folder.parent / "precious"
    (folder / "keep").mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    (folder / "keep" / "thesis.tex").write_text("mine")
    yield folder
    shutil.rmtree(folder)


def is_untouched(precious: Path) -> bool:
    names = sorted(path.relative_to(precious).as_posix() for path in precious.rglob("*"))
    return names == ["keep", "keep/thesis.tex", "thesis.tex"] and all(
        path.read_text() == "mine" for path in precious.rglob("*.tex")
    )


@every()
def test_links_beside_the_output(house: House, precious: Path, case: Case) -> None:
    """Whatever a run writes there, it doesn't write through a link."""
    beside = [f".{OUT}.lock", f"{OUT}.toml", f".{OUT}.unfinished", f"{OUT}.work"]
    for names, target in ((beside, "thesis.tex"), (beside, "keep"), ([OUT], "thesis.tex")):
        for name in names:
            (house.folder / name).symlink_to(precious / target)
        ended = house.run(case)
        assert ended.code in (case.code, BAD_INPUT), ended
        assert is_untouched(precious), (names, target)
        house.renew()


@every()
def test_links_among_what_is_ours(house: House, precious: Path, case: Case) -> None:
    flags = [[*case.resume], ["--overwrite"]] if case.flags else [[]]
    for begin in (house.begun, house.finished):
        for more in flags:
            begin(case)
            entries = [path for path in house.out.rglob("*") if not path.is_dir()]
            folders = [path for path in house.out.iterdir() if path.is_dir()]
            for path in entries[::3]:
                path.unlink()
                path.symlink_to(precious / "thesis.tex")
            for path in folders[::2]:
                shutil.rmtree(path)
                path.symlink_to(precious / "keep")
            ended = house.run(case, *more)
            assert ended.code in (case.code, BAD_INPUT), ended
            assert is_untouched(precious), (begin.__name__, more)


# --- documents ------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (None, -1, "x", [1], {"a": 1}, 1e300, True)
VALUES_EACH = 9 if THOROUGH else 1
"""Places of a document that get one of another type."""


def with_names(document: Any, *names: str) -> Iterator[Any]:
    """The document with each of these wherever it lists names."""
    for name in names:
        yield replaced(document, list(places_of(document)), partial(with_name, name=name))


def with_other_values(document: Any, most: int) -> Iterator[Any]:
    """The document with a value of another type in a place, so many times."""
    places = list(places_of(document))[1:]
    for number in range(0, len(places), max(1, len(places) // most)):
        value = VALUES[number % len(VALUES)]
        yield replaced(document, [places[number]], lambda _, value=value: value)


def places_of(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values in a document."""
    yield place
    if isinstance(value, dict):
        for key in value:
            yield from places_of(value[key], (*place, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 2)):
            yield from places_of(value[i], (*place, i))


def with_name(value: Any, name: str) -> Any:
    """A name added to each list of strings and to each mapping of mappings."""
    if isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
        return {**value, name: next(iter(value.values()))}
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [*value, name]
    return value


def replaced(document: Any, places: list[tuple[Any, ...]], change: Callable[[Any], Any]) -> Any:
    document = json.loads(json.dumps(document))
    for place in reversed(places):
        if not place:
            document = change(document)
            continue
        inner = document
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = change(inner[place[-1]])
    return document


def signed(document: Any) -> Any:
    """Whoever edits a document can also mend its checksum."""
    if isinstance(document, dict) and SUM in document:
        return {**document, SUM: checksum(document)}
    return document


@every(flags=True)
def test_hostile_documents(house: House, precious: Path, case: Case) -> None:
    """Edited manifests and notes: exit 3, or made again; nothing outside is touched."""
    made = house.finished(case)
    neighbours = {name: of for name, of in made.items() if not name.startswith(OUT)}
    thesis = precious / "thesis.tex"
    for begin, outside in (
        (house.finished, ("..", str(thesis))),
        (house.begun, ("../precious", "../precious/thesis.tex")),
    ):
        begin(case)
        documents = [path for path in house.out.rglob("*.json") if "stats" not in path.name]
        for path in documents:
            begin(case)
            content = json.loads(path.read_bytes())
            mutants = [*with_names(content, *outside), *with_other_values(content, VALUES_EACH)]
            for mutant, more in zip(mutants, cycle([["--overwrite"], case.resume]), strict=False):
                begin(case)
                path.write_text(json.dumps(signed(mutant)))
                ended = house.run(case, *more)
                what = f"{path.name} {more} {json.dumps(mutant)[:2000]}: {ended}"
                assert ended.code in (case.code, BAD_INPUT), what
                assert ended.code == case.code or OUT in ended.said, what
                assert neighbours.items() <= house.tree(case).items(), what
                assert is_untouched(precious), what


KIND_OF = {
    "gap": SCAN,
    "scan": SCAN,
    "filter": SHARDS,
    "embed": EMBED,
    "embed-folder": EMBED,
    "eval": EVAL,
    "analyze": ANALYSIS,
}


@every(names=KIND_OF)
def test_records_that_lack_something(house: House, case: Case) -> None:
    """Records of units with an entry missing or of another type, their checksums mended."""
    path = house.out / PROGRESS / "units.jsonl"
    house.begun_with(case, path)
    *earlier, last = path.read_bytes().splitlines(keepends=True)
    line = json.loads(last)
    places = [place for place in places_of(line["record"]) if len(place) == 1 or "entry" in place]
    mutants = [without(line["record"], place) for place in places]
    mutants += [replaced(line["record"], [place], odd) for place in places]
    for number, mutant in enumerate(mutants):
        house.begun_with(case, path)
        forged = json.dumps(signed({**line, "record": mutant})).encode()
        path.write_bytes(b"".join(earlier) + forged + b"\n")
        with pytest.raises(InputError, match=r"units\.jsonl: line"):
            Ledger(path, KIND_OF[case.name].record).load()
        if number in (0, len(mutants) - 1):  # the command reads them so; it takes its time
            ended = house.resume(case)
            assert ended.code == BAD_INPUT and "units.jsonl: line" in ended.said, (mutant, ended)
            assert "Traceback" not in ended.said


def without(document: Any, place: tuple[Any, ...]) -> Any:
    return replaced(document, [place[:-1]], lambda of: {k: of[k] for k in of if k != place[-1]})


def odd(value: Any) -> Any:
    """Not of the type of this value, nor of one that would do."""
    return 7 if isinstance(value, (str, dict, list)) else "seven"


# --- passwords ------------------------------------------------------------------------------

SHELVES = {
    "plain/store": "plain/store/img_emb/img_emb_{0..2}.npy",
    "plain/val": "plain/val/img_emb/img_emb_0.npy",
    "plain/reference": "plain/reference/img_emb/img_emb_0.npy",
    "val-shards": "val-shards/00000.tar",
    "shards": "shards/{00000..00002}.tar",
}
"""Stores and shards of the commands, as they are named by address: a site has no folders."""
BY_ADDRESS = {case.name for case in CASES} - {
    *("split", "combine", "emulate", "render", "embed-folder", "link", "caption"),
}


KEY, WRONG = "key-of-a-bucket", "not-the-password"


@pytest.fixture(scope="module")
def site(house_of_file: House) -> Iterator[str]:
    with guarded_site(house_of_file.folder) as address:
        yield address


@every(names=BY_ADDRESS)
def test_a_password_in_an_address_stays_out(house: House, site: str, case: Case) -> None:
    """Of files, of what is said, of errors; the same for a key in the environment."""
    recipes = {path: path.read_text() for path in house.folder.glob("*.toml")}
    wrong = site.replace(PASSWORD, WRONG)

    def run(command: Sequence[str], site: str) -> Ended:
        for path, text in recipes.items():
            path.unlink()  # it is a link to the file that all tests share
            path.write_text(at_site(text, site))
        arguments = [at_site(each, site) for each in command]
        ended = house.server_of(case).run(
            arguments, **dict(case.environment), AWS_SECRET_ACCESS_KEY=KEY
        )
        assert not any(secret in ended.said for secret in (PASSWORD, WRONG, KEY)), ended.said
        return ended

    if case.name == "train":  # each rank would have to be told, and open_clip logs it
        refused = run(case.arguments, site)
        assert refused.code == BAD_CALL and "must hold no password" in refused.said, refused
        assert not house.out.exists()
        return
    refused = run(case.arguments, wrong)
    assert refused.code == BAD_INPUT and "401" in refused.said, refused
    assert run(case.arguments, site).code == case.code
    if case.flags:
        assert run([*case.arguments, *case.resume], site).code == case.code
    assert run(["verify", OUT], site).code in (0, BAD_INPUT)
    for path in house.folder.rglob("*"):
        if path.is_file() and path not in recipes:
            content = path.read_bytes()
            assert not any(each.encode() in content for each in (PASSWORD, WRONG, KEY)), path
    documents = [*house.folder.glob(f"{OUT}.toml"), *house.out.rglob("*.json")]
    assert any(b"***@127.0.0.1" in path.read_bytes() for path in documents)


def at_site(text: str, site: str) -> str:
    """The same with stores and shards named by address."""
    names = "|".join(map(re.escape, SHELVES))
    return re.sub(rf"(?<![\w/-])({names})(?![\w/-])", lambda m: f"{site}/{SHELVES[m[1]]}", text)
