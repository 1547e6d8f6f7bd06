"""Tables, figures and galleries from scans, splits and evaluations: a page opened from disk.

A section computes, tabulates and draws in one file; the page shows whatever there is.
"""
