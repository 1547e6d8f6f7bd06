"""Which devices a scan can run on, and errors that say what was needed and what was found."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from clipgap.errors import MissingDependency

if TYPE_CHECKING:
    import torch

OLDEST = (8, 0)
OLDEST_TRITON = (3, 6)
"""What pyproject.toml asks for; older ones do not compile the kernels."""
_NEEDED = {
    "triton": {"torch": "torch", "triton": "triton"},
    "cuda": {
        "torch": "torch",
        "cupy": "'clipgap[cuda13]'` (or `'clipgap[cuda12]'",
        "triton": "triton",  # in which all steps but the filter are written
    },
}


def interpreted() -> bool:
    """Whether Triton runs its kernels on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET", "") == "1"


def has_hardware() -> bool:
    """Whether the kernel knows of an NVIDIA GPU, whatever else may be missing."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def usable_devices(written_in: str = "triton") -> list[torch.device]:
    """The devices that kernels written in `triton` or `cuda` run on; `MissingDependency` says why
    there are none."""
    in_triton = written_in == "triton"
    for package, install in _NEEDED[written_in].items():
        if importlib.util.find_spec(package) is None:
            raise MissingDependency(f"{package} is not installed; `pip install {install}`")
    if _triton_version() < OLDEST_TRITON:
        raise MissingDependency(
            f"triton {'.'.join(map(str, _triton_version()))} is too old for the kernels; "
            "`pip install 'clipgap[triton]'`"
        )
    interprets = in_triton and interpreted()
    # Looked at first: importing torch takes seconds and hundreds of megabytes.
    if not interprets and not has_hardware():
        raise MissingDependency("there is no NVIDIA GPU (no /dev/nvidia0)")
    import torch

    if interprets:
        return [torch.device("cpu")]
    if torch.version.cuda is None:
        raise MissingDependency(
            f"torch {torch.__version__} is built without CUDA; install a CUDA build of torch"
        )
    if not torch.cuda.is_available():
        raise MissingDependency(_why_no_cuda(torch.version.cuda))
    if not any(map(shutil.which, (os.environ.get("CC", ""), "gcc", "clang"))):
        raise MissingDependency(
            "Triton needs a C compiler to launch kernels; install gcc or clang, or name one by CC"
        )
    found = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    usable = [device for device in found if torch.cuda.get_device_capability(device) >= OLDEST]
    if not usable:
        names = ", ".join(
            f"{torch.cuda.get_device_name(device)} "
            f"(capability {'.'.join(map(str, torch.cuda.get_device_capability(device)))})"
            for device in found
        )
        raise MissingDependency(
            f"the GPU kernels need compute capability {OLDEST[0]}.{OLDEST[1]} (A100) or newer; "
            f"found {names}"
        )
    return usable


def capability() -> tuple[int, int] | None:
    """Of the first device that can be used; None where there is none."""
    if interpreted():
        return None
    try:
        device = usable_devices()[0]
    except MissingDependency:
        return None
    import torch

    return torch.cuda.get_device_capability(device)


def _triton_version() -> tuple[int, ...]:
    """Its first two numbers, without importing it; builds that tell no version pass."""
    try:
        return tuple(map(int, version("triton").split(".")[:2]))
    except PackageNotFoundError:
        return OLDEST_TRITON


def describe(devices: list[torch.device]) -> str:
    """Names of the devices, such as `2 × NVIDIA A100-SXM4-80GB`."""
    import torch

    names = Counter(torch.cuda.get_device_name(device) for device in devices)
    return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in names.items())


def _why_no_cuda(version: str) -> str:
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides all GPUs; unset it"
    return (
        f"there is an NVIDIA GPU, but torch's CUDA {version} cannot use it: the driver is missing "
        f"or too old. `nvidia-smi` shows the driver; CUDA {version.split('.')[0]} needs "
        f"{_OLDEST_DRIVER.get(version.split('.')[0], 'a newer one')}"
    )


_OLDEST_DRIVER = {"11": "450 or newer", "12": "525 or newer", "13": "580 or newer"}

# By torch, by Triton, and by CuPy.
_SAID_BY_CUDA = ("CUDA error", "CUDA driver", "Error [CUDA]", "cudaError", "CUDA_ERROR")


def free_bytes(device: torch.device) -> int | None:
    """Memory that a scan may take; None where it is not a device's."""
    import torch

    if device.type != "cuda":
        return None
    return int(torch.cuda.mem_get_info(device)[0])


def lock_pages(device: torch.device, address: int, size: int) -> Callable[[], object] | None:
    """Lock pages, so that devices copy from them by themselves; None where that is not allowed.

    Pages are locked by the threads that read. A thread stands on the first GPU until it is told
    otherwise, and each process would take hundreds of megabytes there.
    """
    import torch

    cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    for_all_devices = 1

    def unlock() -> None:
        with torch.cuda.device(device):
            cudart.cudaHostUnregister(address)

    with torch.cuda.device(device):
        refused = int(cudart.cudaHostRegister(address, size, for_all_devices))
    return None if refused else unlock


@contextmanager
def telling(device: torch.device) -> Iterator[None]:
    """Makes the device current; CUDA's errors in words: memory that is short, a device lost."""
    import torch

    try:
        # Kernels are launched on the current device, and there may be several.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            yield
    except torch.OutOfMemoryError as error:
        free = free_bytes(device) or 0
        raise MissingDependency(
            f"{device} has too little memory: {free / 2**30:,.1f} GiB are free now. Free some, "
            f"scan fewer test sets at a time, or use --device cpu. ({str(error).splitlines()[0]})"
        ) from error
    except RuntimeError as error:
        if not any(said in str(error) for said in _SAID_BY_CUDA):
            raise
        raise MissingDependency(
            f"{device} failed in the middle of the scan: {str(error).splitlines()[0]}. What was "
            "finished before the last checkpoint is kept. `nvidia-smi` and the system's log "
            "(dmesg, 'NVRM: Xid') say more; go on with --resume, or without the GPU with --resume "
            "--device cpu."
        ) from error
