"""SemDeDup, exactly: near duplicates found within clusters of a store, or across all of it.

Clusters by the scan kernel, pairs by the pair kernel, a keep-list for each epsilon.
"""
