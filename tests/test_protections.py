"""The list of what holds each promise is one of code and tests that are there."""

from __future__ import annotations

import ast
from pathlib import Path

from scripts import protections

ROOT = Path(__file__).parents[1]


def test_every_protection_stands_once_in_its_file() -> None:
    for one in protections.protections():
        assert (ROOT / one.file).read_text().count(one.was) == 1, one.against


def test_every_test_is_there() -> None:
    named = {test.partition("[")[0] for one in protections.protections() for test in one.tests}
    for file, _, name in sorted(test.partition("::") for test in named):
        functions = [
            node.name
            for node in ast.walk(ast.parse((ROOT / file).read_text()))
            if isinstance(node, ast.FunctionDef)
        ]
        assert name in functions, f"{file} has no {name}"


def test_the_page_lists_them() -> None:
    assert protections.table() in protections.PAGE.read_text()
