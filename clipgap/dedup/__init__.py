"""SemDeDup, exactly: near duplicates found within clusters of a store, or across all of it."""

from clipgap.callable import make_callable

make_callable(__name__)
