"""A package of somebody else: an environment, a mixer, a network and a callback."""
