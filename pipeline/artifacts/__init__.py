"""The files that one stage writes and another reads: a pydantic model per file, a module per writing stage."""
