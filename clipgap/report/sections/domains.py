"""Domains: what stores and keep-lists are composed of, and how good the heads are that say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clipgap.domains.composition import composition
from clipgap.files.parquet import FileSum, read_table
from clipgap.heads.heads import CURVE, HEADS, LABELS, POINTS, Heads
from clipgap.intervals import Interval
from clipgap.report.parts import Figure, Findings, Note, Section, draw_bar, side_by_side, spread
from clipgap.report.sources import Sources
from clipgap.report.svg import Drawing, Entry, linear
from clipgap.report.tables import Cell, Column, Table

MOST_SETS = 5
"""Sets side by side in a drawing; of more there are several."""

MOST_STEPS = 300
"""Places of a curve that are drawn, spread over all that there are."""

_TRULY = 3  # its colour
_WIDTH = 0.26
_CURVES = {"precision": 1, "precision_at_prevalence": 4, "recall": 2}
_SAYS = {"precision_at_prevalence": "precision at the declared prevalence"}


def findings(sources: Sources) -> Findings:
    """Nothing at all without domains and heads."""
    found: dict[str, Any] = {}
    if folders := sources.labelled:
        keeps = sources.keeps_of(folders)
        made = composition(
            {name: each.path for name, each in folders.items()},
            keep={name: keep.path for name, keep in keeps.items()},
        )
        found["compositions"] = [
            {name: said for name, said in each.to_json().items() if name != "path"} for each in made
        ]
    if sources.heads:
        found["heads"] = [_described(name, each) for name, each in sources.heads.items()]
    return found


def _described(name: str, heads: Heads) -> dict[str, Any]:
    curve = read_table(heads.path / CURVE, FileSum(**heads.manifest["files"][CURVE])).to_pylist()
    return {
        "name": name,
        "model": heads.model,
        "settings": heads.manifest["settings"],
        "heads": heads.manifest["heads"],
        "curves": {
            head: spread([row for row in curve if row["head"] == head], MOST_STEPS)
            for head in HEADS
        },
    }


def _composed(findings: Findings) -> Iterator[Figure]:
    sets = findings.get("compositions", [])
    parts = [sets[first : first + MOST_SETS] for first in range(0, len(sets), MOST_SETS)]
    yield Figure(
        "composition",
        "What sets are composed of",
        "Shares of rows that heads say to be natural, ambiguous and renditions, by their default "
        "thresholds and by the strict ones. Truly: what is there if heads err as on their test "
        "part, with 95\u00a0% intervals.",
        [_shares(part, label) for part in parts for label in LABELS],
    )


def _shares(sets: list[dict[str, Any]], label: str) -> Drawing:
    """Of one domain: two bars a set, what is truly there beside them, the paper's shares across."""
    has_paper = any(each["paper"] for each in sets)
    drawing = Drawing(
        label,
        side_by_side([each["name"] for each in sets]),
        linear(0, 1.04, "rows (%)", percent=True),
        [
            *(Entry(point, colour) for colour, point in enumerate(POINTS, 1)),
            *([Entry("truly", _TRULY, "dot")] if any(each["truly"] for each in sets) else []),
            *([Entry("paper", 0, "line")] if has_paper else []),
        ],
    )
    for place, each in enumerate(sets):
        for colour, point in enumerate(POINTS, 1):
            middle = place + _WIDTH * (colour - 2)
            share = each["said"][point][label] / max(each["rows"], 1)
            tip = f"{each['name']}, {label}, {point}: {share:.2%}"
            draw_bar(drawing, middle, _WIDTH, Interval(share, share, share), colour, tip)
            if each["paper"]:
                printed = each["paper"][point][label]
                ends = (middle - _WIDTH / 2, middle + _WIDTH / 2)
                drawing.path([(x, printed) for x in ends], "rule")
        if each["truly"]:
            truly = each["truly"][label]
            drawing.whisker(place + _WIDTH, truly["low"], truly["high"], _TRULY)
            tip = f"{each['name']}, truly {label}: {truly['low']:.2%} to {truly['high']:.2%}"
            drawing.dot(place + _WIDTH, truly["value"], _TRULY, tip)
    return drawing


