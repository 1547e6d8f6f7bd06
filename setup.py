"""Builds the kernels for CPUs and for GPUs.

CPU: one plain shared library, `clipgap/kernels/_cpu.so`. It has a C ABI and is loaded with ctypes,
so one wheel serves every Python version. Each instruction set has source files of its own, and the
one that runs is chosen at run time. The build never stops an install: without a working compiler
the reason goes to `_cpu_build.json`, which `clipgap doctor` reads, and a slower kernel runs.

GPU: `clipgap/kernels/_cuda/`, machine code for sm_80 and sm_90a where there is an nvcc, and the
sources, which are compiled where they run otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

ROOT = Path(__file__).parent.resolve()
SOURCES = ROOT / "csrc" / "cpu"
CUDA_SOURCES = ROOT / "csrc" / "cuda"
PACKAGE = Path("clipgap", "kernels")
LIBRARY = "_cpu.so"
RECORD = "_cpu_build.json"
CUDA = "_cuda"

COMMON = (
    "-O3 -std=c++17 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno"
    " -Wall -Wextra -Wno-psabi -pthread"
).split()
BY_SUFFIX = {
    "_avx2": "-mavx2 -mfma -mf16c -mbmi2".split(),
    "_avx512vnni": (
        "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni"
        " -mavx2 -mfma -mf16c -mbmi2 -mprefer-vector-width=512"
    ).split(),
}
CUDA_FLAGS = "-O3 -std=c++17 -Werror all-warnings".split()
CUDA_TARGETS = {  # file: what nvcc is to make
    "kernels-sm_80.cubin": "-cubin -arch=sm_80".split(),
    "kernels-sm_90a.cubin": "-cubin -arch=sm_90a".split(),
}
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")


class BuildFailed(Exception):
    """The library cannot be built here; the message says why."""


def find_compiler() -> list[str]:
    if named := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(named[0]) is None:
            raise BuildFailed(f"the compiler named by CXX, {named[0]}, does not exist")
        return named
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildFailed("no C++ compiler (c++, g++ or clang++) was found")


def run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildFailed(f"{command[0]} could not be started: {error}") from error
    if done.returncode != 0:
        raise BuildFailed(f"{shlex.join(command)} failed:\n{done.stderr.strip()[-4000:]}")
    sys.stderr.write(done.stderr)  # warnings
    return done.stdout


def isa_of(source: Path) -> str | None:
    return next((suffix for suffix in BY_SUFFIX if source.stem.endswith(suffix)), None)


def flags_of(source: Path) -> list[str]:
    isa = isa_of(source)
    return [
        *COMMON,
        *(BY_SUFFIX[isa] if isa else ()),
        *(() if IS_X86 else ("-DCLIPGAP_PORTABLE_ONLY",)),
        *shlex.split(os.environ.get("CXXFLAGS", "")),
    ]


def build_library(target: Path, objects: Path) -> dict[str, object]:
    """Compile what changed, link, and describe the result."""
    sources = sorted(path for path in SOURCES.glob("*.cpp") if IS_X86 or not isa_of(path))
    if not sources:
        raise BuildFailed(f"there are no C++ sources in {SOURCES}")
    compiler = find_compiler()
    version = run([*compiler, "--version"]).partition("\n")[0]
    headers = b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.h")))
    objects.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        # The name holds everything that the object depends on, so an old one is never reused.
        command = [*compiler, *flags_of(source), "-c", str(source.relative_to(ROOT)), "-o"]
        identity = "\0".join([version, *command]).encode() + headers + source.read_bytes()
        made = objects / f"{source.stem}-{hashlib.sha256(identity).hexdigest()[:20]}.o"
        if not made.exists():
            sys.stdout.write(f"compiling {source.relative_to(ROOT)}\n")
            for old in objects.glob(f"{source.stem}-*.o"):
                old.unlink()
            partial = made.with_suffix(f".{os.getpid()}.partial")
            run([*command, str(partial)])
            partial.replace(made)
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = [str(path) for path in pool.map(compile_one, sources)]
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    ldflags = shlex.split(os.environ.get("LDFLAGS", ""))
    run([*compiler, "-shared", "-pthread", *made, *ldflags, "-o", str(partial)])
    partial.replace(target)  # by rename: a process that has the old library loaded keeps it
    return {
        "built": True,
        "compiler": shlex.join(compiler),
        "version": version,
        "flags": {source.name: shlex.join(flags_of(source)) for source in sources},
    }


def find_nvcc() -> str | None:
    """None where there is none: the sources go along and are compiled where they run."""
    if named := os.environ.get("NVCC"):
        if shutil.which(named) is None:
            raise BuildFailed(f"the compiler named by NVCC, {named}, does not exist")
        return named
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def build_cuda(folder: Path) -> None:
    """Put the sources into `folder`, and what nvcc makes of them where there is one."""
    shutil.rmtree(folder, ignore_errors=True)
    sources = folder / "src"
    sources.mkdir(parents=True)
    texts = sorted(CUDA_SOURCES.glob("*.cu*"))
    for text in texts:
        shutil.copy(text, sources)
    nvcc = find_nvcc()
    if nvcc is None or not texts:
        return
    version = run([nvcc, "--version"])
    kept = ROOT / "build" / "cuda"
    kept.mkdir(parents=True, exist_ok=True)

    def compile_one(name: str) -> None:
        command = [nvcc, *CUDA_FLAGS, *CUDA_TARGETS[name], str(CUDA_SOURCES / "kernels.cu"), "-o"]
        content = b"".join(text.read_bytes() for text in texts)
        identity = "\0".join([version, *command[1:-2]]).encode() + content
        file = kept / f"{hashlib.sha256(identity).hexdigest()[:20]}-{name}"
        if not file.exists():
            sys.stdout.write(f"compiling csrc/cuda for {name}\n")
            for old in kept.glob(f"*-{name}"):
                old.unlink()
            partial = file.with_suffix(f".{os.getpid()}.partial")
            run([*command, str(partial)])
            partial.replace(file)
        shutil.copy(file, folder / name)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, CUDA_TARGETS))


class build_kernels(Command):  # noqa: N801
    """Sub-command of `build`: the shared library and the record of how it was made."""

    description = "build the C++ kernels into a plain shared library"
    user_options = [
        ("build-lib=", "d", "directory to build into"),
        ("build-temp=", "t", "directory that keeps object files for the next time"),
    ]
    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib: str | None = None
        self.build_temp = str(ROOT / "build")

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    @property
    def folder(self) -> Path:
        return (ROOT if self.editable_mode else Path(str(self.build_lib))) / PACKAGE

    def run(self) -> None:
        library = self.folder / LIBRARY
        try:
            record = build_library(library, Path(self.build_temp) / "cpu")
        except BuildFailed as failure:
            library.unlink(missing_ok=True)
            record = {"built": False, "reason": str(failure)}
            sys.stderr.write(
                f"WARNING: clipgap's C++ kernels were not built: {failure}\n"
                "clipgap will run a slower kernel. Install a C++17 compiler and install clipgap "
                "again to have the fast one; `clipgap doctor` shows the state.\n"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        try:
            build_cuda(self.folder / CUDA)
        except BuildFailed as failure:
            sys.stderr.write(
                f"WARNING: clipgap's CUDA kernels were not built: {failure}\n"
                "They will be compiled where they run.\n"
            )

    def get_source_files(self) -> list[str]:
        files = [*SOURCES.glob("*"), *CUDA_SOURCES.glob("*")]
        return [str(path.relative_to(ROOT)) for path in sorted(files)]

    def get_outputs(self) -> list[str]:
        made = (self.folder / LIBRARY, self.folder / RECORD, *(self.folder / CUDA).rglob("*.*"))
        return [str(path) for path in made if path.exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class BuildWithKernels(build):
    sub_commands = [*build.sub_commands, ("build_kernels", None)]


class PlatformDistribution(Distribution):
    """Goes to platlib: the wheel holds machine code."""

    def has_ext_modules(self) -> bool:
        return True


class AnyPythonWheel(bdist_wheel):
    """py3-none-PLATFORM: machine code, but none that knows Python's ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    # Triton's own distribution has a top-level package `triton_kernels` too, so ours goes inside.
    # The recipes lie at the top for readers, and inside the package for `clipgap run NAME`.
    packages=[
        *find_packages(include=["clipgap", "clipgap.*"]),
        "clipgap.triton_kernels",
        "clipgap.recipes",
        "clipgap.recipes.figures",
        "clipgap.recipes.parts",
    ],
    package_dir={"clipgap.triton_kernels": "triton_kernels", "clipgap.recipes": "recipes"},
    distclass=PlatformDistribution,
    cmdclass={
        "build": BuildWithKernels,
        "build_kernels": build_kernels,
        "bdist_wheel": AnyPythonWheel,
    },
)
