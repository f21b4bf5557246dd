"""SMAX: StarCraft-like battles against a heuristic enemy (Rutherford et al. 2023)."""
