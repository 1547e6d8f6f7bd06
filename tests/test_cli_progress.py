"""What people see while a scan runs, and how numbers are worded."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from clipgap.cli import words
from clipgap.cli.progress import PlainLines, bar, make_display
from clipgap.runs.how import Progress


def at(done: int, **more: object) -> Progress:
    known = {
        "stage": "scanning",
        "done": done,
        "total": 1_000_000,
        "earlier": 100_000,
        "part": 3,
        "parts": 10,
        "seconds": 20.0,
        "figures": {"FLOP/s": 4e11, "survivors/row": 3.0, "refined/row": 1.5},
        "means": "cpu/avx2",
    }
    return Progress(**{**known, **more})  # type: ignore[arg-type]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_plain_line_has_every_figure() -> None:
    lines: list[str] = []
    clock = Clock()
    show = PlainLines(lines.append, clock)
    clock.now = 5.0
    show(at(300_000))
    assert lines == [
        "scanning: 30 %, 300,000 of 1,000,000 rows, shard 3 of 10, 10,000 rows/s, 400 GFLOP/s, "
        "3.0 survivors/row, 1.5 refined/row, cpu/avx2, 1 min 10 s left"
    ]


def test_plain_lines_come_ever_more_rarely() -> None:
    lines: list[str] = []
    clock = Clock()
    show = PlainLines(lines.append, clock)
    times = []
    for second in range(1, 4_001):
        clock.now = float(second)
        before = len(lines)
        show(at(300_000))
        if len(lines) > before:
            times.append(second)
    pauses = [later - earlier for earlier, later in zip([0, *times], times, strict=False)]
    assert min(pauses) == pauses[0] == 5
    assert max(pauses) == pauses[-1] == 60
    assert pauses == sorted(pauses)


def test_a_stage_without_rows_says_only_what_it_does() -> None:
    lines: list[str] = []
    clock = Clock()
    show = PlainLines(lines.append, clock)
    clock.now = 6.0
    show(Progress(stage="making data"))
    clock.now = 12.0
    show(Progress(stage="verifying", at="checksums"))
    assert lines == ["making data", "verifying checksums"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_bar_fits_and_loses_nothing(width: int) -> None:
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=False).print(bar(at(300_000)))
    lines = text.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    said = " ".join(" ".join(lines).split())
    for figure in ("scanning", "30 %", "1 min 10 s left", "400 GFLOP/s", "3.0 survivors/row"):
        assert figure in said


def test_a_bar_is_full_only_when_all_is_done() -> None:
    text = io.StringIO()
    Console(file=text, width=80).print(bar(at(999_999)))
    assert "99 %" in text.getvalue()


def test_more_than_was_expected() -> None:
    """A number of samples that was promised, or guessed from bytes, can be too low."""
    lines: list[str] = []
    clock = Clock()
    show = PlainLines(lines.append, clock)
    clock.now = 5.0
    show(Progress(stage="embedding", done=1_200, total=1_000, noun="images", seconds=60))
    assert lines == ["embedding: 1,200 images, 20 images/s"]


def test_a_terminal_gets_the_bar_and_it_goes_away() -> None:
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True, _environ={"TERM": "xterm"})
    with make_display(console, console.print, quiet=False) as show:
        show(at(300_000))
    assert "300,000 of 1,000,000 rows" in text.getvalue()
    assert "\x1b[2K" in text.getvalue(), "the bar's lines are erased at the end"


def test_notes_are_said_once_and_steps_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    logger = logging.getLogger("clipgap")
    logger.handlers, logger.propagate = [], True
    caplog.set_level(logging.INFO, "clipgap")
    with make_display(Console(file=io.StringIO()), said.append, quiet=False) as show:
        show(Progress(stage="reading headers", note="test set 'a' is not in the gap"))
        show(Progress(stage="reading headers", note="test set 'a' is not in the gap"))
        show(at(1))
        show(at(2))
        show(Progress(stage="keys", at="a"))
    assert said == ["test set 'a' is not in the gap"]
    assert caplog.messages == ["reading headers", "scanning with cpu/avx2", "keys a"]


def test_quiet_is_quiet() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True)
    with make_display(console, console.print, quiet=True) as show:
        show(at(300_000))
    assert text.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (59.6, "1 min 0 s"),
        (192, "3 min 12 s"),
        (7_320, "2 h 2 min"),
        (187_300, "2 d 4 h"),
        (float("inf"), "unknown"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (9_996, "10.0 kB"),
        (205_000_000, "205 MB"),
        (999_600, "1.00 MB"),
        (1.28e10, "12.8 GB"),
        (5e18, "5,000 PB"),
    ],
)
def test_sizes(value: float, said: str) -> None:
    assert words.size(value) == said


def test_other_words() -> None:
    assert words.rate(5.125e11) == "512 GFLOP/s"
    assert words.operations(8.1e16) == "81.0 Pflop"
    assert words.binary_size(512 << 10) == "512 KiB"
    assert words.binary_size(3 << 29) == "1.5 GiB"
    assert (words.plural(1, "row"), words.plural(1_234, "row")) == ("1 row", "1,234 rows")
