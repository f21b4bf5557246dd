"""JaxMARL's environments under the TeamEnv contract. The only file that imports jaxmarl.

JaxMARL counts a step after it tests the limit, so its episodes take one step more than `max_steps` says: 26 in MPE,
101 in SMAX. That is kept, because returns must compare, and `TeamSpec.episode_limit` says the true number.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from qmix_jax.config import MpeConfig, SmaxConfig, choose
from qmix_jax.envs.layout import Layout, mpe_layout, smax_layout
from qmix_jax.envs.smax.battle import STOP, Battle, BattleState, Moment
from qmix_jax.types import Observation, Outcome, TeamSpec


@contextlib.contextmanager
def _without_its_other_environments() -> Iterator[None]:
    """Import parts of jaxmarl alone: `import jaxmarl` runs all its environments' modules, which takes seconds, prints
    news about optional packages, and leaves sys.stdout replaced. Who imports it elsewhere gets all of it.
    """
    names = [name for name in ("jaxmarl", "jaxmarl.environments") if name not in sys.modules]
    try:
        for name in names:
            spec = importlib.util.find_spec(name)
            if spec is not None:
                sys.modules[name] = importlib.util.module_from_spec(spec)
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


with _without_its_other_environments():
    from jaxmarl.environments import smax
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

SMAX_MAPS = tuple(MAP_NAME_TO_SCENARIO)
MOVES = 5  # four directions and stop; the actions after them shoot at one enemy each
MPE_TASKS = {
    "simple_spread": "SimpleSpreadMPE",
    "simple_reference": "SimpleReferenceMPE",
    "simple_speaker_listener": "SimpleSpeakerListenerMPE",
}


class Smax:
    """SMAX against the heuristic enemy (Rutherford et al. 2023, section 4).

    The team's reward is the enemy's share of health lost, summed over the battle to 1 at most, and 1 for a victory.
    The rules are JaxMARL's; `battle.Battle` computes them four times faster than JaxMARL's own step.
    A battle is won when every enemy is dead and one ally alive; the time limit truncates it.
    """

    def __init__(self, config: SmaxConfig):
        choose("env.map", config.map, SMAX_MAPS)
        env = smax.HeuristicEnemySMAX(
            scenario=smax.map_name_to_scenario(config.map),
            see_enemy_actions=config.see_enemy_actions,
            walls_cause_death=config.walls_cause_death,
            attack_mode=config.attack_mode,
        )
        self._battle = Battle(env)
        self._unit_types = tuple(env.unit_type_names)
        self._state_range = _state_range(env) if config.scale_state else 1.0
        self.spec = TeamSpec(
            name=f"SMAX {config.map}",
            agent_names=tuple(env.agents),
            obs_size=env.obs_size,
            num_actions=env.num_ally_actions,
            state_size=env.state_size,
            episode_limit=env.max_steps + 1,
            idle_action=STOP,
            shortest_episode=self._battle.shortest,
        )

    def reset(self, key: jax.Array) -> tuple[BattleState, Observation]:
        """A fresh battle."""
        state, agents, available, world = self._battle.reset(key)
        return state, Observation(agents, available, world / self._state_range)

    def step(
        self, key: jax.Array, state: BattleState, action: Int[Array, "N"]
    ) -> tuple[BattleState, Observation, Outcome]:
        """One step: eight of the simulator's."""
        step = self._battle.step(key, state, action)
        outcome = Outcome(step.reward, step.terminated, step.truncated, {"win_rate": step.won})
        return step.state, Observation(step.agents, step.available, step.world / self._state_range), outcome

    def remember(self, state: BattleState, observation: Observation) -> Moment:
        """The units: a fifteenth of what all agents see of them (2s3z)."""
        del observation
        return self._battle.remember(state)

    def observe(self, memory: Moment) -> Observation:
        """What was to be seen of the units."""
        agents, available, world = self._battle.recall(memory)
        return Observation(agents, available, world / self._state_range)

    def layout(self) -> Layout:
        """What observations and actions mean."""
        return smax_layout(self._battle.num_allies, self._battle.num_enemies, self._unit_types)

    def scene(self, state: BattleState) -> dict[str, Any]:
        """Units by place, health, type, and whom they shot at during the step before."""
        traits, kind = self._battle.traits, state.unit_type
        num_allies, unit = self.spec.num_agents, jnp.arange(kind.shape[0])
        shot = state.attack - MOVES
        target = jnp.where(unit < num_allies, shot + num_allies, num_allies - 1 - shot)
        return {
            "position": jnp.stack([state.x, state.y], axis=-1),
            "health": state.health / jnp.asarray(traits.health)[kind],
            "alive": state.alive,
            "team": (unit >= num_allies).astype(jnp.int32),
            "unit_type": kind,
            "radius": jnp.asarray(traits.radius)[kind],
            "target": jnp.where((shot >= 0) & state.alive, target, -1),
        }


