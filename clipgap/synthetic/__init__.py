"""Images made on the spot, for studies that need no downloads."""
