"""What an install leaves behind, with a compiler and without, on a copy of the source tree."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler"
)
x86_only = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="x86 instruction sets"
)

TINY = {
    "api.cpp": '#include "api.h"\nextern "C" CG_API int cg_answer() { return answer(); }\n',
    "answer_avx2.cpp": '#include "api.h"\nint answer() { return 42; }\n',
    "answer_avx512vnni.cpp": '#include "api.h"\nint other() { return 43; }\n',
    "api.h": '#define CG_API __attribute__((visibility("default")))\nint answer();\n',
}

CUDA_FILES = {"kernels-sm_80.cubin", "kernels-sm_90a.cubin"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The source tree as a fresh clone has it, plus objects compiled before, if there are any."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("not run from a source tree")
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    made = shutil.ignore_patterns("__pycache__", "_cpu.so", "_cpu_build.json", "_cuda")
    shutil.copytree(ROOT / "clipgap", tree / "clipgap", ignore=made)
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    shutil.copytree(ROOT / "triton_kernels", tree / "triton_kernels", ignore=made)
    shutil.copytree(ROOT / "recipes", tree / "recipes")
    for kept in ("cpu", "cuda"):
        if (ROOT / "build" / kept).exists():
            shutil.copytree(ROOT / "build" / kept, tree / "build" / kept)
    return tree


@pytest.fixture
def tiny(tree: Path) -> Path:
    """The same with C++ sources that compile in no time."""
    shutil.rmtree(tree / "build", ignore_errors=True)
    shutil.rmtree(tree / "csrc")
    cpu = tree / "csrc" / "cpu"
    cpu.mkdir(parents=True)
    for name, text in TINY.items():
        (cpu / name).write_text(text)
    return tree


def python(*arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def wheel(tree: Path, **environment: str) -> Path:
    """Build a wheel and unpack it; gives the folder."""
    out = tree.parent / "wheel"
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--no-cache-dir")
    python("-m", "pip", "wheel", "-q", *options, "-w", str(out), str(tree), cwd=tree, **environment)
    (file,) = out.iterdir()
    assert file.name.startswith("clipgap-")
    assert "-py3-none-" in file.name, "one wheel for every Python"
    assert not file.name.endswith("-any.whl"), "but not for every platform"
    with zipfile.ZipFile(file) as archive:
        archive.extractall(out / "unpacked")
    return out / "unpacked"


def record(package: Path) -> dict[str, object]:
    text = (package / "clipgap" / "kernels" / "_cpu_build.json").read_text()
    return dict(json.loads(text))


USE = """
import sys
import numpy as np
import clipgap
assert clipgap.__file__.startswith(sys.argv[1]), clipgap.__file__
from clipgap.synthetic import rows as synthetic
from clipgap.kernels.choose import available_kernels, make_scanner
from clipgap.kernels.interface import TestSet
rows, tests = synthetic.isotropic(50, 32, 1), synthetic.isotropic(20, 32, 2)
scanner = make_scanner([TestSet("a", tests)], 1)
truth = rows.astype(float) @ tests.astype(float).T
assert (scanner.scan(rows, np.arange(50)).sim[:, 0] == truth.max(axis=1)).all()
print(scanner.name)
for kernel in available_kernels():
    print(kernel.name, kernel.available, kernel.detail)
