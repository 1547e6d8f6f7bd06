"""From images to a store of their embeddings."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from clipgap.clip.embed.plan import EmbedPlan, plan_embed
from clipgap.clip.embed.run import EmbedResult, OnProgress, run
from clipgap.runs.old_how import How


def embed(
    data: str | Path | Sequence[str | Path],
    model: str,
    pretrained: str | None = None,
    *,
    out: str | Path,
    captions: bool = False,
    batch_size: int = 256,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    resume: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> EmbedResult:
    """Embed the images of tar shards or of a folder into a store.

    Each tar file becomes a shard of the store with its name, each sample a row with its key; the
    images of a folder are rows in the order of their paths, which are their keys. `captions` adds
    a column with the text of each sample. Images that cannot be used are left out and listed in
    `quarantine.parquet`. When `stop` is set, the run ends with `Interrupted`, and `resume=True`
    goes on from the last finished shard.

    `workers` processes share the devices: by default one for each GPU, or one on the CPU. Their
    number does not change the result.
    """
    plan = plan_embed(
        data,
        model,
        pretrained,
        captions=captions,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
    )
    return run_embed(
        plan, out, resume=resume, overwrite=overwrite, on_progress=on_progress, stop=stop
    )


def run_embed(
    plan: EmbedPlan,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> EmbedResult:
    """Carry out what `plan_embed` has planned; see `embed`."""
    how = How(resume=resume, overwrite=overwrite, on_progress=on_progress, stop=stop)
    return run(plan, Path(out), how)
