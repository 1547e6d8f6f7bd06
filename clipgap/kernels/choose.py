"""Which kernel runs: the one asked for by name, or the fastest this machine has; never silently."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clipgap.errors import InputError, MissingDependency, UsageError
from clipgap.kernels import cpu, torch_kernel
from clipgap.kernels.gpu.order import ON_GPU, fastest_first
from clipgap.kernels.interface import Scanner, TestSet
from clipgap.kernels.options import MAX_K, Compute
from clipgap.kernels.oracle import OracleScanner
from clipgap.machine import thread_count
from clipgap.options import takes_options


@dataclass(frozen=True)
class KernelInfo:
    """One line of `clipgap doctor`."""

    name: str
    available: bool
    detail: str


@takes_options
def make_scanner(
    tests: Sequence[TestSet], k: int, *, gpu: str | None = None, compute: Compute
) -> Scanner:
    """The scanner for these test sets; a named kernel or device that is not there raises.

    On GPUs it runs on one of `gpus`, or on all of them.
    """
    _check(tests, k)
    thread_count(compute.threads)  # a wrong number is no reason to take another kernel
    name = resolve(compute.kernel, compute.device)
    if name in ON_GPU:
        return _make_on_gpu(name, tests, k, gpu)
    return _MAKERS[name](tests, k, compute.threads)


def gpus(kernel: str = "auto", device: str = "auto") -> list[str]:
    """The GPUs that the kernel runs on; none where it runs on the CPU."""
    from clipgap.kernels.gpu import devices

    name = resolve(kernel, device)
    if name not in ON_GPU:
        return []
    return [str(one) for one in devices.usable_devices(_written_in(name))]


def resolve(kernel: str = "auto", device: str = "auto") -> str:
    """The name of the kernel that runs."""
    Compute(kernel, device)  # which refuses other names
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
    """What a user should hear when `auto` cannot run what it would on this machine."""
    from clipgap.kernels.gpu import devices

    if kernel != "auto":
        return None
    if device != "auto" or not devices.has_hardware():
        in_cpp, runs = _cpu_info(), resolve(kernel, device)
        if in_cpp.available or runs not in ("torch", "numpy"):
            return None
        return f"kernel {runs!r} runs, which is much slower than the one in C++: {in_cpp.detail}"
    found = _gpu_infos()
    if found[0].available:
        return None
    other = next((info for info in found if info.available), None)
    if other is not None:
        return f"kernel {other.name!r} runs instead of {found[0].name!r}: {found[0].detail}"
    return f"the GPU is not used, kernel {resolve()!r} runs instead: {found[0].detail}"


def available_kernels() -> list[KernelInfo]:
    """Every kernel, fastest first, with what runs or what is missing."""
    return [
        *_gpu_infos(),
        _cpu_info(),
        _torch_info(),
        _numpy_info(),
    ]


def _gpu_infos() -> list[KernelInfo]:
    """Those that were measured as the fastest on the first device come first."""
    from clipgap.kernels.gpu import devices

    return [_gpu_info(name) for name in fastest_first(devices.capability())]


def _gpu_info(name: str) -> KernelInfo:
    from clipgap.kernels.gpu import devices

    if _written_in(name) == "triton" and devices.interpreted():
        # Never chosen by itself: it is many times slower than any other kernel.
        return KernelInfo(name, False, "interpreted on the CPU, for tests; name it to run it")
    try:
        found = devices.usable_devices(_written_in(name))
    except MissingDependency as error:
        return KernelInfo(name, False, str(error))
    operands = "float16" if name.endswith("float16") else "int8"
    language = "CUDA C++" if _written_in(name) == "cuda" else "Triton"
    return KernelInfo(name, True, f"{operands} filter in {language} on {devices.describe(found)}")


def _written_in(name: str) -> str:
    return "cuda" if name.startswith("cuda") else "triton"


def _cpu_info() -> KernelInfo:
    try:
        isa, threads = cpu.chosen_isa(), thread_count()
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


def _make_on_gpu(name: str, tests: Sequence[TestSet], k: int, gpu: str | None) -> Scanner:
    from clipgap.kernels.gpu.devices import usable_devices

    # Says what is missing before what needs it is imported.
    devices = [one for one in usable_devices(_written_in(name)) if gpu in (None, str(one))]
    from clipgap.kernels.gpu.scanner import GpuScanner
    from clipgap.kernels.gpu.several import SeveralGpus

    if len(devices) == 1:
        return GpuScanner(tests, k, devices[0], ON_GPU[name])
    return SeveralGpus(tests, k, devices, ON_GPU[name])


_MAKERS: dict[str, Callable[[Sequence[TestSet], int, int | None], Scanner]] = {
    "cpu": _make_cpu,
    "torch": _make_torch,
    "numpy": _make_numpy,
}


def _check(tests: Sequence[TestSet], k: int) -> None:
    if not 0 <= k <= MAX_K:
        raise UsageError(f"k is {k}; it must lie between 0 and {MAX_K}")
    if not tests:
        raise UsageError("no test set given; name at least one")
    dims = {test.rows.shape[1] for test in tests}
    if len(dims) > 1:
        raise InputError(f"the test sets have different dimensions: {sorted(dims)}")
    for test in tests:
        if len(test.rows) == 0:
            raise InputError(f"test set {test.name!r} has no usable rows")
