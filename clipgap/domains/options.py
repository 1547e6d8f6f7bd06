"""What can change fitted heads, besides the store and the labels."""

from __future__ import annotations

from dataclasses import dataclass

from clipgap.options import Options, option
from clipgap.scan.options import BAD_ROWS


@dataclass(frozen=True)
class FitOptions(Options):
    """How labels are parted, how heads are fitted, which precision is wanted."""

    precision: float = option(
        0.98, "The precision that strict thresholds are chosen for.", metavar="P", min=0.01, max=1
    )
    prevalence: tuple[str, ...] = option(
        (),
        "The share of a label where heads will be used, such as natural=0.3. Give all three, to "
        "see the precision there.",
        metavar="LABEL=SHARE",
        shown="none",
    )
    train_share: float = option(
        0.5,
        "The share of the labels to train on; half of the rest choose thresholds, half test them.",
        metavar="SHARE",
        min=0.1,
        max=0.9,
    )
    penalty: float = option(
        0.0001, "Half the weight of the squared norm beside the mean loss.", metavar="λ", min=1e-9
    )
    model: str | None = option(
        None,
        "The model of the embeddings, if the store does not tell.",
        metavar="NAME",
        shown="the store's",
    )
    seed: int = option(0, "Of the parts.", metavar="S", min=0)


@dataclass(frozen=True)
class AuditOptions(Options):
    """Which rows are looked at, and how many."""

    domain: str = option(
        "rendition", "What heads say of the rows.", choices=("natural", "rendition")
    )
    by: str = option(
        "strict", "The thresholds by which they say it.", choices=("default", "strict")
    )
    sample: int = option(300, "Rows to label, drawn at random.", metavar="N", min=1)
    seed: int = option(
        0, "Of the draw; with more rows, those of fewer are among them.", metavar="S", min=0
    )


@dataclass(frozen=True)
class LabelOptions(Options):
    """How rows are labelled."""

    model: str | None = option(
        None,
        "The model of the embeddings, if the store does not tell.",
        metavar="NAME",
        shown="the store's",
    )
    bad_rows: str = option(
        "error",
        "Rows with NaN or infinity: stop there, or leave them without a domain.",
        choices=BAD_ROWS,
    )
