"""Groups: clean test sets, accuracy on subsets, and by what the training mixes consisted of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from clipgap.clip.eval.subset_tables import ALL, CLASSES, IMAGES, OWN, SUBSETS, SUBSETS_PAIRED
from clipgap.intervals import Interval
from clipgap.mix.recipe import Plan, exact
from clipgap.report.parts import Figure, Findings, Section, draw_bar, side_by_side
from clipgap.report.sections.accuracy import MOST_CURVES, difference_tables, top1
from clipgap.report.sources import MIX, Sources
from clipgap.report.svg import Drawing, Entry, colour_of, linear
from clipgap.report.tables import Cell, Column, Table

RATIO, SEEN = "ratio", "seen"
"""What a curve over mixes goes by."""

_BY_RATIO = ("ratio", "counts", "steps", "natural-only", "random")
_BY_SHARE = ("low-diversity", "high-diversity", "share-seen", "upper-bound")

_WAYS = {
    "standard": (False, ALL),
    "clean": (True, ALL),
    "fewer classes": (True, OWN),
}
"""Whether the subset alone counts, and among which classes it is told apart."""


def findings(sources: Sources) -> Findings:
    """Nothing at all without subsets, pools and mixes."""
    found: dict[str, Any] = {}
    if rows := [row for one in sources.evaluations for row in one.subsets(SUBSETS)]:
        found["subsets"] = {
            "rows": rows,
            "paired": [row for one in sources.evaluations for row in one.subsets(SUBSETS_PAIRED)],
            "shown": [name for one in sources.evaluations for name in one.shown],
            "clean": [list(pair) for one in sources.evaluations for pair in one.clean],
        }
    if curves := list(_by_mix(sources, rows)):
        found["by_mix"] = curves
    return found


def _by_mix(sources: Sources, subsets: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Accuracy by what a mix consists of: of checkpoints and pools that are called like mixes."""
    accuracy = {(name, test, None): row for (name, test), row in top1(sources).items()}
    accuracy |= {
        (row["checkpoint"], row["set"], row["subset"]): row
        for row in subsets
        if (row["among"], row["over"]) == (ALL, IMAGES)
    }
    curves: dict[tuple[str, str, str | None, str], list[dict[str, Any]]] = {}
    for (name, test, subset), row in accuracy.items():
        keep = sources.splits.get(name)
        if keep is None or keep.manifest["rule"]["name"] != MIX:
            continue
        for by, series, x in places_of(keep.manifest["rule"], keep.manifest["sizes"]):
            point = {"name": name, "x": x, **{key: row[key] for key in ("accuracy", "low", "high")}}
            curves.setdefault((by, test, subset, series), []).append(point)
    drawn = {key[:3] for key, points in curves.items() if len({p["x"] for p in points}) > 1}
    for (by, test, subset, series), points in curves.items():
        if (by, test, subset) in drawn:
            points.sort(key=lambda point: (point["x"], point["name"]))
            yield {"by": by, "set": test, "subset": subset, "series": series, "points": points}


def places_of(
    rule: Mapping[str, Any], sizes: Mapping[str, Any]
) -> Iterator[tuple[str, str, float]]:
    """Where a mix lies on which curves: by what, of which series, at what share.

    By ratio: the share of its rows that are not natural, of mixes of one size. By classes seen:
    the share of the queried classes' rows that it may have, of mixes of one diversity.
    """
    plan = Plan.from_json(rule)
    said = plan.mixes[plan.mix]
    natural = plan.task.get("natural", "natural")
    if said["rule"] in _BY_RATIO and natural in {cell["domain"] for cell in sizes["cells"]}:
        kept = sum(cell["after"] for cell in sizes["cells"])
        other = sum(cell["after"] for cell in sizes["cells"] if cell["domain"] != natural)
        drawn = ", at random" if said["rule"] == "random" else ""
        yield RATIO, f"{kept:,} rows{drawn}", float(Fraction(other, kept))
    if said["rule"] in _BY_SHARE:
        low = said["rule"] == "low-diversity" or said.get("diversity", "high") == "low"
        share = 1 if said["rule"] == "upper-bound" else float(exact(said.get("share", 0)))
        yield SEEN, "low diversity" if low else "high diversity", share


