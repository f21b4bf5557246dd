"""JaxMARL's robots that drive to their goals among walls (Rutherford et al. 2024)."""
