"""Inside of models: how alike domains are, block by block, and where their images lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from clipgap.clip.analyze.api import (
    CIRCUITS,
    CKA,
    COMPLETENESS,
    CONCEPTS,
    MAP,
    NEURONS,
    Analysis,
)
from clipgap.clip.analyze.circuits import ROUNDS
from clipgap.report.parts import Figure, Findings, Note, Section, spread
from clipgap.report.sources import Sources
from clipgap.report.svg import Axis, Drawing, Entry, colour_of, linear
from clipgap.report.tables import Cell, Column, Table

MOST_DOTS = 150
"""Images of a domain that are drawn on a map, spread over all that there are."""

MOST_WHISKERS = 2  # curves that have their intervals drawn; more would hide each other

_TABLES = {
    "cka": CKA,
    "neurons": NEURONS,
    "completeness": COMPLETENESS,
    "circuits": CIRCUITS,
    "concepts": CONCEPTS,
}


def findings(sources: Sources) -> Findings:
    """Nothing at all if there is no analysis."""
    found = [each for one in sources.analyses for each in _by_checkpoint(one)]
    return {"analyses": found} if found else {}


def _by_checkpoint(analysis: Analysis) -> Iterator[dict[str, Any]]:
    tables = {name: analysis.table(file).to_pylist() for name, file in _TABLES.items()}
    points = analysis.table(MAP).to_pylist()
    domains = [domain["name"] for domain in analysis.manifest["domains"]]
    for checkpoint in (each["name"] for each in analysis.manifest["checkpoints"]):
        yield {
            "checkpoint": checkpoint,
            "domains": domains,
            **{
                name: [row for row in rows if row["checkpoint"] == checkpoint]
                for name, rows in tables.items()
            },
            "shares": analysis.manifest["maps"][checkpoint],
            "points": [
                {name: row[name] for name in ("domain", "key", "class", "x", "y")}
                for domain in domains
                for row in spread(
                    [p for p in points if (p["checkpoint"], p["domain"]) == (checkpoint, domain)],
                    MOST_DOTS,
                )
            ],
        }


def _cka(findings: Findings) -> Iterator[Figure]:
    yield Figure(
        "cka-by-block",
        "Likeness of domains by block",
        "Linear CKA of the mean activations of classes, with an unbiased HSIC, between each domain "
        "and the others. Bars, where there are one or two curves, are 95\u00a0% intervals of a "
        "bootstrap over classes.",
        [
            drawing
            for one in findings.get("analyses", ())
            for drawing in _curves(
                one, [row for row in one["cka"] if row["kernel"] == "linear"], "CKA"
            )
        ],
    )


def _neurons(findings: Findings) -> Iterator[Figure]:
    yield Figure(
        "neurons-by-block",
        "Shared neurons by block",
        "Jaccard index of the tenth of the neurons that matter most for the cosine with the "
        "prompt of the class, in the mean over classes. Dashed: what chance would give.",
        [
            drawing
            for one in findings.get("analyses", ())
            for drawing in _curves(one, one["neurons"], "shared top neurons (Jaccard)")
        ],
    )


def _curves(one: dict[str, Any], rows: Sequence[dict[str, Any]], label: str) -> Iterator[Drawing]:
    """A drawing for each domain, a curve for each other one; of two domains only one."""
    known = [row for row in rows if row["value"] is not None]
    if not known:
        return
    layers = {row["layer"]: row["block"] for row in rows}
    domains = one["domains"]
    drawn = ["value", *(["low", "high"] if len(domains) - 1 <= MOST_WHISKERS else [])]
    values = [row[name] for row in known for name in drawn if row[name] is not None]
    low, high = min(0.0, *values), max(0.1, *values)
    for domain in domains if len(domains) > 2 else domains[:1]:
        mine = [row for row in known if domain in (row["first"], row["second"])]
        others = [name for name in domains if name != domain]
        colours = {name: colour_of(domains.index(name)) for name in others}
        drawing = Drawing(
            f"{one['checkpoint']}: {domain}",
            _blocks(len(layers)),
            linear(low - 0.03 * (high - low), high + 0.05 * (high - low), label),
            [Entry(name, colours[name], "dot") for name in others],
        )
        chance = [(row["layer"] + 1, row["chance"]) for row in mine if "chance" in row]
        if chance:
            drawing.path(sorted(set(chance)), "median s0")
        for other in others:
            curve = [row for row in mine if other in (row["first"], row["second"])]
            colour = colours[other]
            drawing.path([(row["layer"] + 1, row["value"]) for row in curve], f"curve s{colour}")
            for row in curve:
                if len(others) <= MOST_WHISKERS and row["low"] is not None:
                    drawing.whisker(row["layer"] + 1, row["low"], row["high"], colour)
                tip = f"{domain} – {other}, {row['block']}: {row['value']:.3f}"
                drawing.dot(row["layer"] + 1, row["value"], colour, tip)
        yield drawing


def _blocks(count: int) -> Axis:
    step = -(-count // 8)
    ticks = [(float(place), str(place)) for place in range(1, count + 1, step)]
    return Axis(0.5, count + 0.5, "block", ticks)


def _pairs(findings: Findings) -> Iterator[Table]:
    analyses = findings.get("analyses", ())
    has = {name: any(one[name] for one in analyses) for name in _TABLES}
    columns = [Column("model"), Column("domains"), Column("classes", "count")]
    columns += [Column("linear CKA", "score"), Column("RBF CKA", "score")]
    columns += [Column("neurons", "percent"), Column("by chance", "percent")] * has["neurons"]
    columns += [Column("edges", "percent"), Column("Weisfeiler–Lehman", "score")] * has["circuits"]
    columns += [Column("concepts", "percent"), Column("by chance", "percent")] * has["concepts"]
    rows = []
    for one in analyses:
        for first, second, classes in dict.fromkeys(
            (row["first"], row["second"], row["classes"]) for row in one["cka"]
        ):
            of_pair = {
                name: [r for r in one[name] if (r["first"], r["second"]) == (first, second)]
                for name in ("cka", "neurons", "circuits", "concepts")
            }
            last = {row["kernel"]: row for row in of_pair["cka"]}
            cells = [Cell(one["checkpoint"]), Cell(f"{first} – {second}"), Cell(classes)]
            cells += [_cell(last["linear"]), _cell(last["rbf"])]
            if has["neurons"]:
                cells += [_mean(of_pair["neurons"], name) for name in ("value", "chance")]
            if has["circuits"]:
                measured = {row["measure"]: row for row in of_pair["circuits"]}
                cells += [_cell(measured.get(name)) for name in ("edges", f"wl-{ROUNDS}")]
            if has["concepts"]:
                shared = next(iter(of_pair["concepts"]), None)
                cells += [_cell(shared), Cell(None if shared is None else shared["chance"])]
            rows.append(tuple(cells))
    yield Table(
        "domains-inside",
        "What domains have in common",
        "CKA in the last block; shared top neurons, in the mean over blocks; shared edges of "
        f"circuits, and their likeness by Weisfeiler and Lehman after {ROUNDS} rounds; shared "
        "concepts. Intervals are of a bootstrap over classes.",
        tuple(columns),
        tuple(rows),
    )


def _cell(row: dict[str, Any] | None) -> Cell:
    return Cell(None) if row is None else Cell(row["value"], row["low"], row["high"])


def _mean(rows: Sequence[dict[str, Any]], name: str) -> Cell:
    return Cell(sum(row[name] for row in rows) / len(rows) if rows else None)


def _completeness(findings: Findings) -> Iterator[Note]:
    for one in findings.get("analyses", ()):
        if changed := sum(abs(row["change"]) for row in one["completeness"]):
            missed = sum(row["error"] for row in one["completeness"]) / changed
            yield Note(
                f"{one['checkpoint']}: the effects of all neurons of a block miss {missed:.1%} of "
                "what the cosine changes by. Before a layer norm they cannot add up, since how "
                "large activations are then makes no difference."
            )


def _map(findings: Findings) -> Iterator[Figure]:
    drawings = []
    for one in findings.get("analyses", ()):
        if not one["points"]:
            continue
        colours = {name: colour_of(place) for place, name in enumerate(one["domains"])}
        labels = _labels(one["shares"])
        drawing = Drawing(
            one["checkpoint"],
            linear(*_around([point["x"] for point in one["points"]]), labels[0]),
            linear(*_around([point["y"] for point in one["points"]]), labels[1]),
            [Entry(name, colour, "dot") for name, colour in colours.items()],
        )
        for point in one["points"]:
            tip = f"{point['domain']}, {point['class']}: {point['key']}"
            drawing.dot(point["x"], point["y"], colours[point["domain"]], tip)
        drawings.append(drawing)
    yield Figure(
        "map",
        "Map of the embeddings",
        f"Images of each domain, {MOST_DOTS} at most, by their normalised embeddings.",
        drawings,
    )


def _around(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _labels(shares: Sequence[float]) -> tuple[str, str]:
    """The axes of principal directions say what share of the variance they show."""
    if not shares:
        return "first axis", "second axis"
    first, second = (f"{share:.0%} of the variance" for share in shares)
    return first, second


INSIDE = Section(
    "inside", "Inside of models", findings, (_cka, _neurons, _completeness, _pairs, _map)
)
