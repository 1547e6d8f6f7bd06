"""From scans to keep-lists: which rows of a training store a split keeps.

Rules of exact size over the columns of scans, set algebra of keep-lists, labels.
"""
