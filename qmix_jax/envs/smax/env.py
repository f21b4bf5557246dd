"""SMAX under the TeamEnv contract."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.jaxmarl_import import episode_limit, only_parts_of_jaxmarl
from qmix_jax.envs.layout import Layout
from qmix_jax.envs.smax.battle import Battle
from qmix_jax.envs.smax.layout import smax_layout
from qmix_jax.envs.smax.rules import FIRST_SHOT, STOP, BattleState
from qmix_jax.envs.smax.settings import SmaxConfig
from qmix_jax.envs.smax.view import CompactBattle, View, compress, decompress, view
from qmix_jax.settings import require_one_of
from qmix_jax.types import Observation, Outcome, TeamSpec

with only_parts_of_jaxmarl():
    from jaxmarl.environments import smax
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO


class Smax(TeamEnv):
    """SMAX against the heuristic enemy (Rutherford et al. 2023, section 4).

    The team's reward is the share of health that the enemy loses, at most 1 over a battle, and 1 for a win. A battle is
    won when every enemy is dead and an ally is alive; the time limit truncates it. The rules are JaxMARL's;
    `battle.Battle` computes them four times faster than JaxMARL's own step.
    """

    painter = "qmix_jax.envs.smax.painter:paint_smax"

    def __init__(self, settings: SmaxConfig):
        require_one_of("env.map", settings.map, MAP_NAME_TO_SCENARIO)
        env = smax.HeuristicEnemySMAX(
            scenario=smax.map_name_to_scenario(settings.map),
            see_enemy_actions=settings.see_enemy_actions,
            walls_cause_death=settings.walls_cause_death,
            attack_mode=settings.attack_mode,
        )
        self._battle = Battle(env)
        self._rules = self._battle.rules
        self._unit_types = tuple(env.unit_type_names)
        self._state_range = _state_range(env) if settings.scale_state else None
        self.spec = TeamSpec(
            name=f"SMAX {settings.map}",
            agent_names=tuple(env.agents),
            obs_size=env.obs_size,
            num_actions=env.num_ally_actions,
            state_size=env.state_size,
            episode_limit=episode_limit(env),
            idle_action=STOP,
            shortest_episode=self._rules.shortest,
        )

    def reset(self, key: jax.Array) -> tuple[BattleState, Observation]:
        """Start a battle."""
        state = self._battle.reset(key)
        return state, self._observation(view(self._rules, state))

    def step(
        self, key: jax.Array, state: BattleState, action: Int[Array, "N"]
    ) -> tuple[BattleState, Observation, Outcome]:
        """One step: eight of the simulator's."""
        step = self._battle.step(key, state, action)
        outcome = Outcome(step.reward, step.terminated, step.truncated, {"win_rate": step.won})
        return step.state, self._observation(step.view), outcome

    def _observation(self, view: View) -> Observation:
        scaled = view.state if self._state_range is None else jnp.clip(view.state / self._state_range, 0, 1)
        return Observation(view.agents, view.available, scaled)

    def compress(self, state: BattleState, observation: Observation) -> CompactBattle:
        """The units: a fifteenth of what all agents see of them (2s3z)."""
        del observation
        return compress(self._rules, state)

    def decompress(self, compact: CompactBattle) -> Observation:
        """What the agents saw of the units."""
        return self._observation(decompress(self._rules, compact))

    def layout(self) -> Layout:
        """What observations and actions mean."""
        return smax_layout(self._rules.num_allies, self._rules.num_enemies, self._unit_types)

    def scene(self, state: BattleState) -> dict[str, Any]:
        """Units by position, health and type, and their targets in the previous step."""
        traits, kind = self._rules.traits, state.unit_type
        num_allies, unit = self.spec.num_agents, jnp.arange(kind.shape[0])
        shot = state.attack - FIRST_SHOT
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


def _state_range(env: smax.HeuristicEnemySMAX) -> Float[Array, "Z"]:
    """The largest value of each feature of the global state: those of every unit, then teams, then types."""
    num_types = env.unit_type_bits
    cooldown = float(jnp.max(env.unit_type_weapon_cooldowns))
    unit = [1.0, env.map_width, env.map_height, cooldown, *[1.0] * num_types]  # health, x, y, cooldown, type
    num_units = env.num_allies + env.num_enemies
    return jnp.array([*unit * num_units, *[1.0] * num_units, *[num_types - 1.0] * num_units])
