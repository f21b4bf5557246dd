"""The fully centralised learner, without factorisation."""

from typing import ClassVar

from qmix_jax.mixers.vdn import VDN


class JointQ(VDN):
    """One agent in place of the team, which sees everything and chooses among all joint actions: deep Q-learning on the
    whole problem, and so the reference that no factorisation can beat given enough data. For small games: the
    network's output has A^N values (`qmix_jax.envs.wrappers.joint` makes the one agent and sets the limit). The sum
    over a single agent is its own value.
    """

    acts_jointly: ClassVar[bool] = True
