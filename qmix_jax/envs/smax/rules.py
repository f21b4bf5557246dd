"""The constants of a map, and the state of a battle between two steps.

Units number U: the N allies, then the E enemies.
Positions are kept as one array a coordinate, because XLA's CPU loops do not vectorise over an axis of length two.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

NO_TARGET = -1
STOP = 4
"""The action that does nothing. Those before it move up, right, down and left; those after it shoot."""
FIRST_SHOT = STOP + 1
STRIDE = float(2 * np.float32(np.sqrt(0.5)) ** 2)
"""The length of a movement: one, but for JaxMARL's rounding."""
SPREAD = 2
"""The largest distance of a unit from its team's starting point, in x and in y."""


class BattleState(NamedTuple):
    """A battle between two steps."""

    x: Float[Array, "U"]
    y: Float[Array, "U"]
    health: Float[Array, "U"]
    unit_type: Int[Array, "U"]
    cooldown: Float[Array, "U"]
    """Seconds until the weapon is ready; zero or negative: it is."""
    movement_x: Float[Array, "U"]
    """The movement of the previous step, as others see it."""
    movement_y: Float[Array, "U"]
    attack: Int[Array, "U"]
    """The attacking action of the previous step, 0 where there was none."""
    default_x: Float[Array, "E"]
    """Where an enemy goes that sees no ally; (0, 0) until its first decision."""
    default_y: Float[Array, "E"]
    last_attacked: Int[Array, "E"]
    """The ally that an enemy shot at last, numbered as in its actions, or -1."""
    step: Int[Array, ""]

    @property
    def alive(self) -> Bool[Array, "U"]:
        """Whether a unit has health left."""
        return self.health > 0


class Traits(NamedTuple):
    """Constants that depend on a unit's type, one array over units (or over types) each."""

    speed: Any
    damage: Any
    attack_range: Any
    sight_range: Any
    radius: Any
    health: Any
    cooldown: Any


class Rules:
    """The constants of one map.

    Args:
        env: a `jaxmarl` HeuristicEnemySMAX with discrete actions and unit-list observations.
    """

    def __init__(self, env: Any):
        if env.action_type != "discrete" or env.observation_type != "unit_list" or env.use_self_play_reward:
            raise ValueError("Battle supports only discrete actions, unit lists and the reward against a fixed enemy")
        if env.attack_mode not in ("closest", "random"):
            raise ValueError(f"attack_mode is closest or random, not {env.attack_mode!r}")
        self.num_allies, self.num_enemies = int(env.num_allies), int(env.num_enemies)
        self.num_units = self.num_allies + self.num_enemies
        self.is_ally = np.arange(self.num_units) < self.num_allies
        self.num_substeps, self.max_steps = int(env.world_steps_per_env_step), int(env.max_steps)
        self.dt = float(env.time_per_step)
        self.map_size = (float(env.map_width), float(env.map_height))
        self.walls_kill, self.see_enemy_actions = bool(env.walls_cause_death), bool(env.see_enemy_actions)
        self.enemy_shoots, self.shoots_closest = bool(env.enemy_shoots), env.attack_mode == "closest"
        self.bonus, self.num_types = float(env.won_battle_bonus), int(env.unit_type_bits)
        self.traits = Traits(
            speed=np.asarray(env.unit_type_velocities, np.float32) * self.dt,
            damage=np.asarray(env.unit_type_attacks, np.float32),
            attack_range=np.asarray(env.unit_type_attack_ranges, np.float32),
            sight_range=np.asarray(env.unit_type_sight_ranges, np.float32),
            radius=np.asarray(env.unit_type_radiuses, np.float32),
            health=np.asarray(env.unit_type_health, np.float32),
            cooldown=np.asarray(env.unit_type_weapon_cooldowns, np.float32),
        )
        self.types = None if env.smacv2_unit_type_generation else np.asarray(env.scenario, np.int32)
        # The fastest weapon is ready again after so many substeps; if not within one step, it needs one jitter a step.
        reload = 1 + np.ceil((self.traits.cooldown.min() - self.dt) / self.dt - 1e-3)
        self.num_jitters = 1 if reload >= self.num_substeps else self.num_substeps

    @property
    def shortest(self) -> int:
        """The fewest steps that a battle takes (see `TeamSpec.shortest_episode`).

        Where the map fixes the types, the fastest end is a team of its fastest units that walks into the nearest wall:
        shots need longer to reach and kill a whole team. SMACv2's units can start beside walls and enemies. There one
        battle of 2,048 took a single step where the team walked into the walls, but no eight in a row fewer than 8
        each.
        """
        if self.types is None:
            return 6
        fastest = float(self.traits.speed[self.types].max()) * self.num_substeps
        return math.ceil((self.map_size[0] / 4 - SPREAD) / fastest)

    def traits_of(self, state: BattleState) -> Traits:
        """Each unit's constants, as NumPy arrays where the map fixes the types."""
        if self.types is not None:
            return Traits(*(table[self.types] for table in self.traits))
        is_type = [state.unit_type == i for i in range(self.num_types)]
        return Traits(*(jnp.select(is_type, list(table)) for table in self.traits))


def length(x: Array, y: Array) -> Array:
    """The length of the vector (x, y)."""
    return jnp.sqrt(x * x + y * y)
