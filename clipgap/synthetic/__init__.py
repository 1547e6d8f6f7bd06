"""Data made on the spot: rows for benchmarks, and drawn worlds for studies without downloads.

The same arguments give the same bytes everywhere.
"""
