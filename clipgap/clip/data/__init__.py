"""The sets that clipgap knows: classes, prompts, labels, and what to check on disk."""