def _compositions(findings: Findings) -> Iterator[Table]:
    rows: list[tuple[Cell, ...]] = []
    for each in findings.get("compositions", []):
        for point in POINTS:
            shares = [each["said"][point][label] / max(each["rows"], 1) for label in LABELS]
            printed = each["paper"] and each["paper"][point]
            cells = [
                Cell(share, paper=printed and printed[label])
                for share, label in zip(shares, LABELS, strict=True)
            ]
            rows.append((Cell(each["name"]), Cell(point), Cell(each["rows"]), *cells))
        if each["truly"]:
            cells = [Cell(**each["truly"][label]) for label in LABELS]
            rows.append((Cell(each["name"]), Cell("truly"), Cell(each["rows"]), *cells))
    without = sum(each["without"] for each in findings.get("compositions", []))
    yield Table(
        "compositions",
        "Compositions",
        "Rows by what heads say, and by what is truly there. Beside sets of such names: \u201cIn "
        "Search of Forgotten Domain Generalization\u201d (ICLR 2025)."
        + (f" Without a domain, since zero or not finite: {without:,} rows." if without else ""),
        (
            Column("set"),
            Column("by"),
            Column("rows", "count"),
            *(Column(label, "percent") for label in LABELS),
        ),
        tuple(rows),
        of_splits=True,
    )


def _curves(findings: Findings) -> Iterator[Figure]:
    found = findings.get("heads", [])
    titles = "{head}" if len(found) == 1 else "{name}: {head}"
    yield Figure(
        "heads",
        "Precision and recall by volume",
        "Of the labelled rows that neither trained nor chose a threshold: how precise a head is, "
        "and how many of the right rows it finds, if it accepts that share of all. Dashed: its "
        "thresholds; whiskers reach down to the one-sided 95\u00a0% bound of the precision there.",
        [
            _curve(titles.format(name=one["name"], head=head), one, head)
            for one in found
            for head in HEADS
        ],
    )


def _curve(title: str, one: Mapping[str, Any], head: str) -> Drawing:
    rows = one["curves"][head]
    known = {name: colour for name, colour in _CURVES.items() if rows[0][name] is not None}
    drawing = Drawing(
        title,
        linear(0, 1, "accepted rows (%)", percent=True),
        linear(0, 1.15, "precision, recall (%)", percent=True),
        [Entry(_SAYS.get(name, name), colour, "dot") for name, colour in known.items()],
    )
    for height, point in enumerate(POINTS):  # their names above each other
        at, top = one["heads"][head]["found"][point]["volume"], 1 + 0.07 * height
        drawing.path([(at, 0), (at, top)], "median s0")
        drawing.note(at, top, point)
    for name, colour in known.items():
        drawing.path([(row["volume"], row[name]) for row in rows], f"curve s{colour}")
    for point in POINTS:
        found = one["heads"][head]["found"][point]
        if found["precision"] is None:
            continue
        drawing.whisker(found["volume"], found["precision_at_least"], found["precision"], 1)
        for name, colour in known.items():
            tip = f"{head}, {point}: {name} {found[name]:.2%}, {found['accepted']:,} accepted"
            drawing.dot(found["volume"], found[name], colour, tip)
    return drawing


def _points(findings: Findings) -> Iterator[Table | Note]:
    heads = findings.get("heads", [])
    said = [
        (one, head, point, one["heads"][head]["found"][point])
        for one in heads
        for head in HEADS
        for point in POINTS
    ]
    shares = ("precision", "precision_at_least", "precision_at_prevalence", "recall", "volume")
    yield Table(
        "thresholds",
        "Thresholds of heads",
        "On the test part. At least: the one-sided 95\u00a0% bound of Clopper and Pearson. Where "
        "used: at the declared prevalence of domains.",
        (
            Column("heads"),
            Column("accepts"),
            Column("threshold"),
            Column("score from", "score"),
            Column("accepted", "count"),
            Column("wrong", "count"),
            Column("precision", "percent"),
            Column("at least", "percent"),
            Column("where used", "percent"),
            Column("recall", "percent"),
            Column("volume", "percent"),
        ),
        tuple(
            (
                *map(Cell, (one["name"], head, point)),
                Cell(one["heads"][head]["thresholds"][point]),
                *(Cell(found[name]) for name in ("accepted", "wrong", *shares)),
            )
            for one, head, point, found in said
        ),
    )
    for one, head, point, found in said:
        if point == "strict" and found["doubt"]:
            yield Note(f"{one['name']}, {head}, {point}: {found['doubt']}.")


DOMAINS = Section("domains", "Domains", findings, (_composed, _compositions, _curves, _points))