def _ways(findings: Findings) -> Iterator[Figure]:
    found = findings.get("subsets", {"clean": []})
    yield Figure(
        "clean",
        "Standard and clean test sets",
        "Top-1 accuracy on the whole set; on the images that are clean, told apart among all "
        "classes of the set; and the same images, told apart among the classes that they have. "
        "Fewer classes are easier: only the first step is what cleaning does. Whiskers are "
        "95\u00a0% intervals.",
        [
            _bars(
                f"{test}: {subset}",
                list(_WAYS),
                found,
                [(test, subset if inside else None, among) for inside, among in _WAYS.values()],
            )
            for test, subset in found["clean"]
        ],
    )


def _groups(findings: Findings) -> Iterator[Figure]:
    found = findings.get("subsets", {"rows": [], "clean": []})
    groups: dict[str, list[str]] = {}
    for row in found["rows"]:
        subset = row["subset"]
        if subset is not None and [row["set"], subset] not in found["clean"]:
            named = groups.setdefault(row["set"], [])
            named += [subset] if subset not in named else []
    yield Figure(
        "groups",
        "Accuracy by group",
        "Top-1 accuracy on the whole set and on groups of its classes, told apart among all "
        f"classes, over images, of the first {MOST_CURVES} models. Whiskers are 95\u00a0% "
        "intervals.",
        [
            _bars(test, ["all", *names], found, [(test, name, ALL) for name in (None, *names)])
            for test, names in groups.items()
        ],
    )


def _bars(
    title: str,
    labels: Sequence[str],
    found: Mapping[str, Any],
    places: Sequence[tuple[str, str | None, str]],
) -> Drawing:
    """A group of bars for each set, subset and choice of classes; a bar in each for each model."""
    rows = {
        (row["checkpoint"], (row["set"], row["subset"], row["among"])): row
        for row in found["rows"]
        if row["over"] == IMAGES
    }
    names = list(dict.fromkeys(found["shown"]))
    mine = [name for name in names if (name, places[0]) in rows][:MOST_CURVES]
    colours = {name: colour_of(names.index(name)) for name in mine}  # the same in all drawings
    shown = [row for (name, place), row in rows.items() if name in colours and place in places]
    drawing = Drawing(
        title,
        side_by_side(labels),
        linear(0, 1.04 * max(row["high"] for row in shown), "top-1 accuracy (%)", percent=True),
        [Entry(name, colour) for name, colour in colours.items()],
    )
    width = 0.8 / len(colours)
    for number, (name, colour) in enumerate(colours.items()):
        for group, place in enumerate(places):
            if (row := rows.get((name, place))) is None:
                continue
            share = Interval(row["accuracy"], row["low"], row["high"])
            tip = f"{name}, {labels[group]}: {share.value:.2%} of {row['images']:,} images"
            middle = group + (number - (len(colours) - 1) / 2) * width
            draw_bar(drawing, middle, width, share, colour, tip)
    return drawing


