"""Packages that are also the function they are named for."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(f"{self.__name__}.api"), name)(*arguments, **options)


def make_callable(package: str) -> None:
    """Let `clipgap.NAME(…)` be `clipgap.NAME.api.NAME(…)`, loaded when it is first called."""
    sys.modules[package].__class__ = _CallablePackage
