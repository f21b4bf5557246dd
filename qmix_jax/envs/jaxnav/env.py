"""JaxMARL's JaxNav with discrete actions under the TeamEnv contract."""

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.jaxmarl_import import only_parts_of_jaxmarl
from qmix_jax.envs.jaxnav.layout import jaxnav_layout
from qmix_jax.envs.jaxnav.settings import JaxNavConfig
from qmix_jax.envs.layout import Layout
from qmix_jax.settings import require
from qmix_jax.types import Observation, Outcome, TeamSpec

with only_parts_of_jaxmarl():
    from jaxmarl.environments.jaxnav.jaxnav_env import DISCRETE_ACTS, JaxNav
    from jaxmarl.environments.jaxnav.jaxnav_singletons import make_jaxnav_singleton


class Navigation(TeamEnv):
    """Square robots that accelerate and turn, each with a goal of its own and a lidar (JaxNav, Rutherford et al. 2024).

    The team's reward is the mean of the robots' own, and so does not depend on JaxMARL's `rew_lambda`: 4 for reaching
    the goal, -4 for a crash, 0.25 for each metre nearer to the goal, -0.01 a step until one of the two, and -0.1 at
    every step with anything nearer than 0.1 m. A crashed robot stays where it is, in the way of the others. An
    episode terminates when every robot has reached its goal or crashed, and is truncated at the time limit.

    Here, unlike there, an observation does not hold `rew_lambda`, which is constant, and the state holds which robots
    have reached their goal and which have crashed, which decides the rewards that can follow.
    """

    painter = "qmix_jax.envs.jaxnav.painter:paint_jaxnav"

    def __init__(self, settings: JaxNavConfig):
        with warnings.catch_warnings(action="ignore"):  # that goals too far away are moved onto the map
            env = _make(settings)
        self._env, num_agents = env, env.num_agents
        grid: Any = env.map_obj
        self._inner = (grid.height - 2, grid.width - 2)  # rows and columns within the outer walls
        self._size = jnp.array([grid.width, grid.height])
        self._available = jnp.ones((num_agents, len(DISCRETE_ACTS)), bool)
        self.spec = TeamSpec(
            name=f"JaxNav {settings.map}",
            agent_names=tuple(env.agents),
            obs_size=settings.beams + 4,
            num_actions=len(DISCRETE_ACTS),
            state_size=math.prod(self._inner) + 9 * num_agents + 1,
            episode_limit=settings.max_steps,
            shortest_episode=4,  # from rest, to a goal or wall 0.1 m away
        )

    def reset(self, key: jax.Array) -> tuple[Any, Observation]:
        """Draw walls, starts and goals."""
        with warnings.catch_warnings(action="ignore"):  # JaxMARL mixes types
            obs, state = self._env.reset(key)
        state = jax.tree.map(jnp.asarray, state)
        return state, self._observation(obs, state)

    def step(self, key: jax.Array, state: Any, action: Int[Array, "N"]) -> tuple[Any, Observation, Outcome]:
        """One step of 0.1 s towards the speeds that the actions stand for."""
        actions = dict(zip(self.spec.agent_names, DISCRETE_ACTS[action], strict=True))
        with warnings.catch_warnings(action="ignore"):
            obs, after, rewards, _, _ = self._env.step_env(key, state, actions)
        terminated = jnp.all(after.goal_reached | after.move_term)
        outcome = Outcome(
            reward=jnp.mean(jnp.stack([rewards[name] for name in self.spec.agent_names])),
            terminated=terminated,
            truncated=(after.step >= self._env.max_steps) & ~terminated,
            metrics={
                "win_rate": jnp.all(after.goal_reached),
                "goals_reached": jnp.sum(after.goal_reached & ~state.goal_reached),
                "crashes": jnp.sum(after.move_term & ~state.move_term),
            },
        )
        return after, self._observation(obs, after), outcome

    def _observation(self, obs: dict[str, Array], state: Any) -> Observation:
        agents = jnp.stack([obs[name][:-1] for name in self.spec.agent_names])  # the last number is rew_lambda
        return Observation(agents, self._available, self._state(state))

    def _state(self, state: Any) -> Float[Array, "Z"]:
        """The inner walls, row by row; each robot; the time."""
        robots = [
            state.pos / self._size - 0.5,
            state.theta[:, None] / jnp.pi,
            state.goal / self._size - 0.5,
            state.vel / jnp.array([self._env.max_v, self._env.max_w]) - jnp.array([0.5, 0.0]),
            state.goal_reached[:, None],
            state.move_term[:, None],
        ]
        parts = [
            jnp.ravel(state.map_data[1:-1, 1:-1]),
            jnp.ravel(jnp.concatenate(robots, axis=1)),
            jnp.atleast_1d(state.step / self._env.max_steps - 0.5),
        ]
        return jnp.concatenate(parts)

    def compress(self, state: Any, observation: Observation) -> tuple[Array, Array | None]:
        """All but the legal actions, which never change."""
        del state
        return observation.agents, observation.state

    def decompress(self, compact: tuple[Array, Array | None]) -> Observation:
        """The same, with the legal actions."""
        agents, state = compact
        return Observation(agents, self._available, state)

    def layout(self) -> Layout:
        """What observations, states and actions mean."""
        return jaxnav_layout(self.spec.agent_names, self._env.lidar_num_beams, self._inner, DISCRETE_ACTS.tolist())

    def scene(self, state: Any) -> dict[str, Any]:
        """Walls, robots and goals."""
        return {
            "walls": state.map_data,
            "position": state.pos,
            "heading": state.theta,
            "goal": state.goal,
            "reached": state.goal_reached,
            "alive": ~state.move_term,
        }


def _make(settings: JaxNavConfig) -> JaxNav:
    """JaxMARL's environment, with continuous actions, because its discrete ones print at every compilation."""
    common: dict[str, Any] = {"lidar_num_beams": settings.beams, "max_steps": settings.max_steps}
    if settings.map != "random":
        return make_jaxnav_singleton(settings.map, map_id="Grid-Rand-Poly", **common)
    room = int((settings.size - 2) ** 2 * (1 - settings.fill)) // 2
    require(
        settings.num_agents <= room,
        f"env.num_agents={settings.num_agents} must be {room} at most with env.size={settings.size} and "
        f"env.fill={settings.fill:g}: each robot gets two free cells",
    )
    walls = {"map_size": (settings.size, settings.size), "fill": settings.fill}
    return JaxNav(settings.num_agents, map_params=walls, **common)
