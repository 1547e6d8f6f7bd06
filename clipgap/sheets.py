"""Tables for a screen of any width, and for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

_BETWEEN = 2
"""Spaces between columns."""


@dataclass
class Sheet:
    """A table for rich; where it would have to cut words, each row is some lines of its own."""

    columns: Sequence[str]
    words: int = 1  # columns at the left that hold words; the others hold figures
    title: str | None = None
    rows: list[tuple[Sequence[str], str | None]] = field(default_factory=list)

    def add(self, *cells: str, style: str | None = None) -> None:
        """A row; what is missing at its end is empty."""
        missing = len(self.columns) - len(cells)
        self.rows.append(((*cells, *[""] * missing), style))

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        from rich.table import Table

        widths = self._widths(options.max_width)
        if widths is None:
            yield from self._row_by_row()
            return
        table = Table(title=self.title, title_justify="left", box=None, pad_edge=False)
        for number, (name, width) in enumerate(zip(self.columns, widths, strict=True)):
            table.add_column(name, justify="left" if number < self.words else "right", width=width)
        for cells, style in self.rows:
            table.add_row(*cells, style=style)
        yield table

    def _widths(self, room: int) -> list[int] | None:
        """A width for each column that no word is wider than; None if there are none.

        Rich would shrink the widest columns, whatever is in them.
        """
        from rich.cells import cell_len

        columns = list(zip(self.columns, *(cells for cells, _ in self.rows), strict=True))
        widths = [
            max(cell_len(word) for text in of for word in text.split() or [""]) for of in columns
        ]
        wanted = [max(map(cell_len, of)) - width for of, width in zip(columns, widths, strict=True)]
        spare = room - sum(widths) - _BETWEEN * (len(widths) - 1)
        if spare < 0:
            return None
        # Whoever wants least is served first, and nobody gets more than a fair share of the rest.
        for served, column in enumerate(sorted(range(len(widths)), key=wanted.__getitem__)):
            more = min(wanted[column], spare // (len(widths) - served))
            widths[column] += more
            spare -= more
        return widths

    def _row_by_row(self) -> Iterator[RenderableType]:
        from rich.padding import Padding
        from rich.text import Text

        if self.title:
            yield Text(self.title, style="italic")
        for cells, style in self.rows:
            yield Text(" · ".join(filter(None, cells[: self.words])), style=style or "bold")
            figures = zip(self.columns[self.words :], cells[self.words :], strict=True)
            yield Padding(" · ".join(f"{name} {cell}" for name, cell in figures if cell), (0, 2))


def html(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in a notebook, below what it is about."""
    head, *body = (
        "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
        for tag, row in [("th", columns), *(("td", row) for row in rows)]
    )
    lines = "".join(f"<tr>{line}</tr>" for line in body)
    return (
        f"<p>{escape(title)}</p><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    )
