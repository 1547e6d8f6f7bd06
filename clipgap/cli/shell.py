"""How a command talks: results on stdout, everything else on stderr."""

from __future__ import annotations

import dataclasses
import enum
import json
import logging
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgap.cli import config, words
from clipgap.cli.consoles import printing, say, shown, stderr, stdout
from clipgap.cli.signals import stop_on_signals
from clipgap.files.addresses import public
from clipgap.files.settings import is_changed, settings_file

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.cli.progress import Display, Watch

LOG = logging.getLogger("clipgap")


def set_up_logging(verbose: int, quiet: bool) -> None:
    """Log to stderr: warnings by default, -v adds steps, -vv details, -q leaves errors."""
    LOG.handlers = [_ConsoleHandler()]
    LOG.propagate = False
    if quiet:
        LOG.setLevel(logging.ERROR)
    else:
        LOG.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG))


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {self.format(record)}")


@dataclasses.dataclass(frozen=True)
class Shell:
    """What a command knows about the call that started it."""

    app: Any  # all commands
    command: str
    json: bool
    quiet: bool
    config_file: Path | None
    settings: Mapping[str, Any]  # option name -> value, without those that only say how to run
    all_from_config: bool  # no setting was typed: the config file says it all
    is_share: bool  # whoever merges the shares saves the settings
    is_dry: bool

    @property
    def width(self) -> int | None:
        """Columns of the terminal that notes go to; None if they go to a file."""
        return stderr().width if stderr().is_terminal else None

    def note(self, text: str) -> None:
        """One line for a person, on stderr."""
        if not self.quiet:
            say(text)

    def result(self, data: Mapping[str, Any], lines: Iterable[RenderableType]) -> None:
        """The outcome: `data` as JSON, or `lines` for people."""
        with printing():
            if self.json:
                print(public(json.dumps(jsonable(data), indent=2, allow_nan=False)))
                return
            for line in lines:
                if isinstance(line, str):
                    breaks = isinstance(line, words.Sentence) and stdout().is_terminal
                    stdout().print(shown(line), soft_wrap=not breaks)
                else:
                    stdout().print(line)

    @contextmanager
    def progress(self) -> Iterator[Display]:
        """A display to be called with each `Progress`: a bar on a terminal, else plain lines."""
        from clipgap.cli.progress import make_display

        with make_display(stderr(), say, self.quiet) as display:
            yield display

    @contextmanager
    def watch(self, out: Path | None, stopping: str, notes: Path | None = None) -> Iterator[Watch]:
        """Show a run that signals can stop; save the settings as soon as it works.

        `stopping` is what a user who stops it shall know: what is finished first and what is kept.
        `notes` is the folder that the run keeps its notes in, if not `out`.
        """
        from clipgap.cli.progress import Watch

        if out is not None:
            self.check_settings_file(out)

        def begun() -> None:
            if out is not None:
                self.save_settings(out, notes)

        with self.progress() as display:
            watch = Watch(display, begun, self.call())
            with stop_on_signals(watch.stop, self.note, stopping):
                yield watch
        if out is not None and watch.last is None and not self.is_dry:
            self.mend_settings(out)

    def check_settings_file(self, out: Path) -> None:
        """Before any work: will `save_settings` be able to write?"""
        if not self._settings_are_at(out):
            config.check_replaceable(settings_file(out))

    def save_settings(self, out: Path, notes: Path | None = None) -> None:
        """Write the resolved configuration beside the output folder."""
        if not (self.is_share or self._settings_are_at(out)):
            config.save(settings_file(out), self.command, self.settings, notes or out)
            LOG.info("configuration saved as %s", settings_file(out))

    def mend_settings(self, out: Path) -> None:
        """Write those of a folder that is complete anew, if they are no longer as they were."""
        if is_changed(path := settings_file(out)):
            LOG.warning("%s was edited, or damaged; it is written anew", path)
            self.save_settings(out)

    def call(self) -> dict[str, str]:
        """This call as plain data, for `call_again`."""
        return {"command": self.command, "settings": config.content(self.settings)}

    def call_again(self, call: Mapping[str, str], *more: str) -> int:
        """Run a call that was noted, with more options."""
        common = ["--json"] * self.json + ["--quiet"] * self.quiet
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "settings.toml"
            path.write_text(call["settings"], encoding="utf-8", errors="surrogateescape")
            arguments = [*call["command"].split()[1:], f"--config={path}", *common, *more]
            outcome = self.app.main(arguments, prog_name="clipgap", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0

    def _settings_are_at(self, out: Path) -> bool:
        """Whether the file to be written is the very --config file, and nothing was added to it."""
        return (
            self.all_from_config
            and self.config_file is not None
            and self.config_file.resolve() == settings_file(out).resolve()
        )


def jsonable(value: Any) -> Any:
    """Dataclasses, paths, enums and NumPy numbers as JSON knows them; NaN and ±inf become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, enum.Enum):
        return jsonable(value.value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
