"""JaxMARL's particle worlds under the TeamEnv contract."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.jaxmarl_import import episode_limit, only_parts_of_jaxmarl
from qmix_jax.envs.layout import Layout
from qmix_jax.envs.mpe.layout import mpe_layout
from qmix_jax.envs.mpe.settings import MpeConfig
from qmix_jax.types import Observation, Outcome, TeamSpec

with only_parts_of_jaxmarl():
    from jaxmarl.environments import mpe

CLASSES = {
    "simple_spread": "SimpleSpreadMPE",
    "simple_reference": "SimpleReferenceMPE",
    "simple_speaker_listener": "SimpleSpeakerListenerMPE",
}
"""JaxMARL's class of each task."""


def _lean(task: type) -> type:
    """The task without needless work of JaxMARL's at every step: normal noise for forces and messages that is then
    multiplied by zero, and the contact forces of entities that do not collide. Without scatters, which are separate
    operations on a GPU.
    """

    class Lean(task):
        def _apply_action_force(self, key, p_force, u, u_noise, moveable):
            del key, u_noise
            return jnp.where(moveable[:, None], u, p_force)

        def _apply_comm_action(self, key, c, c_noise, silent):
            del key, c_noise
            return jnp.where(silent[:, None] != 0, 0.0, c)

        def _apply_environment_force(self, p_force_all, state):
            solid = np.flatnonzero(self.collide)
            place, radius, margin = state.p_pos[solid], self.rad[solid], self.contact_margin
            apart = place[:, None] - place
            itself = np.eye(len(solid), dtype=bool)
            distance = jnp.where(itself, jnp.inf, jnp.sqrt(jnp.sum(jnp.square(apart), axis=-1)))
            overlap = margin * jnp.logaddexp(0.0, (radius[:, None] + radius - distance) / margin)
            push = jnp.sum(self.contact_force * apart * (overlap / distance)[..., None], axis=1)
            none = jnp.zeros((1, 2))
            pushes = jnp.concatenate([push * self.moveable[solid, None], none])
            row = np.full(len(self.collide), len(solid))
            row[solid] = np.arange(len(solid))
            return p_force_all + pushes[row]

    def decode(self, agents, action):
        """The forces (N, 2) of actions (N, 1), which are none, left, right, down and up, and empty messages (N, C)."""
        sign = jnp.where(action == 0, 0.0, jnp.where(action % 2 == 0, 1.0, -1.0))
        force = jnp.where((action <= 2) == np.array([True, False]), sign, 0.0)
        return force * (self.accel * self.moveable[: self.num_agents])[:, None], jnp.zeros((len(agents), self.dim_c))

    if "_decode_discrete_action" not in vars(task):  # else agents also send messages, which JaxMARL decodes
        Lean._decode_discrete_action = decode  # pyright: ignore[reportAttributeAccessIssue]
    return Lean


class Mpe(TeamEnv):
    """Cooperative multi-particle worlds (Lowe et al. 2017), with JaxMARL's team reward: the sum over the agents.

    Agents see and can do different things in simple_speaker_listener; they are padded to the largest. The state is
    the agents' observations side by side. Every episode is truncated at the time limit; none terminates.
    """

    painter = "qmix_jax.envs.mpe.painter:paint_mpe"

    def __init__(self, settings: MpeConfig):
        self._task, self._env = settings.task, _lean(getattr(mpe, CLASSES[settings.task]))()
        names = tuple(self._env.agents)
        self._obs_sizes = tuple(self._env.observation_spaces[name].shape[0] for name in names)
        action_sizes = jnp.array([self._env.action_spaces[name].n for name in names])
        num_actions = int(action_sizes.max())
        self._available = jnp.arange(num_actions) < action_sizes[:, None]
        obs_size = max(self._obs_sizes)
        self.spec = TeamSpec(
            name=f"MPE {settings.task}",
            agent_names=names,
            obs_size=obs_size,
            num_actions=num_actions,
            state_size=obs_size * len(names),
            episode_limit=episode_limit(self._env),
            idle_action=0 if settings.task == "simple_spread" else None,  # elsewhere every action sends a message
            shortest_episode=episode_limit(self._env),
        )

    def reset(self, key: jax.Array) -> tuple[Any, Observation]:
        """Draw positions and goals."""
        obs, state = self._env.reset(key)
        return state, self._observation(obs)

    def step(self, key: jax.Array, state: Any, action: Int[Array, "N"]) -> tuple[Any, Observation, Outcome]:
        """One step of 0.1 s."""
        actions = {name: action[i] for i, name in enumerate(self.spec.agent_names)}
        obs, state, rewards, dones, _ = self._env.step_env(key, state, actions)
        reward = jnp.sum(jnp.stack([rewards[name] for name in self.spec.agent_names]))
        outcome = Outcome(reward, terminated=jnp.array(False), truncated=dones["__all__"])
        return state, self._observation(obs), outcome

    def _observation(self, obs: dict) -> Observation:
        padded = [
            jnp.pad(obs[name], (0, self.spec.obs_size - size))
            for name, size in zip(self.spec.agent_names, self._obs_sizes, strict=True)
        ]
        return Observation(agents=jnp.stack(padded), available=self._available, state=None)

    def compress(self, state: Any, observation: Observation) -> Array:
        """What the agents see; the legal actions never change."""
        del state
        return observation.agents

    def decompress(self, compact: Array) -> Observation:
        """The same, with the legal actions."""
        return Observation(agents=compact, available=self._available, state=None)

    def layout(self) -> Layout:
        """What observations and actions mean."""
        return mpe_layout(self._task, self.spec.agent_names, self._env.num_landmarks, self._env.dim_c)

    def scene(self, state: Any) -> dict[str, Any]:
        """Agents and landmarks by position, with goals and messages where the task has them."""
        num_agents, num_entities = self.spec.num_agents, self._env.num_entities
        is_agent = jnp.arange(num_entities) < num_agents
        goal = jnp.full(num_entities, -1)
        if state.goal is not None:  # the landmark that an agent should reach; only its partner sees it
            pursuers = jnp.arange(num_agents) if state.goal.ndim else num_agents - 1
            goal = goal.at[pursuers].set(state.goal + num_agents)
        silent = jnp.max(state.c, axis=-1) <= 0
        message = jnp.where(silent, -1, jnp.argmax(state.c, axis=-1))
        return {
            "position": state.p_pos,
            "radius": self._env.rad,
            "is_agent": is_agent,
            "colour": jnp.array(self._env.colour),
            "goal": goal,
            "message": jnp.concatenate([message, jnp.full(num_entities - num_agents, -1)]),
        }
