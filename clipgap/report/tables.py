"""A table once, to be shown as HTML, CSV, LaTeX or Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

Kind = Literal["text", "count", "percent", "score", "points"]
"""How a column's numbers are written; "points" are differences of percentages."""

Value = str | int | float | None


@dataclass(frozen=True)
class Cell:
    """A value; perhaps with its interval, and what a paper has in its place."""

    value: Value
    low: float | None = None
    high: float | None = None
    paper: Value = None


@dataclass(frozen=True)
class Column:
    title: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns; the first column names the row."""

    name: str  # of its files
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    of_splits: bool = False  # rows called like a split lead to its page
    is_matrix: bool = False  # shaded: counts by their share of the diagonal, differences by sign
    macro: ClassVar[str] = "table"

    @property
    def is_empty(self) -> bool:
        return not self.rows

    def without_empty_columns(self) -> Table:
        """Of a table whose inputs were not all given: no column of dashes."""
        full = [
            number
            for number, _ in enumerate(self.columns)
            if any(
                (cell := row[number]).value is not None or cell.paper is not None
                for row in self.rows
            )
        ]
        return replace(
            self,
            columns=tuple(self.columns[number] for number in full),
            rows=tuple(tuple(row[number] for number in full) for row in self.rows),
        )

    def has_intervals(self, column: int) -> bool:
        return any(row[column].low is not None for row in self.rows)

    def has_paper(self, column: int) -> bool:
        return any(row[column].paper is not None for row in self.rows)


def shown(value: Value, kind: Kind) -> str:
    """A number as people read it."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if kind == "count":
        return f"{value:,}"
    if kind == "percent":
        return f"{100 * value:.2f}"
    if kind == "points":
        return minus(f"{100 * value:+.2f}")
    return f"{value:.4f}"


def minus(number: str) -> str:
    """A number with the sign that is as wide as a plus."""
    return number.replace("-", "−")


def beside(cell: Cell, kind: Kind) -> str:
    """What the paper has, and how far ours is from it."""
    text = f"paper {shown(cell.paper, kind)}"
    ours, theirs = cell.value, cell.paper
    if isinstance(ours, str) or isinstance(theirs, str) or ours is None or theirs is None:
        return text
    if kind == "count":
        return f"{text}, {minus(f'{(ours - theirs) / theirs:+.1%}')}" if theirs else text
    difference = f"{ours - theirs:+.4f}" if kind == "score" else f"{100 * (ours - theirs):+.2f}"
    return f"{text}, {minus(difference)}"


def unit(kind: Kind) -> str:
    return {"percent": "%", "points": "points"}.get(kind, "")


def to_csv(table: Table) -> str:
    """Values as they are, neither rounded nor scaled; intervals and papers have their columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head: list[str] = []
    for number, column in enumerate(table.columns):
        head.append(column.title)
        if table.has_intervals(number):
            head += [f"{column.title} low", f"{column.title} high"]
        if table.has_paper(number):
            head.append(f"{column.title} paper")
    writer.writerow(head)
    for row in table.rows:
        line: list[Value] = []
        for number, cell in enumerate(row):
            line.append(_harmless(cell.value))
            if table.has_intervals(number):
                line += [cell.low, cell.high]
            if table.has_paper(number):
                line.append(_harmless(cell.paper))
        writer.writerow(["" if value is None else value for value in line])
    return out.getvalue()


def to_latex(table: Table) -> str:
    """A booktabs table."""
    align = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    head = " & ".join(_latex(_title(column)) for column in table.columns)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(table.title)}. {_latex(table.caption)}}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        rf"{head} \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = zip(row, table.columns, strict=True)
        lines.append(" & ".join(_latex_cell(cell, column.kind) for cell, column in cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def to_markdown(table: Table) -> str:
    rules = ["---" if column.kind == "text" else "---:" for column in table.columns]
    titles = [escape_markdown(_title(column)) for column in table.columns]
    lines = [_markdown_row(titles), _markdown_row(rules)]
    for row in table.rows:
        cells = zip(row, table.columns, strict=True)
        lines.append(_markdown_row([_markdown_cell(cell, column.kind) for cell, column in cells]))
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """Text that no reader of Markdown takes for a mark or a tag."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*_[]|~":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


def _title(column: Column) -> str:
    return f"{column.title} ({unit(column.kind)})" if unit(column.kind) else column.title


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(cell: Cell, kind: Kind) -> str:
    text = escape_markdown(shown(cell.value, kind))
    if cell.low is not None and cell.high is not None:
        text += f" ({shown(cell.low, kind)}–{shown(cell.high, kind)})"
    return text if cell.paper is None else f"{text}; {beside(cell, kind)}"


def _latex_cell(cell: Cell, kind: Kind) -> str:
    text = _latex(shown(cell.value, kind)).replace(",", "{,}") if cell.value is not None else "--"
    if cell.low is not None and cell.high is not None:
        text += rf" {{\scriptsize [{shown(cell.low, kind)}, {shown(cell.high, kind)}]}}"
    if cell.paper is not None:
        text += rf" {{\scriptsize paper {_latex(shown(cell.paper, kind))}}}"
    return text


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "τ": r"$\tau$",
    "ρ": r"$\rho$",
    "≥": r"$\ge$",
    "−": "$-$",
    "–": "--",
    **{mark: "\\" + mark for mark in "&%$#_{}"},
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in " ".join(text.split()))


def _harmless(value: Value) -> Value:
    """Text that a spreadsheet does not take for a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value
