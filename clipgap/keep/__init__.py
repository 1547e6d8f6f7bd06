"""Keep-lists: which rows of a store a split keeps, with the certificates that prove them.

Written by select and dedup; read by shards, training and reports.
"""