"""


def use(package: Path) -> str:
    """Scan with the package unpacked there and nothing of the source tree in sight."""
    arguments = ("-c", USE, str(package))
    return python(*arguments, cwd=package.parent, PYTHONPATH=str(package), CLIPGAP_CPU_ISA="")


@needs_compiler
def test_the_wheel_carries_a_library_that_works(tree: Path) -> None:
    package = wheel(tree)
    assert record(package)["built"] is True
    assert (package / "clipgap" / "py.typed").exists()
    assert {path.name for path in package.iterdir() if not path.name.endswith(".dist-info")} == {
        "clipgap"
    }
    assert use(package).startswith("cpu/")
    cuda = package / "clipgap" / "kernels" / "_cuda"
    sources = {path.name: path.read_bytes() for path in (ROOT / "csrc" / "cuda").iterdir()}
    assert {path.name: path.read_bytes() for path in (cuda / "src").iterdir()} == sources
    built = {path.name for path in cuda.glob("kernels-*")}
    assert built == (CUDA_FILES if shutil.which("nvcc") else set())


def test_without_a_compiler_the_install_succeeds_and_says_why(tree: Path) -> None:
    package = wheel(tree, CXX="/nonexistent", NVCC="/nonexistent")
    assert not (package / "clipgap" / "kernels" / "_cpu.so").exists()
    assert record(package) == {
        "built": False,
        "reason": "the compiler named by CXX, /nonexistent, does not exist",
    }
    cuda = package / "clipgap" / "kernels" / "_cuda"
    assert {path.name for path in cuda.iterdir()} == {"src"}, "to be compiled where it runs"
    said = use(package)
    assert not said.startswith("cpu/")
    assert "/nonexistent, does not exist" in said


def build(tree: Path, **environment: str) -> str:
    """Build in place, as an editable install does; gives what was said."""
    arguments = ("setup.py", "build_kernels", "--build-lib", ".")
    return python(*arguments, cwd=tree, **{"CXXFLAGS": "", **environment})


def compiled(said: str) -> set[str]:
    return {Path(line.split()[1]).name for line in said.splitlines() if "compiling" in line}


@needs_compiler
@x86_only
def test_only_what_changed_is_compiled_again(tiny: Path) -> None:
    cpu = tiny / "csrc" / "cpu"
    sources = {name for name in TINY if name.endswith(".cpp")}
    assert compiled(build(tiny)) == sources
    assert compiled(build(tiny)) == set()
    (cpu / "answer_avx2.cpp").write_text(TINY["answer_avx2.cpp"].replace("42", "44"))
    assert compiled(build(tiny)) == {"answer_avx2.cpp"}
    (cpu / "api.h").write_text(TINY["api.h"] + "// another\n")
    assert compiled(build(tiny)) == sources
    assert compiled(build(tiny, CXXFLAGS="-O1")) == sources
    call = "import ctypes; print(ctypes.CDLL('clipgap/kernels/_cpu.so').cg_answer())"
    assert python("-c", call, cwd=tiny).strip() == "44"


@needs_compiler
@x86_only
def test_each_instruction_set_has_its_own_flags(tiny: Path) -> None:
    build(tiny)
    flags = record(tiny)["flags"]
    assert isinstance(flags, dict)
    assert "-mavx" not in flags["api.cpp"]
    assert "-mavx2" in flags["answer_avx2.cpp"]
    assert "-mavx512" not in flags["answer_avx2.cpp"]
    assert "-mavx512vnni" in flags["answer_avx512vnni.cpp"]
    assert all("-ffp-contract=off" in each for each in flags.values())


@needs_compiler
def test_a_failing_compile_leaves_no_old_library(tiny: Path) -> None:
    build(tiny)
    library = tiny / "clipgap" / "kernels" / "_cpu.so"
    assert library.exists()
    (tiny / "csrc" / "cpu" / "api.cpp").write_text("int broken(\n")
    said = build(tiny)
    assert not library.exists()
    assert record(tiny)["built"] is False
    assert "api.cpp" in str(record(tiny)["reason"])
    assert "WARNING: clipgap's C++ kernels were not built" in said


def test_the_sdist_carries_the_sources_and_nothing_built(tiny: Path) -> None:
    build(tiny)
    python("setup.py", "-q", "sdist", cwd=tiny)
    (file,) = (tiny / "dist").iterdir()
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"csrc/cpu/{name}" for name in TINY} <= names
    assert {"setup.py", "LICENSE", "clipgap/py.typed"} <= names
    assert not [name for name in names if name.endswith((".so", ".o", "_cpu_build.json"))]
