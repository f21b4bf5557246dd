"""JaxMARL's SMAX battle against the heuristic enemy, as array operations over all units at once.

The rules, the constants and the order of events are those of `jaxmarl.environments.smax` (Rutherford et al. 2023);
tests/test_battle.py compares both step by step. What differs is the cost: no unit is treated on its own, nothing is
scattered or gathered, and one call draws all the random numbers of a step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.envs.smax.enemy import decide
from qmix_jax.envs.smax.physics import push_apart, simulate
from qmix_jax.envs.smax.rules import NO_TARGET, SPREAD, BattleState, Rules
from qmix_jax.envs.smax.view import View, view


class RandomNumbers(NamedTuple):
    """The random numbers of a step, in [0, 1) but for the jitter."""

    jitter: Float[Array, "J U"]
    """Seconds that a shot adds to the weapon's cooldown; a row a substep, or one row for all of them."""
    follow: Float[Array, "E"]
    """Picks the visible ally that an enemy follows."""
    shoot: Float[Array, "E"]
    """Picks the ally in range that an enemy shoots at, where `attack_mode` is "random"."""


class Step(NamedTuple):
    """The results of a step."""

    state: BattleState
    view: View
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    won: Bool[Array, ""]


class Battle:
    """Battles on one map.

    Args:
        env: a `jaxmarl` HeuristicEnemySMAX with discrete actions and unit-list observations. It gives the constants,
            and on SMACv2's maps the starting positions.
    """

    def __init__(self, env: Any):
        self._env, self.rules = env, Rules(env)

    def reset(self, key: jax.Array) -> BattleState:
        """Start a battle."""
        num_units = self.rules.num_units
        if self.rules.types is None:
            return self.convert(self._env.reset(key)[1])  # JaxMARL's generators of types and positions
        noise = jax.random.uniform(key, (2 * num_units,), minval=-SPREAD, maxval=SPREAD)
        return self.begin(jnp.reshape(noise, (2, num_units)))

    def begin(self, noise: Float[Array, "2 U"]) -> BattleState:
        """The start of a battle on a map that fixes the types: the teams face each other, each at a quarter of the
        map's width from its edge, and every unit is displaced by `noise` in x and y.
        """
        rules, (width, height) = self.rules, self.rules.map_size
        types, traits = rules.types, rules.traits
        assert types is not None
        x = jnp.where(rules.is_ally, width / 4, width * 3 / 4)
        radius, ones, zeros = traits.radius[types], jnp.ones(rules.num_units), jnp.zeros(rules.num_units)
        x, y = push_apart(x + noise[0], height / 2 + noise[1], ones, radius[:, None] + radius)
        return BattleState(
            x=x,
            y=y,
            health=jnp.asarray(traits.health[types]),
            unit_type=jnp.asarray(types),
            cooldown=zeros,
            movement_x=zeros,
            movement_y=zeros,
            attack=zeros.astype(jnp.int32),
            default_x=zeros[: rules.num_enemies],
            default_y=zeros[: rules.num_enemies],
            last_attacked=jnp.full(rules.num_enemies, NO_TARGET),
            step=jnp.array(0),
        )

    @staticmethod
    def convert(state: Any) -> BattleState:
        """A battle from JaxMARL's state of it."""
        units, enemy = state.state, state.enemy_policy_state
        return BattleState(
            x=units.unit_positions[:, 0],
            y=units.unit_positions[:, 1],
            health=units.unit_health,
            unit_type=units.unit_types.astype(jnp.int32),
            cooldown=units.unit_weapon_cooldowns,
            movement_x=units.prev_movement_actions[:, 0],
            movement_y=units.prev_movement_actions[:, 1],
            attack=units.prev_attack_actions.astype(jnp.int32),
            default_x=enemy.default_target[:, 0],
            default_y=enemy.default_target[:, 1],
            last_attacked=enemy.last_attacked_enemy.astype(jnp.int32),
            step=units.step.astype(jnp.int32),
        )

    def step(self, key: jax.Array, state: BattleState, action: Int[Array, "N"]) -> Step:
        """One step of eight substeps, with random numbers drawn from `key`."""
        return self.advance(state, action, self.draw(key))

    def draw(self, key: jax.Array) -> RandomNumbers:
        """The random numbers of one step, from one call of the generator."""
        rules, num_enemies = self.rules, self.rules.num_enemies
        jitters = rules.num_jitters * rules.num_units
        uniform = jax.random.uniform(key, (jitters + num_enemies * (1 if rules.shoots_closest else 2),))
        jitter = jnp.reshape(uniform[:jitters], (rules.num_jitters, rules.num_units)) * (3 * rules.dt) - rules.dt
        return RandomNumbers(jitter, follow=uniform[jitters : jitters + num_enemies], shoot=uniform[-num_enemies:])

    def advance(self, state: BattleState, action: Int[Array, "N"], numbers: RandomNumbers) -> Step:
        """One step with given random numbers."""
        rules = self.rules
        enemy_action, state = decide(rules, state, numbers.follow, numbers.shoot)
        action = jnp.concatenate([action.astype(jnp.int32), enemy_action])
        health, over = state.health, state.step >= rules.max_steps
        state = simulate(rules, state, action, numbers.jitter)
        state = state._replace(step=state.step + 1)
        allies, enemies = jnp.any(state.alive[: rules.num_allies]), jnp.any(state.alive[rules.num_allies :])
        terminated, won = ~allies | ~enemies, allies & ~enemies
        lost = ((state.health - health) / rules.traits_of(state).health)[rules.num_allies :]
        reward = jnp.abs(jnp.sum(lost)) / rules.num_enemies + jnp.where(won, rules.bonus, 0.0)
        return Step(state, view(rules, state), reward, terminated, over & ~terminated, won)
