"""Studies: recipes of stages, each one clipgap command, run until all their outputs stand."""
