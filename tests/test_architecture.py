"""Who may import whom: each package only from floors below it, and no two files in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import clipgap

ROOT = Path(clipgap.__file__).parent

FLOORS = """
errors version intervals triton_kernels
machine memory options packages sheets
files
kernels runs
keep store synthetic heads
scan shards
select
dedup mix domains clip
report bench doctor
verify
cli
study
__main__
""".split("\n")[1:-1]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
APART = {"recipes"}  # data alone


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = ("clipgap", *path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, at its top or when it is used."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("clipgap"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clipgap"):
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner in MODULES else str(node.module)


ARROWS = {name: set(imports(path)) - {name} for name, path in MODULES.items()}


def package(module: str) -> str:
    return module.split(".")[1]


def test_every_package_has_its_floor() -> None:
    inside = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {name for name in inside if not name.startswith("__p")} - {"__init__"} - APART == (
        set(FLOOR) - ({"triton_kernels"} if "triton_kernels" not in inside else set())
    )


def test_imports_go_down() -> None:
    wrong = [
        f"{above} imports {below}"
        for above, arrows in ARROWS.items()
        if above != "clipgap"  # the public face, which nothing imports
        for below in arrows
        if below == "clipgap"
        or (package(above) != package(below) and FLOOR[package(above)] <= FLOOR[package(below)])
    ]
    assert wrong == []


def test_no_circle_of_files() -> None:
    left = {name: arrows for name, arrows in ARROWS.items() if name != "clipgap"}
    # What imports nothing that is left is taken away, again and again; only circles remain.
    while ready := [name for name, arrows in left.items() if not arrows & left.keys()]:
        for name in ready:
            del left[name]
    assert sorted(left) == []


def test_a_package_says_its_job_and_costs_nothing() -> None:
    for path in ROOT.rglob("__init__.py"):
        name = path.parent.name
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        if name != "clipgap":
            rest = [node for node in tree.body[1:] if not isinstance(node, ast.ImportFrom)]
            assert rest == [], path


def test_packages_of_others_have_one_door() -> None:
    """Where each heavy package may be imported."""
    doors = {
        "open_clip": ("clip",),
        "open_clip_train": ("clip",),
        "cupy": ("kernels",),
        "triton": ("kernels", "triton_kernels"),
        "ray": ("runs",),
        "typer": ("cli", "study"),
        "matplotlib": ("report", "bench", "synthetic"),
        "webdataset": ("shards", "clip"),
    }
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            for name in {name.partition(".")[0] for name in names} & doors.keys():
                assert package(module) in doors[name], f"{module} imports {name}"
