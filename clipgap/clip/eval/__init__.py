"""Evaluation: checkpoints on sets, with what they made of each sample."""
