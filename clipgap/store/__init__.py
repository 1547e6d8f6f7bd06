"""Stores: shards of embeddings with their keys, in every format that is in use."""
