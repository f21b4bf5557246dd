"""jumanji's Connector (Bonnet et al. 2024)."""
