"""How fast training is, part by part, and how its cost grows."""
