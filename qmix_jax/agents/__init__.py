"""The networks that act."""
