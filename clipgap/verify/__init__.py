"""Proofs: whether what a folder holds is what its manifest says it was made from."""

from clipgap.callable import make_callable

make_callable(__name__)
