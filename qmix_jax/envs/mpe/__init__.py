"""JaxMARL's cooperative particle worlds (Lowe et al. 2017)."""
