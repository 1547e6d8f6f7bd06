"""webdataset shards: read strictly, filtered byte for byte, merged."""
