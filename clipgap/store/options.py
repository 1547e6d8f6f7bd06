"""What is said of stores that meet."""

from __future__ import annotations

from dataclasses import dataclass

from clipgap.options import Options, option


@dataclass(frozen=True)
class Mixing(Options):
    """Whether stores of different models may meet."""

    mixed_models: bool = option(
        False, "Go on although the stores were embedded by different models."
    )
