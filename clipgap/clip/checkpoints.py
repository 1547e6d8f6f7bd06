"""Checkpoint files: read without running what is in them, and told apart from other models'."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgap.errors import InputError
from clipgap.files.remote import path_here

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_SHOWN = 3
_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def read_weights(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; on the device "meta", only their shapes."""
    return weights_of(path, read_content(path, device))


def read_content(path: Path, device: str = "cpu") -> Any:
    """All that a checkpoint holds.

    Whatever the environment says, nothing but tensors and plain values is unpickled.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path, device="cpu" if device == "meta" else device)
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such checkpoint") from None
    except Exception as error:  # whatever hostile and damaged files make of the parsers
        raise InputError(_why_refused(path, str(error))) from error


def weights_of(path: Path, content: Any) -> dict[str, Tensor]:
    """The tensors in what a checkpoint holds, by name."""
    import torch

    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise InputError(f"{path}: holds no state_dict, so it is no checkpoint of a model")
    tensors = {str(name): value for name, value in state.items() if torch.is_tensor(value)}
    if not tensors:
        raise InputError(f"{path}: holds no tensors, so it is no checkpoint of a model")
    # As DistributedDataParallel names them.
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def checkpoint_file(pretrained: str | None) -> Path | None:
    """The local file that `--pretrained` names; None if it is a tag."""
    if not pretrained:
        return None
    path = path_here(pretrained)
    if path.is_file():
        return path
    if path.suffix in _SUFFIXES or "/" in pretrained:
        raise InputError(f"{pretrained}: there is no such checkpoint")
    return None


def check_shapes(path: Path, state: Mapping[str, Tensor], model: Module, name: str) -> None:
    """Refuse tensors that have the name of one of the model's, but another shape.

    open_clip would stretch position embeddings in silence.
    """
    wanted = model.state_dict()
    wrong = [
        f"{key} is {_shape(tensor)}, {name} has {_shape(wanted[key])}"
        for key, tensor in state.items()
        if key in wanted and tensor.numel() > 1 and tensor.shape != wanted[key].shape
    ]
    if wrong:
        raise _of_another(path, name, wrong)


def check_names(path: Path, state: Collection[str], model: Module, name: str) -> None:
    """Refuse a checkpoint that lacks some of the model's tensors, or has more."""
    wanted = model.state_dict().keys()
    wrong = [f"{key} is missing" for key in wanted if key not in state]
    wrong += [f"{key} is not part of {name}" for key in state if key not in wanted]
    if wrong:
        raise _of_another(path, name, wrong)


def _of_another(path: Path, name: str, wrong: list[str]) -> InputError:
    more = f" (and {len(wrong) - _SHOWN:,} more)" if len(wrong) > _SHOWN else ""
    return InputError(
        f"{path}: is the checkpoint of another architecture than {name}: "
        f"{'; '.join(wrong[:_SHOWN])}{more}. Name the model it was trained as with --model."
    )


def _shape(tensor: Tensor) -> str:
    return " × ".join(f"{size:,}" for size in tensor.shape) or "a number"


def _why_refused(path: Path, error: str) -> str:
    if "Unsupported global" in error or "Unsupported class" in error:
        return (
            f"{path}: refused, since it holds more than tensors and plain values: to load it would "
            "mean to run code that is in it. Save the model's state_dict alone, in a process "
            "where you trust the file."
        )
    return f"{path}: not a checkpoint that can be read; it may be damaged, or something else"
