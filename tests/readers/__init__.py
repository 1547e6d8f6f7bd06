"""Every reader of a file, ours and foreign, with a small file of each: one more is one entry.

`tests/test_fuzz.py` gives each a few spoilt files, `scripts/fuzz.py` as many as one likes.
"""

from __future__ import annotations

from tests.readers import documents, images, models, people, stores
from tests.readers.reader import Reader

READERS: list[Reader] = [
    *stores.READERS,
    *documents.READERS,
    *images.READERS,
    *models.READERS,
    *people.READERS,
]
"""A reader of each kind of file."""
