"""Exact scans of training stores against test sets, from files to tables.

A plan names what is compared; the pass reads blocks, scores them and writes tables as it goes.
"""
