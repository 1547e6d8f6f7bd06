"""What is written to disk, and how: schemas and atomic files."""
