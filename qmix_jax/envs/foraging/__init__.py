"""jumanji's Level-Based Foraging."""
