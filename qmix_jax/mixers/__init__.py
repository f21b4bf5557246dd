"""Mixers, one file each, and their registry. Importing this package does not import JAX."""

from typing import TYPE_CHECKING

from qmix_jax.registry import Registry

if TYPE_CHECKING:
    from qmix_jax.mixers.base import Mixer

MIXERS: "Registry[type[Mixer]]" = Registry(
    __name__,
    {
        "iql": "iql:IQL",
        "vdn": "vdn:VDN",
        "qmix": "qmix:QMIX",
        "qplex": "qplex:QPLEX",
        "qplex_qatten": "qplex:QPLEXQatten",
        "qatten": "qatten:Qatten",
        "qtran": "qtran:QTRAN",
        "cw_qmix": "weighted:CWQMIX",
        "ow_qmix": "weighted:OWQMIX",
        "shaq": "shaq:SHAQ",
        "transfqmix": "transfqmix:TransfQMix",
        "joint": "joint:JointQ",
    },
    setting="algorithm",
    contract="base:Mixer",
    group="qmix_jax.mixers",
)
