"""What people see while a scan runs, and how numbers are worded."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import clipgap
from clipgap.cli import emulate, words
from clipgap.cli.doctor import _describe_built
from clipgap.cli.domains import _table
from clipgap.cli.progress import PlainLines, bar, make_display
from clipgap.cli.shell import Shell, set_up_logging
from clipgap.cli.split import _removed
from clipgap.heads.heads import POINTS
from clipgap.kernels.gpu.compiled import BuiltKernel
from clipgap.runs.how import Progress
from clipgap.sheets import Sheet
from clipgap.verify.emulate import Emulation, Shortfall


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


@pytest.mark.parametrize(
    ("verbose", "said"), [(0, ""), (1, "3.0 survivors/row, 1.5 refined/row, ")]
)
def test_a_plain_line_has_every_figure(verbose: int, said: str) -> None:
    """How hard the data are is for whoever asks with -v."""
    set_up_logging(verbose, quiet=False)
    lines: list[str] = []
    clock = Clock()
    show = PlainLines(lines.append, clock)
    clock.now = 5.0
    show(at(300_000))
    assert lines == [
        "scanning: 30 %, 300,000 of 1,000,000 rows, shard 3 of 10, 10,000 rows/s, 400 GFLOP/s, "
        f"{said}cpu/avx2, 1 min 10 s left"
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
    for figure in ("scanning", "30 %", "1 min 10 s left", "400 GFLOP/s", "cpu/avx2"):
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


# --- tables


def printed(width: int, *lines: Any) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width)
    for line in lines:
        console.print(line)
    assert all(len(line) <= width for line in text.getvalue().splitlines())
    return text.getvalue()


SETS = ["imagenet-sketch", "imagenet-rendition", "imagenet-val", "imagenet-v2", "objectnet", "a"]


def tables() -> dict[str, Any]:
    """Those of commands that grow with names and sets, as large as they get."""
    counts = {
        name: {
            "removed": 123_456_789,
            "by_no_other": 12_345_678,
            "also_by": dict.fromkeys(SETS, 1_234_567),
        }
        for name in SETS
    }
    short = [Shortfall(name, 123_456_789, 123_456_789, 1_234_567, 12_345, 678) for name in SETS]
    shares = ("precision", "precision_at_least", "precision_at_prevalence", "recall")
    head = {"accepted": 123_456, "wrong": 1_234, **dict.fromkeys(shares, 0.98765)}
    heads = {
        name: {"thresholds": dict.fromkeys(POINTS, -0.1234), "found": dict.fromkeys(POINTS, head)}
        for name in ("natural", "rendition")
    }
    kernel = BuiltKernel(
        "score_and_select_int8", "128x256x64", 90, 255, 232_448, 16, 2, 2, {"IMMA": 64}, [], False
    )
    return {
        "split": [_removed(counts, 400_000_000)],
        "emulate": [*emulate.describe(Emulation("float32", 20_000, tuple(short), short[0]))],
        "domains": [_table(heads)],
        "doctor": [*_describe_built([kernel])],
    }


@pytest.mark.parametrize("command", ["split", "emulate", "domains", "doctor"])
def test_tables_are_readable_at_80_columns(command: str) -> None:
    lines = tables()[command]
    wide = printed(1_000, *lines)
    assert sorted(set(wide.split()) - set(printed(80, *lines).split())) == []


def test_a_table_too_wide_becomes_lines() -> None:
    sheet = Sheet(("set", "by", "rows", "share"), words=2, title="Kept")
    sheet.add("x" * 30, "strict", "1,234", "")
    sheet.add("", "truly", "5", "1 %")
    assert printed(60, sheet).split("\n")[0].strip() == "Kept"
    narrow = printed(40, sheet).splitlines()
    said = [line.strip() for line in narrow]
    name = "x" * 30
    assert said == ["Kept", f"{name} · strict", "rows 1,234", "truly", "rows 5 · share 1 %"]


def test_every_table_is_made_by_the_one_that_fits() -> None:
    """Tables that rich lays out alone cut words; a bar's grid has one line."""
    root = Path(clipgap.__file__).parent
    users = {path.name for path in root.rglob("*.py") if "rich.table" in path.read_text()}
    assert users == {"sheets.py", "progress.py"}


@pytest.mark.parametrize(("terminal", "lines"), [(True, 3), (False, 1)])
def test_a_sentence_breaks_between_words_where_somebody_reads_it(
    terminal: bool, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command or a path never does: it is there to be copied."""
    text = io.StringIO()
    console = Console(file=text, width=20, force_terminal=terminal, _environ={"TERM": "xterm"})
    monkeypatch.setattr("clipgap.cli.shell.stdout", lambda: console)
    shell = Shell(None, "check", False, False, None, {}, False, False, False)
    path = "Open a/rather/long/path/to/index.html"
    shell.result({}, [words.Sentence("Of ten test images some leak, which is proved."), path])
    *said, last = text.getvalue().splitlines()
    assert len(said) == lines and " ".join(map(str.strip, said)).endswith("which is proved.")
    assert last == path
