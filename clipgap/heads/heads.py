"""Heads, their scores, and the folder that they lie in.

HEADS/manifest.json        model and normalisation of the embeddings; polarity and thresholds of
                           each head; what it was fitted on, and how good it is; written last
HEADS/heads.safetensors    weight (dim,) and bias (1,) of each head, float64
HEADS/curve.parquet        precision, recall and volume at every threshold

A score is weight · row + bias, of a row as a scan admits it: float16, of norm 1. Such a row
consists of multiples of 2⁻²⁴, and weights are rounded to multiples of a power of two that is coarse
enough for every partial sum to fit into float64. So no sum is ever rounded, whatever its order: a
score is the same number on every machine.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.documents import (
    FILES,
    Each,
    Form,
    checksum,
    is_count,
    is_number,
    read_manifest,
)
from clipgap.files.remote import path_of
from clipgap.files.sums import FileSum
from clipgap.kernels.sums import weigh
from clipgap.runs.output import Kind

NATURAL, RENDITION, AMBIGUOUS = "natural", "rendition", "ambiguous"
LABELS = (NATURAL, AMBIGUOUS, RENDITION)
HEADS = (NATURAL, RENDITION)
"""What each head is named for: the label that it accepts; what it does not is the rest."""

POINTS = ("default", "strict")
"""Thresholds of each head: where both answers are equally likely, and at the wanted precision."""

NORMALISATION = "unit"

WEIGHTS, CURVE = "heads.safetensors", "curve.parquet"
CURVE_SCHEMA = pa.schema(
    [
        ("head", pa.string()),
        ("threshold", pa.float64()),
        ("accepted", pa.int64()),
        ("wrong", pa.int64()),
        ("precision", pa.float64()),
        ("precision_at_prevalence", pa.float64()),
        ("recall", pa.float64()),
        ("volume", pa.float64()),
        ("volume_at_prevalence", pa.float64()),
    ]
)

_BITS = 53
_ROW_BITS = 24  # a float16 is a multiple of 2^-24
_LONGEST = 1.01
"""More than the norm of any row that was admitted."""

SAID = dict.fromkeys(LABELS, dict.fromkeys(LABELS, is_count))
"""Rows by what both heads together say: by their default thresholds, and by the strict ones."""

CONFUSION = dict.fromkeys(LABELS, SAID)
"""Test rows by what they are labelled, and by what heads say of them."""

DOMAIN_COLUMNS = {"domain": "default", "domain_strict": "strict"}
"""Columns of tables that hold domains, and the thresholds that they go by."""

COUNTS = {
    **{column: dict.fromkeys(LABELS, is_count) for column in DOMAIN_COLUMNS},
    "both": SAID,
}
"""What a manifest says of the domains of rows: as `counts_of` has it."""

CITED = {"path": str, "manifest_sha256": str, "confusion": CONFUSION}
"""Heads as a manifest names those that it follows from."""

_FOUND = {
    **dict.fromkeys(("accepted", "wrong"), is_count),
    **dict.fromkeys(
        ("precision", "precision_at_least", "precision_at_prevalence", "recall"), (None, is_number)
    ),
    "doubt": (None, str),
}
"""What a threshold came to on the test part."""

KIND = Kind(
    Form(
        "clipgap-heads",
        "folder of heads",
        {
            "kind": "heads",
            "model": str,
            "normalisation": NORMALISATION,
            "dim": is_count,
            "heads": {
                name: {
                    "accepts": name,
                    "rest": [str],
                    "thresholds": dict.fromkeys(POINTS, is_number),
                    "found": dict.fromkeys(POINTS, _FOUND),
                }
                for name in HEADS
            },
            "confusion": CONFUSION,
            "parts": Each(Each(is_count)),
            "settings": dict,
            "inputs": dict,
            "versions": Each(str),
            "files": FILES,
        },
    ),
    owns=(WEIGHTS, CURVE),
    labels={"inputs store": "store", "inputs store shards": "shard", "settings": "setting"},
    free=("path", "format"),
)


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head: a row is accepted if its score is not below a threshold."""

    name: str
    weight: NDArray[np.float64]
    bias: float

    @classmethod
    def rounded(cls, name: str, weight: NDArray[np.float64], bias: float) -> Head:
        """The nearest head whose scores are exact."""
        grid = 2.0 ** (1 - _places(weight, bias))  # one less, since rounding may lengthen it
        rounded = np.round(weight / grid) * grid
        return cls(name, rounded, round(bias / grid) * grid)

    def scores(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Exact, of admitted rows; float64 ones need not be converted again for the next head."""
        scores: NDArray[np.float64] = rows.astype(np.float64, copy=False) @ self.weight + self.bias
        return scores

    @property
    def is_exact(self) -> bool:
        """Whether no score can be rounded."""
        values = np.append(self.weight, self.bias)
        if not np.abs(values).max() < 2.0**_BITS:  # nor are NaN and infinity
            return False
        steps = values * 2.0 ** _places(self.weight, self.bias)
        return bool((steps == np.round(steps)).all())


def _places(weight: NDArray[np.float64], bias: float) -> int:
    """How many binary places weights may have for sums of products to fit into float64."""
    # By Cauchy and Schwarz, of any part of a row with that of the weight.
    most = _LONGEST * float(np.linalg.norm(weight)) + abs(bias)
    return _BITS - _ROW_BITS - max(0, math.ceil(math.log2(most)) if most else 0)


@dataclass(frozen=True)
class Heads:
    """A finished folder of heads."""

    path: Path
    manifest: Mapping[str, Any]
    heads: Mapping[str, Head]

    @property
    def model(self) -> str:
        return str(self.manifest["model"])

    @property
    def dim(self) -> int:
        return int(self.manifest["dim"])

    def threshold(self, head: str, point: str) -> float:
        return float(self.manifest["heads"][head]["thresholds"][point])

    def scores(self, rows: NDArray[np.float16], threads: int = 1) -> NDArray[np.float64]:
        """(n, heads), exact, of admitted rows."""
        weights = np.stack([self.heads[name].weight for name in HEADS])
        scores: NDArray[np.float64] = weigh(rows, weights, threads)
        scores += [self.heads[name].bias for name in HEADS]
        return scores

    def domains(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """(points, n): what rows with these scores are by each of POINTS, as places in LABELS."""
        accepted = [
            [
                column >= self.threshold(name, point)
                for name, column in zip(HEADS, scores.T, strict=True)
            ]
            for point in POINTS
        ]
        return np.stack([domains(*both) for both in accepted])

    def cite(self) -> dict[str, Any]:
        """As CITED has it."""
        return {
            "path": str(self.path),
            "manifest_sha256": checksum(self.manifest),
            "confusion": self.manifest["confusion"],
        }


CELLS = len(LABELS) ** len(POINTS)
"""How many things heads can say of a row, by all their points."""


def cells(default: NDArray[np.int64], strict: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of CELLS is said of each row; from places in LABELS."""
    return default * len(LABELS) + strict


def tally(default: NDArray[np.int64], strict: NDArray[np.int64]) -> dict[str, dict[str, int]]:
    """Counts as `SAID` has them, of places in LABELS."""
    return _by_label(np.bincount(cells(default, strict), minlength=CELLS))


def _by_label(counts: NDArray[np.int64]) -> dict[str, dict[str, int]]:
    return {
        label: dict(zip(LABELS, row, strict=True))
        for label, row in zip(LABELS, counts.reshape(-1, len(LABELS)).tolist(), strict=True)
    }


def counts_of(counts: NDArray[np.int64]) -> dict[str, Any]:
    """The rows of each of CELLS, as COUNTS has them."""
    square = counts.reshape(len(LABELS), len(LABELS))
    return {
        **{
            column: dict(zip(LABELS, square.sum(axis=axis).tolist(), strict=True))
            for column, axis in zip(DOMAIN_COLUMNS, (1, 0), strict=True)
        },
        "both": _by_label(counts),
    }


def domains(natural: NDArray[np.bool_], rendition: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Places in LABELS, by what the heads accept."""
    one = np.where(natural, LABELS.index(NATURAL), LABELS.index(RENDITION))
    return np.where(natural != rendition, one, LABELS.index(AMBIGUOUS))


def open_heads(path: str | Path | Heads) -> Heads:
    """Read heads, and refuse those that are not what they were when they were written."""
    if isinstance(path, Heads):
        return path
    folder = path_of(path)
    manifest = read_manifest(
        folder, KIND.form, "If fitting was interrupted, run the same command with --resume."
    )
    file = folder / WEIGHTS
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    if FileSum.of_bytes(content) != FileSum(**manifest["files"][WEIGHTS]):
        raise InputError(f"{file} is damaged: its SHA-256 is not the one in its manifest")
    tensors = read_tensors(content, str(file))
    heads = {}
    for name in HEADS:
        weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
        if (
            weight is None
            or bias is None
            or (weight.shape, bias.shape) != ((manifest["dim"],), (1,))
        ):
            raise InputError(f"{file} has no head {name!r} of {manifest['dim']:,} dimensions")
        heads[name] = Head(name, weight, float(bias[0]))
        if not heads[name].is_exact:
            raise InputError(
                f"{file}: the weights of {name!r} are finer than exact scores allow; fit them with "
                "`clipgap domains fit`"
            )
    return Heads(folder, manifest, heads)


def require_model(heads: Heads, store: Any, said: str | None) -> None:
    """Refuse heads of other embeddings than those of a store; `said` names its model."""
    model = model_of(store, said)
    if model != heads.model:
        raise InputError(
            f"{heads.path} are heads for embeddings of {heads.model}; {store.path} has those of "
            f"{model}. Fit heads on embeddings of the same model."
        )
    if store.dim != heads.dim:
        raise InputError(
            f"{heads.path} are heads for {heads.dim:,} dimensions; {store.path} has rows of "
            f"{store.dim:,}"
        )


def model_of(store: Any, said: str | None) -> str:
    """Which model made the embeddings of a store: what it tells itself, or else what was said."""
    told = _told(store)
    if told is not None and said not in (None, told):
        raise InputError(f"{store.path} was embedded with {told}, not with {said} as --model says")
    if told is None and said is None:
        raise InputError(
            f"{store.path} does not tell which model made its embeddings; say it with --model, "
            "such as ViT-L-14/laion2b_s32b_b82k"
        )
    return told or str(said)


def _told(store: Any) -> str | None:
    """The one model that the parts of a store name, if each does."""
    named = {
        model and f"{model['model']}/{model.get('checkpoint_sha256') or model.get('pretrained')}"
        for model in store.models
    }
    return named.pop() if len(named) == 1 else None


def write_tensors(tensors: Mapping[str, NDArray[np.float64]], about: Mapping[str, str]) -> bytes:
    """A file of safetensors: the length of the header, the header as JSON, the numbers."""
    header: dict[str, Any] = {"__metadata__": dict(about)}
    at = 0
    for name, tensor in sorted(tensors.items()):
        end = at + 8 * tensor.size
        header[name] = {"dtype": "F64", "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of their size
    numbers = (np.ascontiguousarray(tensors[name], "<f8").tobytes() for name in sorted(tensors))
    return struct.pack("<Q", len(text)) + text + b"".join(numbers)


def read_tensors(content: bytes, file: str) -> dict[str, NDArray[np.float64]]:
    """The float64 tensors of a file of safetensors."""
    try:
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        header.pop("__metadata__", None)
        tensors = {}
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            if entry["dtype"] != "F64" or not 0 <= start <= end <= len(content) - 8 - size:
                raise ValueError(f"{name} is no float64 tensor")
            numbers = np.frombuffer(content[8 + size :][start:end], "<f8")
            tensors[name] = numbers.reshape(entry["shape"]).astype(np.float64)
        return tensors
    except (
        *(ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error),
    ) as error:
        raise InputError(f"{file} is not a file of safetensors: {error}") from error
