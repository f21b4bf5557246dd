"""jumanji's Connector under the TeamEnv contract."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.connector.layout import MOVES, PLANES, connector_layout
from qmix_jax.envs.connector.settings import ConnectorConfig
from qmix_jax.envs.jumanji_import import only_parts_of_jumanji
from qmix_jax.envs.layout import Layout
from qmix_jax.types import Observation, Outcome, TeamSpec

with only_parts_of_jumanji():
    from jumanji.environments.routing.connector import constants, generator
    from jumanji.environments.routing.connector import env as jumanji_env

GENERATORS = {"random_walk": generator.RandomWalkGenerator, "uniform": generator.UniformRandomGenerator}


class Connector(TeamEnv):
    """Connector-v3 (Bonnet et al. 2024): a team wires a board.

    Each agent moves its head over the grid to its own target and leaves a path that nobody can cross. An agent that
    reached its target stays there. Of agents that enter one cell, the last moves and the others stay. The episode
    terminates when no agent can move, and is truncated at the time limit.

    Each agent's observation is one-hot: (3, G, G) planes of its own head, target and path, and three more of all other
    agents'. The state holds each agent's own planes. The team's reward is the sum over the agents of jumanji's dense
    one: 1 for reaching the target, and -0.03 for every step that began without it.
    """

    painter = "qmix_jax.envs.connector.painter:paint_connector"

    def __init__(self, settings: ConnectorConfig):
        make_grid = GENERATORS[settings.generator](settings.grid_size, settings.num_agents)
        self._env = jumanji_env.Connector(make_grid, time_limit=settings.time_limit)
        self._grid_size, planes = settings.grid_size, len(PLANES) * settings.grid_size**2
        self.spec = TeamSpec(
            name=f"Connector {settings.grid_size}x{settings.grid_size}",
            agent_names=tuple(f"agent_{i}" for i in range(settings.num_agents)),
            obs_size=2 * planes,
            num_actions=len(MOVES),
            state_size=settings.num_agents * planes,
            episode_limit=settings.time_limit,
            idle_action=constants.NOOP,
            shortest_episode=max(1, settings.grid_size // 2),  # on average more than twice as long, of teams of three
        )

    def reset(self, key: jax.Array) -> tuple[Any, Observation]:
        """Draw heads and targets."""
        state: Any = self._env.reset(key)[0]
        return state, self._observation(state.grid)

    def step(self, key: jax.Array, state: Any, action: Int[Array, "N"]) -> tuple[Any, Observation, Outcome]:
        """All agents move at once."""
        del key
        state, timestep = self._env.step(state, action)
        observation = self._observation(state.grid)
        terminated = ~jnp.any(observation.available[:, 1:])
        truncated = (state.step_count >= self.spec.episode_limit) & ~terminated
        connected, ended = state.agents.connected, terminated | truncated
        metrics = {
            "connected": jnp.where(ended, jnp.mean(connected), 0.0),  # the share of the agents
            "win_rate": ended & jnp.all(connected),
        }
        return state, observation, Outcome(jnp.sum(timestep.reward), terminated, truncated, metrics)

    def _observation(self, grid: Int[Array, "G G"]) -> Observation:
        """All that is seen follows from the grid, whose numbers are 3 i + PATH, POSITION or TARGET of agent i."""
        agent = jnp.arange(self.spec.num_agents)[:, None, None]
        head, target, path = (
            grid == 3 * agent + kind for kind in (constants.POSITION, constants.TARGET, constants.PATH)
        )
        own = jnp.stack([head, target, path], axis=1)
        planes = jnp.concatenate([own, jnp.any(own, axis=0) & ~own], axis=1)
        free = jnp.pad((grid == constants.EMPTY) | target, ((0, 0), (1, 1), (1, 1)))
        beside = jnp.stack([free[:, :-2, 1:-1], free[:, 1:-1, 2:], free[:, 2:, 1:-1], free[:, 1:-1, :-2]], axis=1)
        can_move = jnp.any(head[:, None] & beside, axis=(2, 3)) & jnp.any(target, axis=(1, 2))[:, None]
        return Observation(
            agents=jnp.reshape(planes, (self.spec.num_agents, -1)).astype(jnp.float32),
            available=jnp.pad(can_move, ((0, 0), (1, 0)), constant_values=True),
            state=jnp.ravel(own).astype(jnp.float32),
        )

    def compress(self, state: Any, observation: Observation) -> Array:
        """The grid in small integers."""
        del observation
        return state.grid.astype(jnp.int8 if self.spec.num_agents <= 42 else jnp.int16)

    def decompress(self, compact: Array) -> Observation:
        """What is seen of the grid."""
        return self._observation(compact.astype(jnp.int32))

    def layout(self) -> Layout:
        """What observations and actions mean."""
        return connector_layout(self.spec.agent_names, self._grid_size)

    def scene(self, state: Any) -> dict[str, Any]:
        """Heads and targets by row and column, and which are connected."""
        agents = state.agents
        places = {"head": agents.position, "target": agents.target, "connected": agents.connected}
        return {**places, "grid_size": jnp.array(self._grid_size)}
