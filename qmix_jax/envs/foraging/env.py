"""jumanji's Level-Based Foraging under the TeamEnv contract."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.foraging.layout import foraging_layout
from qmix_jax.envs.foraging.settings import MAPS, ForagingConfig
from qmix_jax.envs.jumanji_import import only_parts_of_jumanji
from qmix_jax.envs.layout import Layout
from qmix_jax.settings import ConfigError, nearest, require, shown
from qmix_jax.types import Observation, Outcome, TeamSpec

with only_parts_of_jumanji():
    from jumanji.environments.routing.lbf.env import LevelBasedForaging
    from jumanji.environments.routing.lbf.generator import RandomGenerator

MAX_LEVEL = 2
"""Of an agent; food has the sum of three agents' levels at most."""
NUM_ACTIONS, IDLE = 6, 0


class CompactForaging(NamedTuple):
    """What replay keeps: a byte for each number and each action."""

    agents: Int[Array, "*batch N O"]
    """jumanji's integers."""
    available: Bool[Array, "*batch N A"]


class Foraging(TeamEnv):
    """Level-Based Foraging (Papoudakis et al. 2021, Bonnet et al. 2024): agents on a grid eat food together.

    Agents and food have levels. A food is eaten when agents beside it (no diagonals) whose levels sum to its own or
    more choose to load it in the same step. The team's reward is the food's share of all levels: jumanji's, which it
    splits among the agents, summed; so the return is 1 at most. The episode terminates when all food is eaten, and then
    it is won; the time limit truncates it.

    An agent sees food, itself and the others, each by row, column and level, as far as its sight reaches: (-1, -1, 0)
    where it does not, and where food is eaten. Here, unlike there, positions and levels are divided by the largest.
    """

    painter = "qmix_jax.envs.foraging.painter:paint_foraging"

    def __init__(self, settings: ForagingConfig):
        size, num_agents, num_food, sight, is_coop = task_of(settings.map)
        generator = RandomGenerator(size, num_agents, num_food, sight, MAX_LEVEL, is_coop)
        self._env: Any = LevelBasedForaging(generator, time_limit=settings.time_limit)
        most = MAX_LEVEL * min(3, num_agents)
        self._scale = np.tile(np.array([size - 1, size - 1, most], np.float32), num_food + num_agents)
        self.spec = TeamSpec(
            name=f"foraging {settings.map}",
            agent_names=tuple(f"agent_{i}" for i in range(num_agents)),
            obs_size=len(self._scale),
            num_actions=NUM_ACTIONS,
            state_size=len(self._scale) * num_agents,
            episode_limit=settings.time_limit,
            idle_action=IDLE,
            shortest_episode=4,  # of a trained team's 3,000 one took 1 step, but no three in a row fewer than 5 each
        )

    def reset(self, key: jax.Array) -> tuple[Any, Observation]:
        """Place food and agents."""
        state, timestep = self._env.reset(key)
        return state, self.decompress(_compact(timestep.observation))

    def step(self, key: jax.Array, state: Any, action: Int[Array, "N"]) -> tuple[Any, Observation, Outcome]:
        """All move at once; agents that would meet in a cell stay where they are. Then loaded food is eaten."""
        del key  # nothing is random
        eaten = state.food_items.eaten
        state, timestep = self._env.step(state, action)
        won = jnp.all(state.food_items.eaten)
        share = jnp.mean(state.food_items.eaten & ~eaten, dtype=jnp.float32)
        outcome = Outcome(
            reward=jnp.sum(timestep.reward),
            terminated=won,
            truncated=timestep.last() & ~won,
            metrics={"food_share": share, "win_rate": won},
        )
        return state, self.decompress(_compact(timestep.observation)), outcome

    def compress(self, state: Any, observation: Observation) -> CompactForaging:
        """jumanji's integers in a byte each."""
        del state
        agents = jnp.round(observation.agents * self._scale).astype(jnp.int8)
        return CompactForaging(agents, observation.available)

    def decompress(self, compact: CompactForaging) -> Observation:
        """The scaled observation."""
        return Observation(compact.agents / self._scale, compact.available, state=None)

    def layout(self) -> Layout:
        """What observations and actions mean."""
        env = self._env
        return foraging_layout(self.spec.agent_names, env.num_food, 1 / (env.grid_size - 1))

    def scene(self, state: Any) -> dict[str, Any]:
        """Cells and levels of agents and food, which agents load, which food is eaten, and the size of the grid."""
        agents, food = state.agents, state.food_items
        return {
            "agent": agents.position,
            "agent_level": agents.level,
            "is_loading": agents.loading,
            "food": food.position,
            "food_level": food.level,
            "is_eaten": food.eaten,
            "size": jnp.array(self._env.grid_size),
        }


class Task(NamedTuple):
    """What the name of a task says."""

    size: int
    num_agents: int
    num_food: int
    sight: int
    is_coop: bool


def task_of(name: str) -> Task:
    """The task of a name such as 2s-8x8-2p-2f-coop."""
    match = re.fullmatch(r"(?:([1-9]\d?)s-)?([1-9]\d?)x([1-9]\d?)-([1-9]\d?)p-([1-9]\d?)f(-coop)?", name)
    if match is None:
        hint = nearest(name, MAPS) or "; write it as 8x8-2p-2f, 2s-8x8-2p-2f or 8x8-2p-2f-coop"
        raise ConfigError(f"env.map={shown(name)} is not known{hint}")
    size, columns, num_agents, num_food = map(int, match.groups()[1:5])
    task = Task(size, num_agents, num_food, int(match[1] or size), bool(match[6]))
    require(size == columns, f"env.map={name}: the grid must be square, such as {size}x{size}")
    require(task.sight <= size, f"env.map={name}: agents cannot see farther than the {size} cells of the grid")
    has_room = size >= 5 and (size - 2) ** 2 - num_agents > 5 * num_food
    require(has_room, f"env.map={name}: too little room, since no two foods share an edge and none lies at the border")
    return task


def _compact(observation: Any) -> CompactForaging:
    return CompactForaging(observation.agents_view, observation.action_mask)
