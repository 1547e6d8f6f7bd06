"""The pages: findings, tables and figures put into templates that escape everything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from itertools import chain
from typing import Any

from clipgap.errors import MissingDependency
from clipgap.packages import installation
from clipgap.report.contents import shown_sections
from clipgap.report.parts import Figure, Files, Findings, Part, Section
from clipgap.report.pictures import data_of
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
from clipgap.version import __version__

Write = Callable[[str, bytes], None]
_STYLES = ("chart.css", "style.css")
_SCRIPTS = ("page.js", "gallery.js", "thresholds.js")
_TYPES = {
    "csv": "text/csv",
    "json": "application/json",
    "svg": "image/svg+xml",
    "tex": "application/x-tex",
    "toml": "application/toml",
}


@dataclass(frozen=True)
class View:
    """What one looks at: a page of its own, or a part of the single one."""

    name: str
    template: str
    is_wide: bool = False
    split: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Pages:
    """All views of a report, and the files that they offer."""

    findings: Findings
    gallery: Mapping[str, Any]

    @cached_property
    def sections(self) -> list[tuple[Section, list[Part]]]:
        return shown_sections(self.findings)

    @property
    def views(self) -> Iterator[View]:
        yield View("index", "index.html")
        if self.gallery["sets"]:
            yield View("gallery", "gallery.html", is_wide=True)
        if self.gallery.get("thresholds"):
            yield View("thresholds", "thresholds.html", is_wide=True)
        for n, split in enumerate(self.findings["splits"], 1):
            yield View(f"split-{n}", "split.html", split=split)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """What can be downloaded, by the names that links have for it."""
        style = _asset("chart.css").decode()
        for part in chain.from_iterable(parts for _, parts in self.sections):
            if isinstance(part, Table):
                yield f"tables/{part.name}.csv", to_csv(part).encode()
                yield f"tables/{part.name}.tex", to_latex(part).encode()
            elif isinstance(part, Figure):
                for drawing in part.drawings:
                    yield f"figures/{part.file(drawing)}", drawing.render(style).encode()
            elif isinstance(part, Files):
                for file in part.files:
                    yield f"{part.name}/{file.name}", file.text.encode()

    def render(self, views: Sequence[View], **values: Any) -> bytes:
        """A page with these views."""
        known = {view.name for view in self.views}
        names = [split["name"] for split in self.findings["splits"]]
        text = (
            _environment()
            .get_template("base.html")
            .render(
                findings=self.findings,
                views=views,
                opening=[part for one, parts in self.sections if not one.title for part in parts],
                sections=[each for each in self.sections if each[0].title],
                has_gallery="gallery" in known,
                has_thresholds="thresholds" in known,
                split_views={name: f"split-{n}" for n, name in enumerate(names, 1)},
                **values,
            )
        )
        return text.encode()  # type: ignore[no-any-return]


def write_pages(findings: Findings, gallery: Mapping[str, Any], write: Write) -> None:
    """index.html, a page a split, the gallery's page, and what they load."""
    pages = Pages(findings, gallery)
    for name in (*_STYLES, *_SCRIPTS):
        write(f"assets/{name}", _asset(name))
    for name, content in pages.files():
        write(name, content)
    for view in pages.views:
        page = pages.render(
            [view], link=lambda name: f"{name}.html", file=lambda name: name, inlined=None
        )
        write(f"{view.name}.html", page)


def single_page(
    findings: Findings, gallery: Mapping[str, Any], data: Mapping[str, bytes], numbers: bytes
) -> bytes:
    """All of it in one file, which loads nothing; its policy names the scripts in it by their sums.

    `data` are the files that the gallery's page would load, `numbers` is `report.json`.
    """
    pages = Pages(findings, gallery)
    files = {**dict(pages.files()), "report.json": numbers}
    styles = "".join(_asset(name).decode() for name in _STYLES)
    scripts = [_asset(name).decode() for name in _SCRIPTS]
    return pages.render(
        list(pages.views),
        link=lambda name: f"#{name}",
        file=lambda name: _address(name, files[name]),
        inlined={
            "styles": _markup(styles),
            "scripts": [_markup(script) for script in scripts],
            "style_sums": _sums([styles]),
            "script_sums": _sums(scripts),
            "data": {name: _markup(data_of(name, content)) for name, content in data.items()},
        },
    )


def audit_page(rows: int) -> Iterator[tuple[str, bytes]]:
    """The page on which an audit is labelled, and what it looks like."""
    for name in ("style.css", "page.js", "audit.js"):
        yield f"assets/{name}", _asset(name)
    text = _environment().get_template("audit.html").render(rows=rows, version=__version__)
    yield "index.html", text.encode()


def _sums(texts: Sequence[str]) -> str:
    """What a policy calls texts that may stand in a page."""
    sums = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in sums)


def _address(name: str, content: bytes) -> str:
    """A file as an address that holds it."""
    kind = _TYPES[name.rpartition(".")[2]]
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _markup(text: str) -> Any:
    """Ours, or escaped already."""
    from markupsafe import Markup

    return Markup(text)


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
    return _markup(figure.drawings[number].render())


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
