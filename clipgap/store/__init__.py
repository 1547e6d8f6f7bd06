"""Stores: shards of embeddings with their keys, in every format that is in use.

One file a format; what is read is checked against the sums that are known.
"""
