"""From images to a store of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipgap.clip.embed.options import EmbedOptions
from clipgap.clip.embed.plan import EmbedPlan, plan_embed
from clipgap.clip.embed.run import EmbedResult, Progress, run
from clipgap.options import takes_options
from clipgap.runs.old_how import How


@takes_options
def embed(
    data: str | Path | Sequence[str | Path],
    model: str,
    pretrained: str | None = None,
    *,
    out: str | Path,
    options: EmbedOptions,
    how: How[Progress],
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
    return run_embed(plan_embed(data, model, pretrained, options=options), out, how=how)


@takes_options
def run_embed(plan: EmbedPlan, out: str | Path, *, how: How[Progress]) -> EmbedResult:
    """Carry out what `plan_embed` has planned; see `embed`."""
    return run(plan, Path(out), how)
