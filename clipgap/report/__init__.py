"""Tables, figures and galleries from scans, splits and evaluations: a page opened from disk."""

from clipgap.callable import make_callable

make_callable(__name__)