def _state_range(env: smax.HeuristicEnemySMAX) -> jax.Array:
    """The largest value of each feature of the global state: of every unit its own, then teams, then types."""
    num_types = env.unit_type_bits
    cooldown = float(jnp.max(env.unit_type_weapon_cooldowns))
    unit = [1.0, env.map_width, env.map_height, cooldown, *[1.0] * num_types]  # health, x, y, cooldown, type
    num_units = env.num_allies + env.num_enemies
    return jnp.array([*unit * num_units, *[1.0] * num_units, *[num_types - 1.0] * num_units])


def _lean(task: type) -> type:
    """The task without what JaxMARL computes in vain at every step: normal noise for forces and messages that is
    multiplied by zero, and how hard entities push each other that nothing can touch. Nothing is scattered: on a GPU
    that takes operations of its own.
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
            everyones = jnp.concatenate([push * self.moveable[solid, None], none])
            row = np.full(len(self.collide), len(solid))
            row[solid] = np.arange(len(solid))
            return p_force_all + everyones[row]

    def decode(self, agents, action):
        """The force (N, 2) and the silence (N, C) of actions (N, 1): none, left, right, down, up."""
        sign = jnp.where(action == 0, 0.0, jnp.where(action % 2 == 0, 1.0, -1.0))
        force = jnp.where((action <= 2) == np.array([True, False]), sign, 0.0)
        return force * (self.accel * self.moveable[: self.num_agents])[:, None], jnp.zeros((len(agents), self.dim_c))

    if "_decode_discrete_action" not in vars(task):  # else agents speak too, and do so in JaxMARL's own way
        Lean._decode_discrete_action = decode  # pyright: ignore[reportAttributeAccessIssue]
    return Lean


class Mpe:
    """Cooperative multi-particle worlds (Lowe et al. 2017), with JaxMARL's team reward: the sum over the agents.

    Agents see and can do different things in simple_speaker_listener; they are padded to the largest. The state is
    the agents' observations side by side. Every episode is truncated at the time limit; none terminates.
    """

    def __init__(self, config: MpeConfig):
        with _without_its_other_environments():
            from jaxmarl.environments import mpe  # imports matplotlib, so only for those who play it
        self._task, self._env = config.task, _lean(getattr(mpe, MPE_TASKS[config.task]))()
        names = tuple(self._env.agents)
        self._obs_sizes = tuple(self._env.observation_spaces[name].shape[0] for name in names)
        action_sizes = jnp.array([self._env.action_spaces[name].n for name in names])
        num_actions = int(action_sizes.max())
        self._available = jnp.arange(num_actions) < action_sizes[:, None]
        obs_size = max(self._obs_sizes)
        self.spec = TeamSpec(
            name=f"MPE {config.task}",
            agent_names=names,
            obs_size=obs_size,
            num_actions=num_actions,
            state_size=obs_size * len(names),
            episode_limit=self._env.max_steps + 1,
            idle_action=0 if config.task == "simple_spread" else None,  # elsewhere every action says something
            shortest_episode=self._env.max_steps + 1,
        )

    def reset(self, key: jax.Array) -> tuple[Any, Observation]:
        """Fresh places and goals."""
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

    def remember(self, state: Any, observation: Observation) -> Array:
        """What the agents see; what they may do never changes."""
        del state
        return observation.agents

    def observe(self, memory: Array) -> Observation:
        """The same, with what they may do."""
        return Observation(agents=memory, available=self._available, state=None)

    def layout(self) -> Layout:
        """What observations and actions mean."""
        return mpe_layout(self._task, self.spec.agent_names, self._env.num_landmarks, self._env.dim_c)

    def scene(self, state: Any) -> dict[str, Any]:
        """Agents and landmarks by place, with goals and messages where the task has them."""
        num_agents, num_entities = self.spec.num_agents, self._env.num_entities
        is_agent = jnp.arange(num_entities) < num_agents
        goal = jnp.full(num_entities, -1)
        if state.goal is not None:  # an agent's goal is the landmark that its partner has in mind
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
