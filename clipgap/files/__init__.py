"""Files of every kind, and the suspicion they are read with.

Volumes and names, atomic writes, documents that carry their checksum, parquet tables whose bytes
follow from their rows, logs of lines, identities of inputs.
"""
