"""What is said of a report, besides what it shows."""

from __future__ import annotations

from dataclasses import dataclass

from clipgap.options import Options, option


@dataclass(frozen=True)
class ReportOptions(Options):
    """What it looks like."""

    format: str = option(
        "html",
        "A page with figures and galleries, tables in Markdown, or the numbers alone; the first "
        "two hold the numbers too.",
        choices=("html", "md", "json"),
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
