"""`fit_heads`: from labelled embeddings to a folder of heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from clipgap.domains.fitting import fit
from clipgap.domains.labelled import Labelled, load
from clipgap.domains.options import FitOptions
from clipgap.domains.precision import Scored
from clipgap.errors import UsageError
from clipgap.files.parquet import write_tables
from clipgap.files.sums import write_file
from clipgap.heads.heads import (
    CURVE,
    CURVE_SCHEMA,
    HEADS,
    KIND,
    LABELS,
    NORMALISATION,
    POINTS,
    WEIGHTS,
    Head,
    domains,
    model_of,
    tally,
    write_tensors,
)
from clipgap.kernels.options import Compute
from clipgap.options import Only, takes_options
from clipgap.runs.how import How, Progress, Tally
from clipgap.runs.output import Complete, Damaged, New, Output, open_output, spare
from clipgap.select.cells import Pool, open_pool
from clipgap.version import __version__


@dataclass(frozen=True)
class Fitted:
    """What was fitted, or would be."""

    path: Path | None  # None: only looked at
    manifest: Mapping[str, Any]
    already_complete: bool = False


@takes_options
def fit_heads(
    store: Any,
    labels: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    options: FitOptions,
    compute: Annotated[Compute, Only("threads")],
    how: How,
) -> Fitted:
    """Fit heads that tell natural images, and renditions, from the rest.

    `labels` are tables of keys, or of shard and row, with a column `domain`: natural, ambiguous or
    rendition; `class` and `source`, where they are there, only see to even parts. Without `out`
    labels are checked and counted, and nothing is fitted.
    """
    tables = [labels] if isinstance(labels, str | Path) else list(labels)
    prevalence = shares_of(options.prevalence)
    pool = open_pool(store, [str(table) for table in tables], None, compute.threads, how)
    described = {
        "kind": "heads",
        "model": model_of(pool.store, options.model),
        "normalisation": NORMALISATION,
        "dim": pool.store.dim,
        "settings": {
            **{name: value for name, value in asdict(options).items() if name != "model"},
            "prevalence": prevalence,
        },
        "inputs": {"store": pool.store.identity(), "labels": pool.cite_tables()},
    }
    if out is None:
        how.without_folder()
        found = load(pool, options.train_share, options.seed)
        return Fitted(None, {**described, "parts": found.counts()})
    spare(Path(out), [Path(pool.store.path), *pool.tables], how)
    with open_output(out, KIND, how) as output:
        answer = output.begin(described)
        if isinstance(answer, Complete):
            return Fitted(output.path, answer.manifest, already_complete=True)
        if isinstance(answer, Damaged):
            how.note(f"{len(answer.files):,} damaged files, so all is fitted again")
        if not isinstance(answer, New):
            output.start()
        return Fitted(output.path, _fill(output, described, pool, options, prevalence))


def shares_of(given: Sequence[str]) -> dict[str, float] | None:
    """Declared prevalences by label; all or none, and together 1."""
    if not given:
        return None
    shares = {}
    for text in given:
        label, equals, share = text.partition("=")
        try:
            shares[label] = float(share) if equals else -1.0
        except ValueError:
            shares[label] = -1.0
        if label not in LABELS or not 0 <= shares[label] <= 1:
            raise UsageError(
                f"--prevalence {text}: write it as LABEL=SHARE, such as natural=0.3; labels are "
                f"{', '.join(LABELS)}"
            )
    if (
        len(shares) < len(LABELS)
        or len(given) != len(shares)
        or abs(sum(shares.values()) - 1) > 1e-3
    ):
        raise UsageError(
            f"--prevalence must give each of {', '.join(LABELS)} once, and together they are 1"
        )
    return {label: shares[label] for label in LABELS}


def _fill(
    output: Output,
    described: Mapping[str, Any],
    pool: Pool,
    options: FitOptions,
    prevalence: Mapping[str, float] | None,
) -> dict[str, Any]:
    """Fit, choose, test, and write."""
    labelled = load(pool, options.train_share, options.seed)
    tally = Tally(output.how, Progress(stage="fitting", total=len(HEADS), noun="heads"))
    heads, said, curves = [], {}, []
    for name in HEADS:
        output.how.check()
        rows, labels = labelled.of("train")
        head = fit(name, rows, labels == LABELS.index(name), options.penalty)
        heads.append(head)
        said[name] = described_head(head, labelled, options.precision, prevalence)
        curves += list(scored(head, labelled, "test").curve(prevalence))
        tally.add(1)
    tensors = {f"{head.name}.weight": head.weight for head in heads}
    tensors |= {f"{head.name}.bias": np.array([head.bias]) for head in heads}
    about = {
        "format": KIND.form.name,
        "model": described["model"],
        "normalisation": NORMALISATION,
        **{name: f"accepts {name}; the rest is {', '.join(said[name]['rest'])}" for name in HEADS},
    }
    table = pa.Table.from_pylist(curves, schema=CURVE_SCHEMA)
    files = {
        WEIGHTS: write_file(output.path / WEIGHTS, write_tensors(tensors, about)),
        CURVE: write_tables(output.path / CURVE, CURVE_SCHEMA, [table]),
    }
    versions = {"clipgap": __version__, "numpy": np.__version__, "pyarrow": pa.__version__}
    return output.finish(
        {
            **described,
            "heads": said,
            "confusion": confusion({head.name: head for head in heads}, said, labelled),
            "parts": labelled.counts(),
            "versions": versions,
        },
        files,
    )


def scored(head: Head, labelled: Labelled, part: str) -> Scored:
    rows, labels = labelled.of(part)
    return Scored(head.name, head.scores(rows), labels)


def confusion(
    heads: Mapping[str, Head], said: Mapping[str, Any], labelled: Labelled
) -> dict[str, dict[str, dict[str, int]]]:
    """What both heads together say of the test rows of each label."""
    rows, labels = labelled.of("test")
    scores = {name: heads[name].scores(rows) for name in HEADS}
    told = {
        point: domains(*(scores[name] >= said[name]["thresholds"][point] for name in HEADS))
        for point in POINTS
    }
    return {
        label: tally(*(told[point][labels == place] for point in POINTS))
        for place, label in enumerate(LABELS)
    }


def described_head(
    head: Head, labelled: Labelled, precision: float, prevalence: Mapping[str, float] | None
) -> dict[str, Any]:
    """What a manifest says of a head: its polarity, its thresholds, and what the test part says."""
    strict = scored(head, labelled, "thresholds").lowest(precision)
    thresholds = {"default": 0.0, "strict": strict}
    test = scored(head, labelled, "test")
    return {
        "accepts": head.name,
        "rest": [label for label in LABELS if label != head.name],
        "thresholds": thresholds,
        "found": {
            point: test.at(threshold, precision, prevalence)
            for point, threshold in thresholds.items()
        },
    }
