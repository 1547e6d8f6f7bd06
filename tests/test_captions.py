"""Captions made on the way into training."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.clip.images.decoding import Unusable
from clipgap.clip.train.captions import ANY, TEMPLATES, TERMS, read_captions, with_article
from clipgap.clip.train.samples import WithCaption
from clipgap.errors import InputError, ResumeError, UsageError
from clipgap.shards.finding import find_shards
from clipgap.shards.samples import Sample, read_samples
from tests.train_worlds import make_train_world, options, planned, train_here

KEYS = [f"{number:04d}" for number in range(600)]
DOMAINS = ("sketch", "quickdraw", "real")
CLASSES = ("ant", "aircraft_carrier", "pants", "The Eiffel Tower")


def write_policy(folder: Path, text: str = "", **table: Any) -> Path:
    folder.mkdir(exist_ok=True)
    labels = {
        "key": KEYS,
        "domain": [DOMAINS[i % 3] for i in range(len(KEYS))],
        "class": [CLASSES[i % 4] for i in range(len(KEYS))],
        **table,
    }
    pq.write_table(pa.table(labels), folder / "labels.parquet")
    file = folder / "captions.toml"
    file.write_text(f'labels = ["labels.parquet"]\n{text}\n')
    return file


def made(file: Path) -> dict[str, str]:
    captions = read_captions(file)
    return {key: str(captions.of(key)) for key in captions.labels}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("aircraft carrier", "an aircraft carrier"),
        ("image", "an image"),
        ("banana", "a banana"),
        ("hourglass", "an hourglass"),
        ("horse", "a horse"),
        ("unicorn", "a unicorn"),
        ("uniform", "a uniform"),
        ("unimportant thing", "an unimportant thing"),
        ("underwear", "an underwear"),
        ("umbrella", "an umbrella"),
        ("ukulele", "a ukulele"),
        ("used tyre", "a used tyre"),
        ("onion", "an onion"),
        ("one-way sign", "a one-way sign"),
        ("European", "a European"),
        ("x-ray", "an x-ray"),
        ("The Mona Lisa", "The Mona Lisa"),
    ],
)
def test_articles_agree(words: str, said: str) -> None:
    assert with_article(words) == said
    assert with_article(words, {words: ""}) == words


def test_every_caption_is_one_that_can_be_made(tmp_path: Path) -> None:
    """All ways to fill in the templates, written out; each of them comes up."""
    found = made(write_policy(tmp_path, '[articles]\npants = ""'))
    seen = set()
    for number, (key, caption) in enumerate(found.items()):
        domain, class_ = DOMAINS[number % 3], CLASSES[number % 4].replace("_", " ")
        a_class = {"ant": "an ant", "aircraft carrier": "an aircraft carrier"}.get(class_, class_)
        possible = {}
        for template, term in itertools.product(TEMPLATES, (*ANY, *TERMS[domain])):
            a_term = f"an {term}" if term in ("image", "illustration", "art") else f"a {term}"
            text = template.replace("{a term}", a_term).replace("{term}", term)
            text = text.replace("{a class}", a_class).replace("{class}", class_)
            possible |= {text: (template, term, ""), f"{text}.": (template, term, ".")}
        assert caption in possible, (key, caption)
        seen.add(possible[caption])
    assert {template for template, _, _ in seen} == set(TEMPLATES)
    assert {term for _, term, _ in seen} == {*ANY, *(t for d in DOMAINS for t in TERMS[d])}
    assert {stop for _, _, stop in seen} == {"", "."}


def test_shares_and_seeds(tmp_path: Path) -> None:
    """By hand: a caption tells the domain if it holds one of its terms."""

    def telling(**said: Any) -> set[str]:
        text = "\n".join(f"{key} = {value}" for key, value in said.items())
        found = made(write_policy(tmp_path, text))
        return {
            key
            for number, (key, caption) in enumerate(found.items())
            if any(term in caption for term in TERMS[DOMAINS[number % 3]])
        }

    none, third, half, all_ = (telling(specific=share) for share in (0, 0.3, 0.5, 1))
    assert none == set()
    assert all_ == set(KEYS)
    assert third < half
    assert abs(len(third) - 180) < 3.3 * (600 * 0.3 * 0.7) ** 0.5
    assert abs(len(half) - 300) < 3.3 * (600 * 0.25) ** 0.5
    assert telling(seed=0) == half  # said or not, 0 is a seed
    assert telling(seed=1) != half
    stops = made(write_policy(tmp_path, "full_stop = 1"))
    assert all(caption.endswith(".") for caption in stops.values())


def test_a_caption_follows_from_its_key_alone(tmp_path: Path) -> None:
    whole = made(write_policy(tmp_path / "a"))
    some = slice(450, None, -7)
    fewer = {
        "key": [*KEYS[some], "new"],
        "domain": [*(DOMAINS[i % 3] for i in range(600)[some]), "real"],
        "class": [*(CLASSES[i % 4] for i in range(600)[some]), "axe"],
    }
    found = made(write_policy(tmp_path / "b", **fewer))
    assert {key: whole[key] for key in KEYS[some]} == {k: v for k, v in found.items() if k != "new"}
    one, other = (read_captions(tmp_path / name / "captions.toml") for name in "ab")
    assert one.sha256 != other.sha256
    assert one.sha256 == read_captions(write_policy(tmp_path / "c", "seed = 0")).sha256


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("specific = 1.5", "line 2: specific must be a share from 0 to 1"),
        ("specifik = 1", "line 2: unknown 'specifik'; did you mean 'specific'"),
        ("seed = true", "seed must be a whole number"),
        ("unlabelled = 'drop'", "unlabelled must be 'refuse' or 'own'"),
        ("templates = ['a {term}']", "templates must be a list with {class}"),
        ("templates = ['{class} {}']", "templates must be a list with {class}"),
        ("any = []", "any must be a list of words"),
        ("[terms]\nsketch = 'sketch'", "terms must be lists of words by domain"),
        ("[articles]\npants = 'some'", "articles must be articles by class"),
        ("seed = ", "is not valid TOML"),
    ],
)
def test_policies_that_cannot_be(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        read_captions(write_policy(tmp_path, text))
    assert "captions.toml" in str(error.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"key": ["a", "a"], "domain": ["real"] * 2, "class": ["x", "y"]}, "contradict each other"),
        ({"key": ["a"], "domain": ["etching"], "class": ["x"]}, "'etching' is called; add it"),
        ({"key": ["a"], "domain": ["real"], "class": pa.array([None], pa.string())}, "has no key"),
        ({"key": ["a"], "domain": ["real"], "class": [7]}, "has no key, domain or class"),
    ],
)
def test_labels_that_cannot_be(tmp_path: Path, table: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        read_captions(write_policy(tmp_path, **table))
    assert "labels.parquet" in str(error.value)


def test_samples_without_a_label(tmp_path: Path) -> None:
    sample = Sample("unknown", "shard", {"txt": b"its own"})
    strict = read_captions(write_policy(tmp_path / "a"))
    with pytest.raises(Unusable, match=r"unknown.*has no label for .*captions.toml"):
        WithCaption(str, str, strict)(sample)
    lenient = read_captions(write_policy(tmp_path / "b", 'unlabelled = "own"'))
    assert lenient.of("unknown") is None


def test_training_by_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, kept = make_train_world(tmp_path)
    keys = [
        sample.key
        for shard in find_shards(str(world.shards))
        for sample in read_samples(shard, on_problem=lambda _: None)
    ]
    labels = {"key": keys, "domain": ["sketch"] * len(keys), "class": ["axe"] * len(keys)}
    lacking = sorted(kept)[0][1]
    without = [key != lacking for key in keys]
    fewer = {name: list(itertools.compress(column, without)) for name, column in labels.items()}
    file = write_policy(tmp_path / "labels", **fewer)
    plan, place = planned(world, "captioned", {"captions": file}, epochs=1)
    folder = train_here(plan, place)
    manifest = clipgap.train(
        world.shards,
        logs=place.logs,
        name=place.name,
        keep=world.keep,
        captions=file,
        resume="latest",
        options=options(world, epochs=1),
    ).manifest
    assert manifest["counts"]["quarantined"] == keys.count(lacking)
    assert manifest["plan"]["captions"]["path"] == str(file)
    assert lacking in str(pq.read_table(folder / "quarantine.parquet").to_pylist())
    assert clipgap.verify(folder).ok
    call = ["train", "--train-data", str(world.shards), "--keep", str(world.keep), "--model"]
    call += [str(world.config), "--logs", str(place.logs), "--name", "new", "--device", "cpu"]
    call += ["--batch-size", "8", "--captions", str(file), "--dry-run"]
    assert main(call) == 0
    assert "captions" in capsys.readouterr().out
    write_policy(tmp_path / "labels", "specific = 1", **fewer)
    with pytest.raises(ResumeError, match="captions sha256"):
        clipgap.train(
            world.shards,
            logs=place.logs,
            name=place.name,
            keep=world.keep,
            captions=file,
            resume="latest",
            options=options(world, epochs=1),
        )
    assert not clipgap.verify(folder).ok
    with pytest.raises(UsageError, match="--captions has no meaning with --objective classify"):
        planned(world, "x", {"captions": file}, objective="classify", model=None, arch="resnet18")