def _subsets(findings: Findings) -> Iterator[Table]:
    of_place: dict[tuple[str, str | None, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for row in findings.get("subsets", {"rows": []})["rows"]:
        place = (row["set"], row["subset"], row["checkpoint"])
        of_place.setdefault(place, {})[row["among"], row["over"]] = row
    ways = [(among, over) for among in (ALL, OWN) for over in (IMAGES, CLASSES)]
    yield Table(
        "subsets",
        "Accuracy on subsets",
        "Top-1 accuracy over images, and in the mean over classes, told apart among all classes of "
        "the set, and among the subset's own. With 95\u00a0% intervals.",
        (
            Column("set"),
            Column("subset"),
            Column("model"),
            Column("images", "count"),
            Column("classes", "count"),
            Column("over images", "percent"),
            Column("over classes", "percent"),
            Column("own classes, over images", "percent"),
            Column("own classes, over classes", "percent"),
        ),
        tuple(
            (
                *map(Cell, (test, subset or "all", name)),
                *(Cell(rows[ALL, IMAGES][count]) for count in ("images", "classes")),
                *(
                    Cell(row["accuracy"], row["low"], row["high"]) if row else Cell(None)
                    for row in map(rows.get, ways)
                ),
            )
            for (test, subset, name), rows in of_place.items()
        ),
    )


def _curves(findings: Findings) -> Iterator[Figure]:
    words = {
        RATIO: (
            "accuracy-by-ratio",
            "Accuracy by mixing ratio",
            "rows that are not natural (%)",
            "Models trained on mixes of equal size, by how much of them is not natural.",
        ),
        SEEN: (
            "accuracy-by-seen",
            "Accuracy by what was seen of the queried classes",
            "share seen (%)",
            "Models trained on mixes that hold this share of the rows that the queried classes "
            "have in the test domain.",
        ),
    }
    for by, (name, title, label, caption) in words.items():
        mine = [curve for curve in findings.get("by_mix", ()) if curve["by"] == by]
        series = list(dict.fromkeys(curve["series"] for curve in mine))
        sets = dict.fromkeys((curve["set"], curve["subset"]) for curve in mine)
        yield Figure(
            name,
            title,
            f"{caption} Whiskers are 95\u00a0% intervals over images.",
            [
                _curve(
                    test if subset is None else f"{test}: {subset}",
                    label,
                    [one for one in mine if (one["set"], one["subset"]) == (test, subset)],
                    {each: colour_of(place) for place, each in enumerate(series)},
                )
                for test, subset in sets
            ],
        )


def _curve(
    title: str, label: str, curves: Sequence[Mapping[str, Any]], colours: Mapping[str, int]
) -> Drawing:
    points = [point for curve in curves for point in curve["points"]]
    low, high = min(point["low"] for point in points), max(point["high"] for point in points)
    margin = 0.08 * (high - low) or 0.01
    drawing = Drawing(
        title,
        linear(-0.03, 1.03, label, percent=True),
        linear(max(0.0, low - margin), min(1.0, high + margin), "top-1 accuracy (%)", percent=True),
        [Entry(curve["series"], colours[curve["series"]], "dot") for curve in curves],
    )
    for curve in curves:
        colour = colours[curve["series"]]
        line = [(point["x"], point["accuracy"]) for point in curve["points"]]
        if len(line) > 1:
            drawing.path(line, f"curve s{colour}")
        for point in curve["points"]:
            drawing.whisker(point["x"], point["low"], point["high"], colour)
            tip = f"{point['name']}: {point['x']:.1%}, accuracy {point['accuracy']:.2%}"
            drawing.dot(point["x"], point["accuracy"], colour, tip)
    return drawing


def _differences(findings: Findings) -> Iterator[Table]:
    """Between the models that are shown; of whole sets only where those are pools."""
    found = findings.get("subsets", {"paired": [], "shown": []})
    told = {(row["set"], row["first"]) for row in findings["paired"]}
    rows = [
        {**row, "group": row["subset"]}
        for row in found["paired"]
        if (row["among"], row["over"]) == (ALL, IMAGES)
        and {row["first"], row["second"]} <= set(found["shown"])
        and (row["subset"] is not None or (row["set"], row["first"]) not in told)
    ]
    yield from difference_tables("subset-differences", rows)


GROUPS = Section(
    "groups",
    "Clean sets, groups and mixes",
    findings,
    (_ways, _groups, _curves, _subsets, _differences),
)
