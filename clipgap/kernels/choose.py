"""Which kernel runs: the one asked for by name, or the fastest this machine has; never silently."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipgap.errors import InputError, MissingDependency, UsageError
from clipgap.kernels import cpu, torch_kernel
from clipgap.kernels.interface import Scanner, TestSet
from clipgap.kernels.oracle import OracleScanner

MAX_K = 64
DEVICES = ("auto", "cuda", "cpu")
ON_GPU = ("triton", "triton-float16")


@dataclass(frozen=True)
class KernelInfo:
    """One line of `clipgap doctor`."""

    name: str
    available: bool
    detail: str


def make_scanner(
    tests: Sequence[TestSet],
    k: int,
    *,
    kernel: str = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> Scanner:
    """The scanner for these test sets; a named kernel or device that is not there raises."""
    _check(tests, k)
    cpu.thread_count(threads)  # a wrong number is an error, not a reason to take another kernel
    return _MAKERS[resolve(kernel, device)](tests, k, threads)


def resolve(kernel: str = "auto", device: str = "auto") -> str:
    """The name of the kernel that runs."""
    if device not in DEVICES:
        raise UsageError(f"unknown device {device!r}; choose one of: {', '.join(DEVICES)}")
    if kernel != "auto" and kernel not in _MAKERS:
        known = ", ".join(["auto", *_MAKERS])
        raise UsageError(f"unknown kernel {kernel!r}; choose one of: {known}")
    if kernel != "auto":
        if device != "auto" and (kernel in ON_GPU) != (device == "cuda"):
            raise UsageError(f"kernel {kernel!r} does not run on device {device!r}")
        return kernel
    if device != "cuda" and cpu.isa_is_forced():
        return "cpu"
    allowed = available_kernels()
    if device != "auto":
        allowed = [info for info in allowed if (info.name in ON_GPU) == (device == "cuda")]
    chosen = next((info.name for info in allowed if info.available), None)
    if chosen is None:
        raise MissingDependency(f"no GPU can be used: {allowed[0].detail}")
    return chosen


def fallback_note(kernel: str, device: str) -> str | None:
    """What a user should hear when `auto` leaves a GPU of this machine unused, against its wish."""
    from clipgap.kernels.gpu import devices

    if kernel != "auto" or device != "auto" or not devices.has_hardware():
        return None
    info = _triton_info("triton", "int8")
    if info.available:
        return None
    return f"the GPU is not used, kernel {resolve()!r} runs instead: {info.detail}"


def available_kernels() -> list[KernelInfo]:
    """Every kernel, fastest first, with what runs or what is missing."""
    return [
        _triton_info("triton", "int8 filter"),
        _triton_info("triton-float16", "float16 filter"),
        _cpu_info(),
        _torch_info(),
        _numpy_info(),
    ]


def _triton_info(name: str, what: str) -> KernelInfo:
    from clipgap.kernels.gpu import devices

    if devices.interpreted():
        # Never chosen by itself: it is many times slower than any other kernel.
        return KernelInfo(name, False, "interpreted on the CPU, for tests; name it to run it")
    try:
        found = devices.usable_devices()
    except MissingDependency as error:
        return KernelInfo(name, False, str(error))
    return KernelInfo(name, True, f"{what} in Triton on {devices.describe(found)}")


def _cpu_info() -> KernelInfo:
    try:
        isa, threads = cpu.chosen_isa(), cpu.thread_count()
    except (MissingDependency, UsageError) as error:
        return KernelInfo("cpu", False, str(error))
    slower = [name for name, supported in cpu.instruction_sets().items() if not supported]
    lacking = f"; this processor lacks {', '.join(slower)}" if slower else ""
    return KernelInfo("cpu", True, f"C++ with {isa}, {threads} threads{lacking}")


def _torch_info() -> KernelInfo:
    if importlib.util.find_spec("torch") is None:
        return KernelInfo("torch", False, "torch is not installed; `pip install torch`")
    return KernelInfo("torch", True, "float32 tiles in torch, decided in float64")


def _numpy_info() -> KernelInfo:
    return KernelInfo("numpy", True, "float64 matrix product; the oracle, slow")


def _make_cpu(tests: Sequence[TestSet], k: int, threads: int | None) -> Scanner:
    return cpu.CpuScanner(tests, k, threads)


def _make_torch(tests: Sequence[TestSet], k: int, threads: int | None) -> Scanner:
    return torch_kernel.TorchScanner(tests, k, threads)


def _make_numpy(tests: Sequence[TestSet], k: int, threads: int | None) -> Scanner:
    return OracleScanner(tests, k)


def _make_triton(kind: str) -> Callable[[Sequence[TestSet], int, int | None], Scanner]:
    def make(tests: Sequence[TestSet], k: int, threads: int | None) -> Scanner:
        from clipgap.kernels.gpu.devices import usable_devices

        devices = usable_devices()  # says what is missing before what needs it is imported
        from clipgap.kernels.gpu.scanner import GpuScanner
        from clipgap.kernels.gpu.several import SeveralGpus

        if len(devices) == 1:
            return GpuScanner(tests, k, devices[0], kind)
        return SeveralGpus(tests, k, devices, kind)

    return make


_MAKERS: dict[str, Callable[[Sequence[TestSet], int, int | None], Scanner]] = {
    "triton": _make_triton("int8"),
    "triton-float16": _make_triton("float16"),
    "cpu": _make_cpu,
    "torch": _make_torch,
    "numpy": _make_numpy,
}


def _check(tests: Sequence[TestSet], k: int) -> None:
    if not 1 <= k <= MAX_K:
        raise UsageError(f"k is {k}; it must lie between 1 and {MAX_K}")
    if not tests:
        raise UsageError("no test set given; name at least one")
    dims = {test.rows.shape[1] for test in tests}
    if len(dims) > 1:
        raise InputError(f"the test sets have different dimensions: {sorted(dims)}")
    for test in tests:
        if len(test.rows) == 0:
            raise InputError(f"test set {test.name!r} has no usable rows")
        if test.gap is not None and np.isnan(test.gap).any():
            row = int(np.isnan(test.gap).argmax())
            raise InputError(f"the gap of test set {test.name!r} is NaN at row {row:,}")
