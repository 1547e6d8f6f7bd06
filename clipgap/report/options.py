"""What is said of a report, besides what it shows."""

from __future__ import annotations

from dataclasses import dataclass

from clipgap.options import Options, option


@dataclass(frozen=True)
class ReportOptions(Options):
    """What it looks like."""

    format: str = option(
        "html",
        "Pages with figures and galleries, the same in one file that can be mailed, tables in "
        "Markdown, or the numbers alone, which lie beside all others too.",
        choices=("html", "single", "md", "json"),
    )
    title: str = option("Similarity report", "What the page is called.", metavar="TEXT")
    gallery: int | None = option(
        None,
        "Show N points of each test set in the gallery, and N rows beside thresholds, spread over "
        "all similarities.",
        metavar="N",
        min=1,
        shown="all",
    )
