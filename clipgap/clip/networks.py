"""Networks of three libraries and of the user's own, each made by name and brought into one form.

Random weights are those of the random state at hand; `models.load` sees to that.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clipgap.clip.checkpoints import check_names, check_shapes, checkpoint_file, read_weights
from clipgap.errors import InputError, UsageError
from clipgap.files.remote import path_here
from clipgap.packages import missing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from torch.nn import Module

HUB = "hf-hub:"
DEFAULT_WEIGHTS = "default"
_LIBRARIES = ("timm", "torchvision")
_SCRIPTS = (".pt", ".ts", ".torchscript")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_EDGE, _MEAN, _DEVIATION = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Network:
    """What the libraries have in common."""

    module: Module
    encode: Callable[[Tensor], Tensor]
    preprocess: Callable[[Image], Tensor]
    described: Mapping[str, Any]  # the preprocessing
    tokenizer: Callable[[Any], Tensor] | None = None
    clip: Any | None = None


def check_named(model: str, pretrained: str | None) -> None:
    """Refuse a model or a tag of weights that the library does not have, before any use of it."""
    library, _, name = model.partition(":")
    tag = pretrained if pretrained and checkpoint_file(pretrained) is None else None
    if library == "torchvision":
        from torchvision import models

        _require_known("torchvision has no model", name, models.list_models(module=models))
        if tag and tag != DEFAULT_WEIGHTS:
            tags = list(models.get_model_weights(name).__members__)
            _require_known(f"torchvision has for {name} no weights", tag, tags)
    elif library == "timm":
        timm = _import_timm()
        if not timm.is_model(name):
            _require_known("timm has no model", name, timm.list_models())
    elif is_own(model):
        if tag:
            raise UsageError(f"{model}: its weights are a file; there is no file {tag!r}")
        if _is_script(model):
            _require_script(model, pretrained)
        else:
            _function_of(model)
    else:
        open_clip = import_open_clip()
        is_listed = not model.endswith(".json") and not model.startswith(HUB)
        if is_listed:
            _require_known("open_clip has no model", model, open_clip.list_models())
        if tag:
            tags = open_clip.list_pretrained_tags_by_model(model) if is_listed else []
            _require_known(f"open_clip has for {model} no weights", tag, tags)


def is_own(model: str) -> bool:
    """Whether a name leads to code or a network of the user's own: a function, or TorchScript."""
    library, colon, _ = model.partition(":")
    is_function = bool(colon) and library not in _LIBRARIES and not model.startswith(HUB)
    return is_function or _is_script(model)


def brings_weights(model: str) -> bool:
    """Whether no weights need be named, since they come with the model."""
    return model.startswith(HUB) or is_own(model)


def source_file(model: str) -> Path | None:
    """The local file that says what the network is: a configuration, a function's, TorchScript."""
    if model.endswith(".json"):
        return config_file(model)
    if _is_script(model):
        return _existing(model, "TorchScript file")
    if is_own(model):
        where = model.rpartition(":")[0]
        if where.endswith(".py"):  # that it can be imported has been checked
            return _existing(where, "Python file").resolve()
        file = getattr(_module_of(model), "__file__", None)
        if file is None:
            raise UsageError(f"{model}: {where} lies in no file, so nothing tells what it is")
        return Path(file)
    return None


def is_downloaded(model: str, pretrained: str | None) -> bool:
    """Whether the library has to fetch the weights, or has done so."""
    return model.startswith(HUB) or bool(pretrained and checkpoint_file(pretrained) is None)


def make(model: str, pretrained: str, precision: str) -> Network:
    """The network that `model` names, with its weights, on the CPU; see `check_named`."""
    for prefix, maker in (("timm:", _timm), ("torchvision:", _torchvision)):
        if model.startswith(prefix):
            return maker(model.removeprefix(prefix), pretrained, precision)
    if _is_script(model):
        return _script(model, precision)
    if is_own(model):
        return _made_by_function(model, pretrained, precision)
    return _open_clip(model, pretrained, precision)


def import_open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise missing("open_clip") from error
    return open_clip


def register_config(path: str) -> str:
    """Make open_clip know the model that a configuration file describes; its name there."""
    open_clip = import_open_clip()
    file = config_file(path)
    try:
        config = _as_open_clip_reads(file)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file: {error}") from error
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if not isinstance(config, dict) or key not in config:
            raise InputError(
                f"{path}: not the configuration of an open_clip model, it has no {key!r}. In a "
                "file from the Hugging Face hub the part 'model_cfg' is meant."
            )
    if file.stem in {built_in.stem for built_in in _built_in(open_clip)}:
        raise UsageError(f"{path}: open_clip has a model of its own of that name; rename the file")
    try:
        open_clip.add_model_config(file)  # of two files with one name, the last counts
    except Exception as error:  # not of this file: it reads all again that it was ever told of
        raise InputError(
            f"{path}: open_clip does not take it, since one that it was told of before is spoilt: "
            f"{_spoilt(open_clip) or _first_line(error)}. Mend that file, or remove it."
        ) from error
    return file.stem


