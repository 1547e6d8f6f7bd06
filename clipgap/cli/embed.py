"""`clipgap embed`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Dealt, Tolerance, command, output, required
from clipgap.cli.shell import Shell
from clipgap.clip.embed.options import EmbedOptions
from clipgap.errors import QUARANTINED
from clipgap.options import REQUIRED, argument, option

if TYPE_CHECKING:
    from clipgap.clip.embed.api import EmbedPlan, EmbedResult

_STOPPING = "Stopping after the batch at hand; finished shards are kept."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(
        app,
        "embed",
        "'laion/{00000..00127}.tar' --model ViT-B-32 --pretrained openai -o store",
    )(embed)


def embed(
    shell: Shell,
    options: EmbedOptions,
    tolerance: Tolerance,
    running: Dealt,
    data: str = argument(
        "webdataset .tar files: a folder, glob, {00000..01023} pattern, a::b join or URL; the same "
        "of parquet with a column of images; or a folder of images, flat or with subfolders.",
        metavar="DATA",
    ),
    model: str = option(
        REQUIRED,
        "A model of open_clip by name, its configuration as a .json file, hf-hub:REPO, timm:NAME, "
        "torchvision:NAME, FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION that makes a network, or a "
        "TorchScript FILE.pt.",
        metavar="MODEL",
    ),
    pretrained: str | None = option(
        None,
        "A tag of the library's, or a checkpoint file; '' for random weights. Needed, unless the "
        "model brings its own.",
        metavar="WEIGHTS",
        shown=False,
    ),
    out: Path | None = output("STORE"),
) -> int:
    """Embed images into a store.

    Each tar file, or table with images in its rows, becomes a shard of the store with its name,
    each sample a row with its key. The images of a folder come in the order of their paths, which
    are their keys. What cannot be decoded is set aside and listed in quarantine.parquet.
    """
    from clipgap.clip.embed.api import embed as run
    from clipgap.clip.embed.api import plan_embed

    if running.dry_run:
        described = _described(plan_embed(data, model, pretrained, options=options))
        shell.result(described, _describe_plan(described))
        return 0
    out = required(out)
    with shell.watch(out, _STOPPING) as watch:
        result = run(
            data,
            model,
            pretrained,
            options=options,
            out=out,
            how=running.how(watch),
        )
    shell.result(_outcome(result), _describe_outcome(result))
    return QUARANTINED if result.problems > tolerance.allow_bad else 0


def _described(plan: EmbedPlan) -> dict[str, Any]:
    return {
        "shards": len(plan.units),
        "bytes": plan.bytes,
        "images": plan.images,
        "model": plan.identity,
        "settings": plan.settings,
        "workers": plan.devices,
    }


def _describe_plan(plan: dict[str, Any]) -> Iterator[str]:
    images = "" if plan["images"] is None else f"{words.plural(plan['images'], 'image')} in "
    yield f"{images}{words.plural(plan['shards'], 'shard')}, {words.size(plan['bytes'])}"
    weights = plan["model"]["pretrained"] or "its own or random weights"
    yield f"model {plan['model']['model']}, {weights}, {plan['settings']['precision']}"
    yield f"{words.plural(len(plan['workers']), 'worker')}: {', '.join(plan['workers'])}"
    yield "nothing is written with --dry-run"


def _outcome(result: EmbedResult) -> dict[str, Any]:
    return {
        "path": result.path,
        "already_complete": result.already_complete,
        "dim": result.manifest["dim"],
        **result.manifest["counts"],
    }


def _describe_outcome(result: EmbedResult) -> Iterator[str]:
    counts = result.manifest["counts"]
    if result.already_complete:
        yield words.complete(result.path)
    yield (
        f"{result.path}: {words.plural(counts['images'], 'image')} in "
        f"{words.plural(counts['shards'], 'shard')}, {result.manifest['dim']:,} dimensions"
    )
    if counts["without_caption"]:
        yield f"{words.plural(counts['without_caption'], 'image')} without a caption"
    if counts["problems"]:
        yield f"{words.plural(counts['problems'], 'problem')} in quarantine: see quarantine.parquet"
