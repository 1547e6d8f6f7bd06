"""webdataset shards: read strictly, filtered byte for byte, merged.

No archive is trusted: what another reader would not see is set aside and listed. `finding` says
which tar files are meant, `matching` which of their samples a keep-list keeps, `samples` reads
them, and `api` copies what is kept, a unit of `work` for each shard of its `plan`.
"""
