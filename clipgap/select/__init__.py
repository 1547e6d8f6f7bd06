"""From scans to keep-lists: which rows of a training store a split keeps."""
