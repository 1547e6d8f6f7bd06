"""Studies: recipes of stages, each one clipgap command, run until all their outputs stand.

Knows of commands only what the command line says of itself.
"""
