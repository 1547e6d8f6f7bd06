"""Stores: shards of embeddings with their keys, in every format that is in use."""

from __future__ import annotations

from clipgap.store.base import ShardInfo, Store
from clipgap.store.opening import array_store, open_store
from clipgap.store.writer import StoreWriter

__all__ = ["ShardInfo", "Store", "StoreWriter", "array_store", "open_store"]
