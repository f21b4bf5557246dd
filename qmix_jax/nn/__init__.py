"""Layers on plain arrays."""
