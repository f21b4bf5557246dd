"""Tools to paint films and figures of episodes; know no environment."""
