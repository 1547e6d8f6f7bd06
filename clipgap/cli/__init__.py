"""The command line: Typer and what people see, no logic."""
