"""Finished runs: read back, compared, drawn."""
