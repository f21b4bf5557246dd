"""Mixers, one file each, and their registry."""

import flax.linen as nn

from qmix_jax.config import AlgorithmConfig
from qmix_jax.mixers.iql import IQL
from qmix_jax.mixers.qmix import QMIX
from qmix_jax.mixers.vdn import VDN

MIXERS: dict[str, type[nn.Module]] = {
    "iql": IQL,
    "vdn": VDN,
    "qmix": QMIX,
}


def make_mixer(config: AlgorithmConfig) -> nn.Module:
    """The mixer of a config."""
    return MIXERS[config.name](**config.options)
