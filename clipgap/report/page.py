"""The pages: findings, tables and figures put into templates that escape everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from itertools import chain
from typing import Any

from clipgap.errors import MissingDependency
from clipgap.packages import installation
from clipgap.report.contents import shown_sections
from clipgap.report.parts import Figure, Files, Findings
from clipgap.report.sections.pruning import badge, proof
from clipgap.report.tables import (
    Cell,
    Column,
    Table,
    beside,
    escape_markdown,
    shown,
    to_csv,
    to_latex,
    to_markdown,
    unit,
)

Write = Callable[[str, bytes], None]
_STYLES = ("chart.css", "style.css")
_SCRIPTS = ("page.js", "gallery.js", "thresholds.js")


def write_pages(findings: Findings, gallery: Mapping[str, Any], write: Write) -> None:
    """index.html, a page a split, the gallery's page, and what they load."""
    sections = shown_sections(findings)
    for name in (*_STYLES, *_SCRIPTS):
        write(f"assets/{name}", _asset(name))
    style = _asset("chart.css").decode()
    for part in chain.from_iterable(parts for _, parts in sections):
        if isinstance(part, Table):
            write(f"tables/{part.name}.csv", to_csv(part).encode())
            write(f"tables/{part.name}.tex", to_latex(part).encode())
        elif isinstance(part, Figure):
            for drawing in part.drawings:
                write(f"figures/{part.file(drawing)}", drawing.render(style).encode())
        elif isinstance(part, Files):
            for file in part.files:
                write(f"{part.name}/{file.name}", file.text.encode())
    environment = _environment()
    split_pages = {s["name"]: f"split-{n}.html" for n, s in enumerate(findings["splits"], 1)}
    common = {
        "findings": findings,
        "has_gallery": bool(gallery["sets"]),
        "has_thresholds": bool(gallery.get("thresholds")),
        "split_pages": split_pages,
    }

    def render(template: str, name: str, **values: Any) -> None:
        text = environment.get_template(template).render(page=name, **common, **values)
        write(name, text.encode())

    opening = [part for section, parts in sections if not section.title for part in parts]
    titled = [each for each in sections if each[0].title]
    render("index.html", "index.html", opening=opening, sections=titled)
    if gallery["sets"]:
        render("gallery.html", "gallery.html")
    if gallery.get("thresholds"):
        render("thresholds.html", "thresholds.html")
    for split in findings["splits"]:
        render("split.html", split_pages[split["name"]], split=split)


def markdown(findings: Findings) -> str:
    """The tables, for places that show Markdown."""
    lines = [f"# {escape_markdown(findings['title'])}", ""]
    parts = chain.from_iterable(parts for _, parts in shown_sections(findings))
    for table in (part for part in parts if isinstance(part, Table)):
        lines += [f"## {escape_markdown(table.title)}", "", escape_markdown(table.caption), ""]
        lines += [to_markdown(table)]
    return "\n".join(lines)


def _asset(name: str) -> bytes:
    return (files("clipgap.report") / "assets" / name).read_bytes()


@cache
def _environment() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependency(
            f"a page needs jinja2: {installation('report')}, or give --format md or json"
        ) from error
    environment = Environment(
        loader=PackageLoader("clipgap.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"count": lambda value: f"{value:,}", "share": lambda v: f"{v:.2%}"}
    environment.globals |= {
        "shown": shown,
        "unit": unit,
        "proof": proof,
        "badge": badge,
        "beside": beside,
        "svg": _svg,
        "heat": _heat,
        "sort_key": _sort_key,
    }
    return environment


def _svg(figure: Figure, number: int) -> Any:
    """A drawing, which escapes its own texts."""
    from markupsafe import Markup

    return Markup(figure.drawings[number].render())


def _heat(table: Table, row: tuple[Cell, ...], cell: Cell) -> str:
    """The shade of a matrix's cell, as a class.

    Differences are shaded by their sign where it is sure, counts in ten steps by how much of the
    row's own rows the column shares.
    """
    if not table.is_matrix or cell is row[0]:
        return ""
    if cell.low is not None and cell.high is not None:
        return "more" if cell.low > 0 else "less" if cell.high < 0 else ""
    places = 1 + table.rows.index(row)
    diagonal = row[places].value if places < len(row) else None
    if not isinstance(cell.value, int) or not isinstance(diagonal, int) or not diagonal:
        return ""
    return f"heat-{round(10 * cell.value / diagonal)}"


def _sort_key(cell: Cell, column: Column) -> str:
    """What a column is sorted by: numbers in full, not as shown."""
    value = cell.value if cell.value is not None else cell.paper
    return "" if value is None else str(value) if column.kind == "text" else repr(value)
