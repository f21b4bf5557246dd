"""One agent's network as its team's compiled program, for `DecentralisedAgent(..., network=CompiledNetwork)`.

This file needs JAX (and flatbuffers) and imports nothing of qmix_jax; `qmix-jax export` copies it beside a team whose
network is not the GRU:

    from compiled_network import CompiledNetwork
    from deployed_agent import DecentralisedAgent

    agent = DecentralisedAgent("team", agent="ally_0", network=CompiledNetwork)

The program computes the whole team's step. An agent alone gives it zeros in place of what the others observe, and reads
its own row, which does not depend on them (the export checked it).
"""

import jax
import numpy as np
from jax import export


class CompiledNetwork:
    """The network of the agent in place `index` of the team.

    Args:
        program: the bytes of policy.jaxexport. They are executed: load only what you trust.
        index: the agent's place in the contract's list of agents, from 0.
    """

    def __init__(self, program: bytes, index: int):
        exported = export.deserialize(bytearray(program))
        shapes = [(*(size if isinstance(size, int) else 1 for size in x.shape),) for x in exported.in_avals]
        inputs = [np.zeros(shape, x.dtype) for shape, x in zip(shapes, exported.in_avals, strict=True)]
        *self._initial, self._actions, self._first, self._observations, available = inputs
        self._available, self._index = np.ones_like(available), index
        self._call = jax.jit(exported.call)
        self.reset()
        self.step(self._observations[0, index], 0)  # compiles
        self.reset()

    def reset(self) -> None:
        """Start an episode."""
        self._state = self._initial
        self._first[:] = True

    def step(self, observation: np.ndarray, last_action: int) -> np.ndarray:
        """The Q-value (A,) of every action, from the agent's padded observation (O,) and its action before."""
        self._observations[0, self._index], self._actions[0, self._index] = observation, last_action
        team = (self._actions, self._first, self._observations, self._available)
        *self._state, q, _ = self._call(*self._state, *team)
        self._first[:] = False
        return np.asarray(q)[0, self._index]
