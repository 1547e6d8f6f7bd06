"""The recipes that come with clipgap: `clipgap run demo` is `clipgap run recipes/demo.toml`."""

from __future__ import annotations

from pathlib import Path

from clipgap.errors import InputError
from clipgap.files.toml import nearest


def shipped_recipes() -> dict[str, Path]:
    """Their files by name."""
    package = Path(__file__).parents[1]
    # In a checkout they lie beside the package, as the first thing that a reader sees.
    folders = (package / "recipes", package.parent / "recipes")
    folder = next((one for one in folders if one.is_dir()), folders[0])
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def find_recipe(named: str | Path) -> Path:
    """A file, or the name of a shipped recipe."""
    path = Path(named)
    known = shipped_recipes()
    if path.exists() or path.suffix == ".toml" or len(path.parts) > 1:
        return path
    if str(named) not in known:
        raise InputError(f"there is no recipe {str(named)!r}; {nearest(str(named), list(known))}")
    return known[str(named)]
