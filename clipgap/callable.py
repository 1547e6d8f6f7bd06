"""Packages that are also the function they are named for."""

from __future__ import annotations

import inspect
import sys
import textwrap
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    @property
    def _function(self) -> Any:
        return getattr(import_module(f"{self.__name__}.api"), self.__name__.rpartition(".")[2])

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._function(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name == self.__name__.rpartition(".")[2]:
            return self._function
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        """What `help` shows: the package's job, then how it is called."""
        signature = self.__signature__.replace(
            parameters=[
                p.replace(annotation=p.empty) for p in self.__signature__.parameters.values()
            ],
            return_annotation=inspect.Signature.empty,
        )
        call = textwrap.fill(f"{self.__name__}{signature}", 96, subsequent_indent="    ")
        function = inspect.getdoc(self._function) or ""
        return "\n\n".join([(vars(self)["__doc__"] or "").strip(), call, function])


def make_callable(package: str) -> None:
    """Let `clipgap.NAME(…)` be `clipgap.NAME.api.NAME(…)`, loaded when it is first called."""
    sys.modules[package].__class__ = _CallablePackage
