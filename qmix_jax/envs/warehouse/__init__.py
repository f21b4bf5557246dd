"""jumanji's Robot Warehouse."""
