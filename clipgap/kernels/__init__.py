"""Scanners: exact scores of rows against test sets, on CPUs and GPUs, and the oracle in NumPy.

Nothing here reads or writes a file of a user.
"""
