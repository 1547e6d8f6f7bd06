"""Linear heads on embeddings: natural or not, rendition or not; their folder, and their scores.

Scores are exact, so a decision is the same on every machine.
"""
