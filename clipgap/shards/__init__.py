"""webdataset shards: read strictly, filtered byte for byte, merged.

No archive is trusted: what another reader would not see is set aside and listed.
"""
