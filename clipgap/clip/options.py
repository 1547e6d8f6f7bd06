"""What every command that runs a model can be told."""

from __future__ import annotations

PRECISIONS = ("fp32", "amp", "bf16", "fp16")
