"""jumanji's Robot Warehouse under the TeamEnv contract."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.jumanji_import import only_parts_of_jumanji
from qmix_jax.envs.layout import Layout
from qmix_jax.envs.warehouse.layout import OWN, warehouse_layout
from qmix_jax.envs.warehouse.settings import MAPS, SIZES, WarehouseConfig
from qmix_jax.settings import ConfigError, nearest, require, shown
from qmix_jax.types import Observation, Outcome, TeamSpec

with only_parts_of_jumanji():
    from jumanji.environments.routing.robot_warehouse.env import RobotWarehouse
    from jumanji.environments.routing.robot_warehouse.generator import RandomGenerator

SHELVES, ROBOTS = 0, 1
"""Channels of jumanji's grid, which hold a shelf's or robot's number plus one."""
NUM_ACTIONS, IDLE = 5, 0


class _Lean(RobotWarehouse):
    """jumanji's warehouse with the same observations, all cells at once instead of one after the other.

    They differ only after a collision, where jumanji shifts the numbers of robots that share a cell.
    """

    def _make_observations(self, grid: Any, agents: Any, shelves: Any) -> Any:
        reach, row, column = self.sensor_range, agents.position.x, agents.position.y
        side = np.arange(2 * reach + 1)
        padded = jnp.pad(grid, ((0, 0), (reach, reach), (reach, reach)))
        seen = padded[:, row[:, None, None] + side[:, None], column[:, None, None] + side]  # (2, N, side, side)
        shelf, robot = seen.reshape(2, len(row), -1)
        robot = jnp.delete(robot, robot.shape[1] // 2, axis=1, assume_unique_indices=True)  # but for itself
        facing = jax.nn.one_hot(agents.direction, 4, dtype=int)
        robots = [robot[..., None] > 0, jnp.pad(facing, ((1, 0), (0, 0)))[robot]]
        stored = [shelf > 0, jnp.pad(shelves.is_requested, (1, 0))[shelf]]
        is_on_path = jnp.asarray(self.highways)[row, column]
        parts = [
            jnp.stack([row, column, agents.is_carrying], axis=1),
            facing,
            is_on_path[:, None],
            jnp.concatenate(robots, axis=2).reshape(len(row), -1),
            jnp.stack(stored, axis=2).reshape(len(row), -1),
        ]
        return jnp.concatenate(parts, axis=1).astype(int)


class CompactWarehouse(NamedTuple):
    """What replay keeps: a byte for each number, action and cell."""

    agents: Int[Array, "*batch N O"]
    """jumanji's integers."""
    available: Bool[Array, "*batch N A"]
    is_requested: Bool[Array, "*batch H W"]
    """The cells with a requested shelf."""


class Warehouse(TeamEnv):
    """Robot Warehouse (Papoudakis et al. 2021, Bonnet et al. 2024): robots fetch requested shelves.

    A robot moves forward, turns, and picks up or puts down the shelf at its cell; it passes below shelves unless it
    carries one. The team gets 1 when a requested shelf is at a goal, and another shelf is requested instead. Shelves
    are put down anywhere but on the paths; a carrying robot off the paths that does nothing puts its shelf down, too.
    Robots that meet in a cell collide, which terminates the episode; so does a robot that enters a cell in the step in
    which one with a larger number leaves it. The time limit truncates the episode. The rules are jumanji's.

    A robot sees its own position, load and direction, and robots and shelves in the cells around it. Here, unlike
    there, its position is divided by the largest, and there is a global state: these own numbers of all robots, and the
    cells with requested shelves.
    """

    painter = "qmix_jax.envs.warehouse.painter:paint_warehouse"

    def __init__(self, settings: WarehouseConfig):
        self._env = env = make_warehouse(settings)
        height, width = env.grid_size
        obs_size = int(env.num_obs_features)
        self._scale = np.concatenate([[height - 1, width - 1], np.ones(obs_size - 2)]).astype(np.float32)
        self.spec = TeamSpec(
            name=f"warehouse {settings.map}",
            agent_names=tuple(f"robot_{i}" for i in range(env.num_agents)),
            obs_size=obs_size,
            num_actions=NUM_ACTIONS,
            state_size=env.num_agents * len(OWN) + height * width,
            episode_limit=settings.time_limit,
            idle_action=IDLE,
            shortest_episode=6,  # a collision can come at once, but of random teams' no four in a row took fewer each
        )

    def reset(self, key: jax.Array) -> tuple[Any, Observation]:
        """Place robots anywhere and request shelves."""
        state, timestep = self._env.reset(key)
        return state, self._observation(state, timestep)

    def step(self, key: jax.Array, state: Any, action: Int[Array, "N"]) -> tuple[Any, Observation, Outcome]:
        """Robots act one after the other. jumanji's one ending is a collision, or else the time limit."""
        state, timestep = self._env.step(state.replace(key=key), action)
        place = state.agents.position
        collided = jnp.any(state.grid[ROBOTS, place.x, place.y] != jnp.arange(self.spec.num_agents) + 1)
        outcome = Outcome(
            reward=timestep.reward,
            terminated=collided,
            truncated=timestep.last() & ~collided,
            metrics={"deliveries": timestep.reward, "collision_rate": collided},
        )
        return state, self._observation(state, timestep), outcome

    def _observation(self, state: Any, timestep: Any) -> Observation:
        seen = timestep.observation
        return self.decompress(CompactWarehouse(seen.agents_view, seen.action_mask, self._requested(state)))

    def _requested(self, state: Any) -> Bool[Array, "H W"]:
        place = state.shelves.position
        return jnp.zeros(self._env.grid_size, bool).at[place.x, place.y].set(state.shelves.is_requested > 0)

    def compress(self, state: Any, observation: Observation) -> CompactWarehouse:
        """jumanji's integers and the cells, in a byte each; integers in two where a floor has more rows or columns than
        a byte holds.
        """
        dtype = jnp.int8 if max(self._env.grid_size) <= 128 else jnp.int16
        agents = jnp.round(observation.agents * self._scale).astype(dtype)
        return CompactWarehouse(agents, observation.available, self._requested(state))

    def decompress(self, compact: CompactWarehouse) -> Observation:
        """The scaled observation, and the state."""
        agents = compact.agents / self._scale
        state = jnp.concatenate([agents[:, : len(OWN)].ravel(), compact.is_requested.ravel()])
        return Observation(agents, compact.available, state)

    def layout(self) -> Layout:
        """What observations, state and actions mean."""
        return warehouse_layout(self.spec.agent_names, self._env.sensor_range, self._env.grid_size)

    def scene(self, state: Any) -> dict[str, Any]:
        """Cells of robots, shelves and goals; directions, loads and requests; where the paths are."""
        robots, shelves = state.agents, state.shelves
        return {
            "robot": jnp.stack(robots.position, axis=-1),
            "direction": robots.direction,
            "is_carrying": robots.is_carrying > 0,
            "shelf": jnp.stack(shelves.position, axis=-1),
            "is_requested": shelves.is_requested > 0,
            "goal": jnp.asarray(self._env.goals)[:, ::-1],
            "is_path": jnp.asarray(self._env.highways, bool),
        }


class Task(NamedTuple):
    """What the name of a task says."""

    rows: int
    """Rows of shelf clusters."""
    columns: int
    column_height: int
    num_robots: int
    num_requests: int


def task_of(name: str) -> Task:
    """The task of a name such as tiny-2ag-easy."""
    match = re.fullmatch(rf"({'|'.join(SIZES)}|[1-9]x[1-9])-([1-9]\d?)ag(-easy|-hard)?", name)
    if match is None:
        hint = nearest(name, MAPS) or "; write it as tiny-2ag, tiny-2ag-easy or 1x3-2ag-hard"
        raise ConfigError(f"env.map={shown(name)} is not known{hint}")
    rows, columns, height = SIZES.get(match[1]) or (int(match[1][0]), int(match[1][2]), 8)
    require(columns % 2 == 1, f"env.map={name}: the number of columns must be odd, such as {rows}x{columns + 1}")
    robots = int(match[2])
    return Task(
        rows, columns, height, robots, {None: robots, "-easy": 2 * robots, "-hard": max(1, robots // 2)}[match[3]]
    )


def make_warehouse(settings: WarehouseConfig) -> Any:
    """jumanji's `RobotWarehouse`, with the same observations faster."""
    rows, columns, height, robots, requests = task_of(settings.map)
    height, requests = settings.column_height or height, settings.requests or requests
    generator: Any = RandomGenerator(rows, columns, height, robots, settings.sensor_range, requests)
    shelves = len(generator.shelf_ids)
    require(
        requests < shelves, f"env.requests={requests} must be less than the {shelves} shelves of env.map={settings.map}"
    )
    return _Lean(generator, settings.time_limit)
