"""The pages: findings, tables and figures put into templates that escape everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from clipgap.errors import MissingDependency
from clipgap.report.charts import Figure, figures
from clipgap.report.contents import proof, tables
from clipgap.report.findings import Findings
from clipgap.report.tables import (
    Cell,
    Column,
    Table,
    escape_markdown,
    shown,
    to_csv,
    to_latex,
    to_markdown,
    unit,
)

Write = Callable[[str, bytes], None]
_STYLES = ("chart.css", "style.css")
_SCRIPTS = ("page.js", "gallery.js")


def write_pages(findings: Findings, gallery: Mapping[str, Any], write: Write) -> None:
    """index.html, a page a split, the gallery's page, and what they load."""
    made = {table.name: table for table in tables(findings)}
    drawn = figures(findings)
    for name in (*_STYLES, *_SCRIPTS):
        write(f"assets/{name}", _asset(name))
    for table in made.values():
        write(f"tables/{table.name}.csv", to_csv(table).encode())
        write(f"tables/{table.name}.tex", to_latex(table).encode())
    style = _asset("chart.css").decode()
    for figure in drawn.values():
        for drawing in figure.drawings:
            write(f"figures/{figure.file(drawing)}", drawing.render(style).encode())
    environment = _environment()
    split_pages = {s["name"]: f"split-{n}.html" for n, s in enumerate(findings["splits"], 1)}
    common = {
        "findings": findings,
        "has_gallery": bool(gallery["sets"]),
        "split_pages": split_pages,
    }

    def render(template: str, name: str, **values: Any) -> None:
        text = environment.get_template(template).render(page=name, **common, **values)
        write(name, text.encode())

    overlaps = [table for table in made.values() if table.name.startswith("overlap")]
    render("index.html", "index.html", tables=made, figures=drawn, overlaps=overlaps)
    if gallery["sets"]:
        render("gallery.html", "gallery.html")
    for split in findings["splits"]:
        render("split.html", split_pages[split["name"]], split=split)


def markdown(findings: Findings) -> str:
    """The tables, for places that show Markdown."""
    lines = [f"# {escape_markdown(findings['title'])}", ""]
    for table in tables(findings):
        lines += [f"## {escape_markdown(table.title)}", "", escape_markdown(table.caption), ""]
        lines += [to_markdown(table)]
    return "\n".join(lines)


def _asset(name: str) -> bytes:
    return (files("clipgap.report") / "assets" / name).read_bytes()


def _environment() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependency(
            "a page needs jinja2: pip install 'clipgap[report]', or give --format md or json"
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
    """How much of the row's own rows the column shares, as a class of ten steps."""
    if not table.name.startswith("overlap"):
        return ""
    diagonal = row[1 + table.rows.index(row)].value
    if not isinstance(cell.value, int) or not isinstance(diagonal, int) or not diagonal:
        return ""
    return f"heat-{round(10 * cell.value / diagonal)}"


def _sort_key(cell: Cell, column: Column) -> str:
    """What a column is sorted by: numbers in full, not as shown."""
    value = cell.value if cell.value is not None else cell.paper
    return "" if value is None else str(value) if column.kind == "text" else repr(value)
