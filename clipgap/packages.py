"""Packages that only some commands need: which, what for, and how to get one that is missing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from clipgap.errors import MissingDependency


@dataclass(frozen=True)
class Package:
    """What is imported as `module`."""

    module: str
    name: str  # as it is installed
    extra: str | None  # of clipgap, that brings it; None: none does
    used_for: str
    commands: tuple[str, ...] = ()  # that cannot do anything without it


_MODELS = ("embed", "train", "eval", "analyze")

PACKAGES = (
    Package("torch", "torch", "torch", "embed, train, eval, analyze, and a kernel", _MODELS),
    Package("open_clip", "open_clip_torch", "train", "embed, train, eval, analyze", _MODELS),
    Package("torchvision", "torchvision", "train", "embed, train, eval, analyze", _MODELS),
    Package("PIL", "pillow", "train", "every image", (*_MODELS, "render")),
    Package("webdataset", "webdataset", "train", "train", ("train",)),
    Package("pandas", "pandas", "train", "train", ("train",)),
    Package("tensorboard", "tensorboard", "train", "train --report-to tensorboard"),
    Package("timm", "timm", "train", "embed and eval with timm: models"),
    Package("umap", "umap-learn", "umap", "analyze --map umap"),
    Package("jinja2", "jinja2", "report", "report as a page"),
    Package("matplotlib", "matplotlib", "report", "render digits, plots of bench"),
    Package("sklearn", "scikit-learn", None, "render digits"),
    Package("ray", "ray", "cluster", "--engine ray"),
    Package("lance", "pylance", "lance", "stores of Lance"),
    Package("s3fs", "s3fs", "remote", "s3://, and --upload"),
    Package("huggingface_hub", "huggingface_hub", "remote", "stores on hf://"),
    Package("faiss", "faiss-cpu", "bench", "a line of bench"),
    Package("usearch", "usearch", "bench", "a line of bench"),
    Package("numkong", "numkong", "bench", "a line of bench"),
    Package("scann", "scann", "peers", "a line of bench"),
    Package("svs", "scalable-vs", "peers", "a line of bench"),
)


def missing(module: str) -> MissingDependency:
    """That a package of the table is missing, what it is for and how to get it."""
    package = next(package for package in PACKAGES if package.module == module)
    return MissingDependency(
        f"{package.name} is not installed, and is needed for {package.used_for}: "
        f"{how_to_get(package)}"
    )


def behind(error: Exception) -> MissingDependency | None:
    """The same, where an import failed for want of a package of the table."""
    module = (getattr(error, "name", None) or "").partition(".")[0]
    known = isinstance(error, ModuleNotFoundError) and any(p.module == module for p in PACKAGES)
    return missing(module) if known else None


def missing_for(*commands: str) -> list[Package]:
    """Packages without which one of these commands can do nothing, and that are not there."""
    return [
        package
        for package in PACKAGES
        if not set(commands).isdisjoint(package.commands) and not is_installed(package)
    ]


def require_for(*commands: str) -> None:
    """Refuse to begin what could not be ended for want of a package."""
    if lacking := missing_for(*commands):
        names = ", ".join(package.name for package in lacking)
        extras = sorted({package.extra for package in lacking if package.extra} - _covered(lacking))
        stuck = [name for name in commands if any(name in package.commands for package in lacking)]
        raise MissingDependency(
            f"{', '.join(stuck)}: not installed, and needed: {names}. "
            f"{installation(','.join(extras))}"
        )


def _covered(lacking: list[Package]) -> set[str]:
    """[train] brings torch, too."""
    return {"torch"} if any(package.extra == "train" for package in lacking) else set()


def is_installed(package: Package) -> bool:
    """Found without importing it."""
    return find_spec(package.module) is not None


def how_to_get(package: Package) -> str:
    """What to type."""
    return installation(package.extra) if package.extra else f"pip install {package.name}"


def installation(extra: str) -> str:
    """What brings an extra of clipgap: by its name on an index, or from the checkout it is of."""
    source = _checkout()
    return f"pip install '{'clipgap' if source is None else source}[{extra}]'"


def _checkout() -> str | None:
    """The folder that this clipgap was installed from, or lies in; None if it came by its name."""
    from importlib.metadata import PackageNotFoundError, distribution  # slow to import
    from urllib.parse import unquote, urlsplit

    beside = Path(__file__).parents[1]
    if (beside / "pyproject.toml").is_file():
        return str(beside)
    try:
        origin = distribution("clipgap").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    address = urlsplit(json.loads(origin)["url"]) if origin else None
    return unquote(address.path) if address is not None and address.scheme == "file" else None
