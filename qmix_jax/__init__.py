"""QMIX and its family of value-decomposition methods, trained end to end in JAX."""

__version__ = "0.1.0"
