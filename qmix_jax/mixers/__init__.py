"""Mixers, one file each, and their registry."""

from qmix_jax.mixers.base import Mixer
from qmix_jax.mixers.iql import IQL
from qmix_jax.mixers.joint import JointQ
from qmix_jax.mixers.qatten import Qatten
from qmix_jax.mixers.qmix import QMIX
from qmix_jax.mixers.qplex import QPLEX, QPLEXQatten
from qmix_jax.mixers.qtran import QTRAN
from qmix_jax.mixers.shaq import SHAQ
from qmix_jax.mixers.transfqmix import TransfQMix
from qmix_jax.mixers.vdn import VDN
from qmix_jax.mixers.weighted import CWQMIX, OWQMIX

MIXERS: dict[str, type[Mixer]] = {
    "iql": IQL,
    "vdn": VDN,
    "qmix": QMIX,
    "qplex": QPLEX,
    "qplex_qatten": QPLEXQatten,
    "qatten": Qatten,
    "qtran": QTRAN,
    "cw_qmix": CWQMIX,
    "ow_qmix": OWQMIX,
    "shaq": SHAQ,
    "transfqmix": TransfQMix,
    "joint": JointQ,
}
