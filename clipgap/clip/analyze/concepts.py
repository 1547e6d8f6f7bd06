"""Concepts of embeddings, as a sparse autoencoder learns them, and which of them domains share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.clip.analyze.plan import shared_classes
from clipgap.clip.analyze.similarity import draws, mean_interval

TOPS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("checkpoint", "domain", "key", "class")),
        ("concepts", pa.list_(pa.int32())),  # the strongest of the image, strongest first
    ]
)
CONCEPTS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("checkpoint", "first", "second")),
        ("classes", pa.int32()),
        ("alive", pa.int32()),  # concepts that are among the strongest of any image
        *((name, pa.float64()) for name in ("value", "low", "high", "chance")),
    ]
)

SIZES = (5, 10, 15, 20)
"""Of the sets of concepts that are compared; the overlap is the mean over them."""

_TIMES = 4  # as many concepts as an embedding has numbers
_SPARSITY = 1e-4
_BATCH = 2_048
_RATE = 1e-3

Rows = NDArray[np.float32]


def top_concepts(
    rows: Rows, steps: int, seed: int, check: Callable[[], None]
) -> tuple[list[list[int]], dict[str, float]]:
    """The strongest concepts of each embedding, of equal ones the first; and how good the
    dictionary is: the share of variance that it misses, and concepts at work in an image.

    `check` is asked before each step whether to go on.
    """
    import torch

    chance = torch.Generator().manual_seed(seed)
    data = torch.from_numpy(rows.copy())
    centre, size = data.mean(dim=0), data.shape[1]
    normalize = torch.nn.functional.normalize
    decoder = normalize(torch.randn(_TIMES * size, size, generator=chance), dim=1)
    encoder, bias = decoder.T.clone(), torch.zeros(len(decoder))
    learned = [each.requires_grad_() for each in (encoder, bias, decoder, centre)]
    optimizer = torch.optim.Adam(learned, _RATE)
    for _ in range(steps):
        check()
        some = data[torch.randint(len(data), (min(_BATCH, len(data)),), generator=chance)]
        active = torch.relu((some - centre) @ encoder + bias)
        missed = (active @ decoder + centre - some).square().mean()
        loss = missed + _SPARSITY * active.sum(dim=1).mean()
        for each, gradient in zip(learned, torch.autograd.grad(loss, learned), strict=True):
            each.grad = gradient
        optimizer.step()
        with torch.no_grad():
            decoder.copy_(normalize(decoder, dim=1))
    found, working, left = [], 0, 0.0
    with torch.no_grad():
        for part in torch.split(data, _BATCH):
            active = torch.relu((part - centre) @ encoder + bias)
            left += float((active @ decoder + centre - part).double().square().sum())
            working += int((active > 0).sum())
            values, order = active.sort(dim=1, descending=True, stable=True)
            for some_values, places in zip(
                values[:, : SIZES[-1]].tolist(), order[:, : SIZES[-1]].tolist(), strict=True
            ):
                found.append([p for v, p in zip(some_values, places, strict=True) if v > 0])
        whole = float((data - data.mean(dim=0)).double().square().sum())
    return found, {"missed": left / whole if whole else 0.0, "active": working / len(data)}


def tops_table(
    checkpoint: str,
    embeddings: Mapping[str, Any],
    steps: int,
    seed: int,
    check: Callable[[], None],
) -> tuple[Any, dict[str, float]]:
    """The strongest concepts of all images, learned from all domains together."""
    whole = pa.concat_tables(embeddings.values())
    rows = whole["embedding"].combine_chunks().flatten().to_numpy().reshape(whole.num_rows, -1)
    found, told = top_concepts(rows, steps, seed, check)
    columns = [
        pa.array([checkpoint] * whole.num_rows, pa.string()),
        pa.array([name for name, table in embeddings.items() for _ in range(table.num_rows)]),
        *(whole[name].combine_chunks() for name in ("key", "class")),
        pa.array(found, pa.list_(pa.int32())),
    ]
    return pa.Table.from_arrays(columns, schema=TOPS_SCHEMA), told


def concept_rows(checkpoint: str, tops: Any, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """How many of the most frequent concepts of a class two domains share, over all classes."""
    counts: dict[str, dict[str, dict[int, int]]] = {}
    for row in tops.to_pylist():
        of_class = counts.setdefault(row["domain"], {}).setdefault(row["class"], {})
        for concept in row["concepts"]:
            of_class[concept] = of_class.get(concept, 0) + 1
    alive = len({c for of_it in counts.values() for one in of_it.values() for c in one})
    for first, second in combinations(counts, 2):
        classes = shared_classes(list(counts[first]), list(counts[second]))
        shares = [_overlap(counts[first][name], counts[second][name]) for name in classes]
        yield {
            "checkpoint": checkpoint,
            "first": first,
            "second": second,
            "classes": len(classes),
            "alive": alive,
            **mean_interval(np.array(shares), draws(len(classes), count, seed)),
            "chance": sum(min(1.0, size / max(alive, 1)) for size in SIZES) / len(SIZES),
        }


def _overlap(first: Mapping[int, int], second: Mapping[int, int]) -> float:
    """The mean over sizes of the share that is in both sets of the most frequent."""
    one, other = _by_frequency(first), _by_frequency(second)
    shares = [len(set(one[:size]) & set(other[:size])) / size for size in SIZES]
    return sum(shares) / len(SIZES)


def _by_frequency(counts: Mapping[int, int]) -> list[int]:
    """Concepts that images have; of those that are as frequent the first by number."""
    return sorted(counts, key=lambda concept: (-counts[concept], concept))
