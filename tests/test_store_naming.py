"""The small language of store names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgap.errors import UsageError
from clipgap.files.naming import Options, Part, expand_braces, gaps, natural, parse, show_runs


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("plain", ["plain"]),
        ("a{0..2}", ["a0", "a1", "a2"]),
        ("a{08..10}b", ["a08b", "a09b", "a10b"]),
        ("{8..010}", ["008", "009", "010"]),
        ("{x,y}{1..2}", ["x1", "x2", "y1", "y2"]),
        ("{a,}b", ["ab", "b"]),
        ("{{00..01},{08..10}}.tar", ["00.tar", "01.tar", "08.tar", "09.tar", "10.tar"]),
        ("{a,b{1..2}{x,{y,z}}}", ["a", "b1x", "b1y", "b1z", "b2x", "b2y", "b2z"]),
        ("a}{b,c}{", ["a}b{", "a}c{"]),
    ],
)
def test_braces(text: str, names: list[str]) -> None:
    assert expand_braces(text) == names


@pytest.mark.parametrize(
    "text", ["{x{a}}", "{{a}}", "{{0..9999},{0..999999}}", "{x," * 99 + "}" * 99]
)
def test_braces_that_mean_nothing_or_too_much(text: str) -> None:
    with pytest.raises(UsageError):
        expand_braces(text)


def test_settings_belong_to_their_part() -> None:
    assert parse("a?dim=4&paths=/x/y::b/?.npy::c?array=l14_img", Options(dim=7)) == [
        Part("a", Options(dim=4, paths="/x/y")),
        Part("b/?.npy", Options(dim=7)),
        Part("c", Options(array="l14_img", dim=7)),
    ]


def test_signed_web_addresses_keep_their_query() -> None:
    url = "https://host/x.npy?signature=abc&expires=9"
    assert parse(url, Options()) == [Part(url, Options())]


def test_numbers_sort_as_numbers() -> None:
    names = ["s10/x2", "s9/x10", "s9/x9", "s09/x1", "a", "²"]
    assert sorted(names, key=natural) == ["a", "s09/x1", "s9/x9", "s9/x10", "s10/x2", "²"]


@given(st.sets(st.integers(0, 60), min_size=1))
def test_gaps_are_what_is_not_there(numbers: set[int]) -> None:
    missing = {n for a, b in gaps(sorted(numbers), 0) for n in range(a, b + 1)}
    assert missing == set(range(max(numbers))) - numbers


def test_runs_are_shown_briefly() -> None:
    assert show_runs([(1, 1), (3, 5)]) == "1, 3–5"
    assert show_runs([(n, n) for n in range(0, 40, 2)], shown=2) == "0, 2, …"