def _as_open_clip_reads(file: Path) -> Any:
    with file.open() as text:
        return json.load(text)


def _spoilt(open_clip: Any) -> str:
    """Which file open_clip cannot read any more, and why."""
    for path in getattr(open_clip.factory, "_MODEL_CONFIG_PATHS", ()):
        try:
            if path.is_file() and not isinstance(_as_open_clip_reads(path), dict | list | str):
                return f"{path} holds no JSON object"
        except (OSError, ValueError, RecursionError) as error:
            return f"{path}: {error}"
    return ""


def config_file(path: str) -> Path:
    return _existing(path, "model configuration")


def _existing(path: str, what: str) -> Path:
    file = path_here(path)
    if not file.is_file():
        raise InputError(f"{path}: there is no such {what}")
    return file


def _open_clip(name: str, pretrained: str, precision: str) -> Network:
    open_clip = import_open_clip()
    if name.endswith(".json"):
        name = register_config(name)
    checkpoint = checkpoint_file(pretrained)
    from_library = checkpoint is None and bool(pretrained or name.startswith(HUB))
    try:
        with _quiet():
            clip = open_clip.create_model(
                name,
                pretrained=pretrained if from_library else None,
                require_pretrained=from_library,
                precision=precision,
                **_without_download(open_clip.create_model, from_library),
            )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # anything that configurations and downloads can come to
        raise InputError(f"{name}: cannot be made: {_first_line(error)}") from error
    if checkpoint is not None:
        _load_clip(clip, checkpoint, name)
    described = dict(clip.visual.preprocess_cfg)
    preprocess = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**described), is_train=False
    )
    return Network(clip, clip.encode_image, preprocess, _plain(described), tokenizer, clip)


def _without_download(create_model: Callable[..., Any], wanted: bool) -> dict[str, bool]:
    """What keeps open_clip from fetching weights that are not `wanted`.

    Before version 3 it called the text tower's otherwise, and took those of a model on the hub in
    any case.
    """
    if "load_weights" in signature(create_model).parameters:
        return {"load_weights": wanted, "pretrained_text": False}
    return {"pretrained_hf": False}


def _load_clip(clip: Module, checkpoint: Path, name: str) -> None:
    shapes = read_weights(checkpoint, "meta")
    check_shapes(checkpoint, shapes, clip, name)
    try:
        import_open_clip().load_checkpoint(clip, str(checkpoint), weights_only=True)
    except Exception as error:
        check_names(checkpoint, shapes, clip, name)
        raise InputError(f"{checkpoint}: does not fit {name}: {_first_line(error)}") from error


def _import_timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise missing("timm") from error
    return timm


def _timm(name: str, pretrained: str, precision: str) -> Network:
    timm = _import_timm()
    checkpoint = checkpoint_file(pretrained)
    tagged = bool(pretrained) and checkpoint is None
    full_name = f"{name}.{pretrained}" if tagged and pretrained != DEFAULT_WEIGHTS else name
    try:
        module = timm.create_model(full_name, pretrained=tagged, num_classes=0)
    except Exception as error:
        raise InputError(f"timm:{full_name}: cannot be made: {_first_line(error)}") from error
    if checkpoint is not None:
        heads = module.default_cfg["classifier"]
        _load_headless(module, checkpoint, name, [heads] if isinstance(heads, str) else heads)
    config = timm.data.resolve_model_data_config(module)
    preprocess = timm.data.create_transform(**config, is_training=False)
    return _without_text(module, precision, preprocess, _plain(config))


def _torchvision(name: str, pretrained: str, precision: str) -> Network:
    import torch
    from torchvision import models

    tags = models.get_model_weights(name)
    checkpoint = checkpoint_file(pretrained)
    tagged = bool(pretrained) and checkpoint is None
    weights = tags.DEFAULT
    if tagged and pretrained != DEFAULT_WEIGHTS:
        weights = tags[pretrained]
    try:
        module = models.get_model(name, weights=weights if tagged else None)
    except Exception as error:
        raise InputError(f"torchvision:{name}: cannot be made: {_first_line(error)}") from error
    layers = module.named_modules()
    head = [name for name, layer in layers if isinstance(layer, torch.nn.Linear)][-1]
    parent, _, last = head.rpartition(".")
    setattr(module.get_submodule(parent), last, torch.nn.Identity())
    if checkpoint is not None:
        _load_headless(module, checkpoint, name, [head])
    preprocess = weights.transforms()
    described = {"weights": weights.name, "transforms": repr(preprocess)}
    return _without_text(module, precision, preprocess, described)


# --- networks of the user's own


def _is_script(model: str) -> bool:
    return model.endswith(_SCRIPTS)


