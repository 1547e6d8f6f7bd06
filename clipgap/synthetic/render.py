"""Fill a folder with a rendered world: tar shards, class names, prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipgap import __version__
from clipgap.errors import InputError, ResumeError, UsageError
from clipgap.files.atomic import write_atomic
from clipgap.files.documents import MANIFEST
from clipgap.files.parquet import FileSum
from clipgap.options import takes_options
from clipgap.runs.old_how import refuse_both
from clipgap.runs.old_lock import only_writer
from clipgap.runs.old_output import OutputFolder, read_manifest
from clipgap.synthetic.options import RenderOptions
from clipgap.synthetic.samples import write_shards
from clipgap.synthetic.worlds import WORLDS, World

FORMAT = "clipgap-rendered"
NOUN = "folder of rendered images"
TEMPLATES = ("a photo of a {}", "a sketch of a {}", "a painting of a {}", "{}")
CLASSES_FILE, TEMPLATES_FILE = "classes.txt", "templates.txt"


@dataclass(frozen=True)
class Rendered:
    """What lies in the folder."""

    path: Path
    sets: dict[str, int]  # samples by name of the set
    classes: int
    planted: int
    already_complete: bool


@takes_options
def render(
    world: str,
    out: str | Path,
    *,
    options: RenderOptions,
    resume: bool = False,
    overwrite: bool = False,
    on_set: Callable[[str], None] = lambda name: None,
) -> Rendered:
    """Draw a world into OUT/SET/00000.tar …; the same arguments always give the same bytes.

    `classes` are its first so many; all of them by default.
    """
    if world not in WORLDS:
        raise UsageError(f"there is no world {world!r}; choose {' or '.join(WORLDS)}")
    refuse_both(resume, overwrite)
    drawn = WORLDS[world]()
    if options.classes is not None and not 2 <= options.classes <= len(drawn.names):
        raise UsageError(
            f"world {world!r} has 2 to {len(drawn.names)} classes, not {options.classes:,}"
        )
    drawn = drawn.first(options.classes or len(drawn.names))
    settings = {"world": world, **asdict(options), "classes": len(drawn.names)}
    folder = OutputFolder(Path(out), FORMAT, NOUN)
    with only_writer(folder.path):
        return _fill(folder, drawn, options, settings, resume, overwrite, on_set)


def _fill(
    folder: OutputFolder,
    drawn: World,
    options: RenderOptions,
    settings: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
    on_set: Callable[[str], None],
) -> Rendered:
    state = folder.state()
    if state != "empty" and not (resume or overwrite):
        raise folder.require_flag(state)
    if state == "finished" and resume:
        manifest = read_manifest(folder.path, FORMAT, NOUN, "")
        if manifest["settings"] != settings:
            raise ResumeError(
                f"{folder.path} was rendered with {manifest['settings']}, not {settings}. Name "
                "another folder, or replace it with --overwrite"
            )
        if not folder.damaged(_sums(manifest)):
            return _outcome(folder.path, manifest, True)
    if state != "empty":
        folder.remove()
    folder.start({"settings": settings})
    files: dict[str, FileSum] = {}
    counts: dict[str, int] = {}
    for name, samples in drawn.sets(options).items():
        on_set(name)
        files |= write_shards(folder.path / name, samples)
        counts[name] = len(samples)
    for name, lines in ((CLASSES_FILE, drawn.names), (TEMPLATES_FILE, TEMPLATES)):
        with write_atomic(folder.path / name) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        files[name] = FileSum.of(folder.path / name)
    manifest = {
        "format": FORMAT,
        "version": 1,
        "kind": "rendered",
        "settings": settings,
        "sets": counts,
        "classes": list(drawn.names),
        "versions": {"clipgap": __version__},
        "files": {name: asdict(entry) for name, entry in sorted(files.items())},
    }
    folder.finish(manifest)
    return _outcome(folder.path, manifest, False)


def _sums(manifest: dict[str, Any]) -> dict[str, FileSum]:
    try:
        return {name: FileSum(**entry) for name, entry in manifest["files"].items()}
    except (TypeError, KeyError) as error:
        raise InputError(f"{MANIFEST} of the rendered images is damaged: {error}") from error


def _outcome(path: Path, manifest: dict[str, Any], already: bool) -> Rendered:
    return Rendered(
        path=path,
        sets=manifest["sets"],
        classes=len(manifest["classes"]),
        planted=manifest["settings"]["planted"],
        already_complete=already,
    )
