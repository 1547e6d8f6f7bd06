"""Files: volumes, names, atomic writes, documents."""
