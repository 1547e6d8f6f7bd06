"""Triton's interpreter, which looks through its whole language at each call of one function by
another; here once a launch. Imported for that, by tests of what is written in Triton.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

_patch_lang: Callable[[Any], Any] = interpreter._patch_lang
_EVERYTHING = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
"""In place of a function: what it can see of the language is what gets interpreted."""


class _Scope(interpreter._LangPatchScope):
    """What is interpreted as long as a launch lasts; it empties itself at the end."""

    lasts = False

    def restore(self) -> None:
        super().restore()
        _Scope.lasts = False


def _patch_once(fn: Any) -> Any:
    if _Scope.lasts:
        return interpreter._LangPatchScope()  # a call within a launch: nothing is left to do
    scope = _Scope()
    scope._changes = _patch_lang(_EVERYTHING)._changes
    _Scope.lasts = True
    return scope


interpreter._patch_lang = _patch_once
