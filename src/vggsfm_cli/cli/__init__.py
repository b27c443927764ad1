"""The command line: the only place with typer and rich."""