def _require_script(model: str, pretrained: str | None) -> None:
    _existing(model, "TorchScript file")
    if pretrained:
        raise UsageError(f"{model} holds its weights; leave --pretrained out")


def _script(path: str, precision: str) -> Network:
    """TorchScript is a language of its own: what is in the file can compute, and nothing else."""
    import torch

    try:
        module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever damaged files make of the parser
        raise InputError(
            f"{path}: not a TorchScript file: {_first_line(error)}. Weights alone go with "
            "--pretrained, beside the --model that they are of; torch.jit.trace(network, "
            "images).save(FILE) makes a TorchScript file."
        ) from error
    # In a module of Python's, which has what the others have and TorchScript lacks.
    return _without_text(torch.nn.Sequential(module), precision, *_usual_preprocessing())


def _made_by_function(name: str, pretrained: str, precision: str) -> Network:
    import torch

    function = _function_of(name)
    try:
        made = function()
    except Exception as error:
        raise InputError(f"{name}() fails: {type(error).__name__}: {_first_line(error)}") from error
    module, *more = made if isinstance(made, tuple) else (made,)
    if not isinstance(module, torch.nn.Module) or len(more) > 1:
        raise InputError(
            f"{name}() gives a {type(made).__name__}; it has to give a torch.nn.Module, or one and "
            "the function that makes a tensor of a PIL image"
        )
    if (checkpoint := checkpoint_file(pretrained)) is not None:
        state = read_weights(checkpoint)
        check_shapes(checkpoint, state, module, name)
        check_names(checkpoint, state, module, name)
        module.load_state_dict(state)
    if not more:
        return _without_text(module, precision, *_usual_preprocessing())
    said = _ADDRESS.sub("", repr(more[0]))  # another in each process
    return _without_text(module, precision, more[0], {"transforms": said})


def _function_of(name: str) -> Callable[[], Any]:
    """What PACKAGE.MODULE:FUNCTION or FILE.py:FUNCTION names."""
    where, _, function = name.rpartition(":")
    found = getattr(_module_of(name), function, None)
    if not callable(found):
        raise UsageError(f"{where} has no function {function!r}")
    made: Callable[[], Any] = found
    return made


def _module_of(name: str) -> ModuleType:
    where = name.rpartition(":")[0]
    path_here(name)
    if not where.endswith(".py"):
        try:
            return importlib.import_module(where)
        except (ImportError, TypeError, ValueError) as error:  # also of "" and of ".x"
            raise UsageError(
                f"{name}: cannot import {where}: {error}. A model is a name of open_clip's, "
                "timm:NAME, torchvision:NAME, or a function of yours: PACKAGE.MODULE:FUNCTION or "
                "FILE.py:FUNCTION"
            ) from error
        except Exception as error:
            raise InputError(f"{where}: {type(error).__name__}: {_first_line(error)}") from error
    file = _existing(where, "Python file").resolve()
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None, "it ends in .py"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{where}: {type(error).__name__}: {_first_line(error)}") from error
    return module


def _usual_preprocessing() -> tuple[Callable[[Image], Tensor], dict[str, Any]]:
    """As networks for ImageNet are evaluated, for one that does not say what it wants."""
    from torchvision import transforms

    steps = [
        transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(_EDGE),
        transforms.ToTensor(),
        transforms.Normalize(_MEAN, _DEVIATION),
    ]
    composed = transforms.Compose(steps)
    return composed, {"transforms": repr(composed)}


def _load_headless(module: Module, checkpoint: Path, name: str, heads: Sequence[str]) -> None:
    """Load a network's weights, whatever classes its classifier had."""
    prefixes = tuple(f"{head}." for head in heads)
    state = {
        key: tensor
        for key, tensor in read_weights(checkpoint).items()
        if not key.startswith(prefixes)
    }
    check_shapes(checkpoint, state, module, name)
    check_names(checkpoint, state, module, name)
    module.load_state_dict(state)


def _without_text(
    module: Module,
    precision: str,
    preprocess: Callable[[Image], Tensor],
    described: Mapping[str, Any],
) -> Network:
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return Network(module.to(dtype) if dtype else module, module, preprocess, described)


def _require_known(problem: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.4) or known[:3]
        hint = f"did you mean {', '.join(near)}?" if near else "give a checkpoint file"
        raise UsageError(f"{problem} {name!r}; {hint}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's warning of random weights, which it has when others load them too.

    Other threads may load networks meanwhile, so the level, which is everybody's, stays as it is.
    """
    here = threading.get_ident()

    def speaks(record: logging.LogRecord) -> bool:
        return record.thread != here or record.levelno >= logging.ERROR

    logging.root.addFilter(speaks)
    try:
        yield
    finally:
        logging.root.removeFilter(speaks)


def _built_in(open_clip: Any) -> list[Path]:
    return list((Path(open_clip.__file__).parent / "model_configs").glob("*.json"))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _plain(described: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return plain
