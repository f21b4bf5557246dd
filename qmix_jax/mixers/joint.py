"""The fully centralised learner, without factorisation."""

from typing import ClassVar

from qmix_jax.mixers.vdn import VDN


class JointQ(VDN):
    """The team as one agent that chooses among all joint actions: the upper reference on small games.

    Deep Q-learning on the whole problem, which no factorisation can beat given enough data. The network's output has
    A^N values (`qmix_jax.envs.wrappers.joint` makes the one agent and sets the limit). The sum over a single agent is
    its own value.
    """

    acts_jointly: ClassVar[bool] = True
