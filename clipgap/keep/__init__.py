"""Keep-lists."""
