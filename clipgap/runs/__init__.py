"""The life of an output folder, units, progress."""
