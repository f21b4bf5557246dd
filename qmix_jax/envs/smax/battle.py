"""JaxMARL's SMAX battle against the heuristic enemy, as array operations over all units at once.

The rules, the constants and the order of events are those of `jaxmarl.environments.smax` (Rutherford et al. 2023);
tests/test_battle.py holds both side by side. What differs is the cost: no unit is treated on its own, nothing is
scattered or gathered, and one call draws all the random numbers of a step.

Units number U: the N allies, then the E enemies.
Places are kept as one array a coordinate, because XLA's CPU loops do not vectorise over an axis of length two.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

NO_TARGET = -1
STOP = 4
"""The action that does nothing. Those before it move up, right, down and left; those after it shoot."""
FIRST_SHOT = STOP + 1
STRIDE = float(2 * np.float32(np.sqrt(0.5)) ** 2)
"""The length of a movement: one, but for JaxMARL's rounding."""
UNREACHABLE = 1e9
SPREAD = 2
"""How far at most a unit begins from its team's place, in x and in y."""
LONGEST_SUM = 12
"""XLA's CPU compiler makes vector instructions of a sum over a leading axis only as long as that axis is short."""


class BattleState(NamedTuple):
    """One battle between two steps."""

    x: Float[Array, "U"]
    y: Float[Array, "U"]
    health: Float[Array, "U"]
    unit_type: Int[Array, "U"]
    cooldown: Float[Array, "U"]
    """Seconds until the weapon is ready; negative where it has been."""
    movement_x: Float[Array, "U"]
    """The movement of the step before, as others see it."""
    movement_y: Float[Array, "U"]
    attack: Int[Array, "U"]
    """The attacking action of the step before, 0 where there was none."""
    default_x: Float[Array, "E"]
    """Where an enemy goes that sees nobody; (0, 0) until its first decision."""
    default_y: Float[Array, "E"]
    last_attacked: Int[Array, "E"]
    """Whom an enemy shot at last, counted as its actions count them, or -1."""
    step: Int[Array, ""]

    @property
    def alive(self) -> Bool[Array, "U"]:
        """Life is health."""
        return self.health > 0


class Moment(NamedTuple):
    """All that can be seen of a battle, in few bytes."""

    x: Float[Array, "U"]
    y: Float[Array, "U"]
    health: Float[Array, "U"]
    cooldown: Float[Array, "U"]
    movement_x: Int[Array, "U"]
    """-1, 0 or 1"""
    movement_y: Int[Array, "U"]
    attack: Int[Array, "U"]
    unit_type: Int[Array, "U"] | None
    """None where the map fixes the types."""


class Chance(NamedTuple):
    """All that is random in a step, as numbers in [0, 1) (the jitter: seconds)."""

    jitter: Float[Array, "J U"]
    """What a shot adds to the weapon's cooldown; a row a substep, or one row for all of them."""
    follow: Float[Array, "E"]
    """Picks the visible ally that an enemy follows."""
    shoot: Float[Array, "E"]
    """Picks the ally in range that an enemy shoots at, where `attack_mode` is "random"."""


class Traits(NamedTuple):
    """What a unit's type says of it, as an array over units each."""

    speed: Any
    damage: Any
    attack_range: Any
    sight_range: Any
    radius: Any
    health: Any
    cooldown: Any


class View(NamedTuple):
    """What agents and mixer are given before a step."""

    agents: Float[Array, "N O"]
    available: Bool[Array, "N A"]
    state: Float[Array, "Z"]


class Step(NamedTuple):
    """What a step leads to."""

    state: BattleState
    agents: Float[Array, "N O"]
    available: Bool[Array, "N A"]
    world: Float[Array, "Z"]
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    won: Bool[Array, ""]


class Battle:
    """The rules of one map.

    Args:
        env: a `jaxmarl` HeuristicEnemySMAX with discrete actions and unit-list observations. It gives the constants
            and the starting positions.
    """

    def __init__(self, env: Any):
        if env.action_type != "discrete" or env.observation_type != "unit_list" or env.use_self_play_reward:
            raise ValueError("Battle knows only discrete actions, unit lists and the reward against a fixed enemy")
        if env.attack_mode not in ("closest", "random"):
            raise ValueError(f"attack_mode is closest or random, not {env.attack_mode!r}")
        self._env = env
        self.num_allies, self.num_enemies = int(env.num_allies), int(env.num_enemies)
        self.num_units = self.num_allies + self.num_enemies
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
        self._types = None if env.smacv2_unit_type_generation else np.asarray(env.scenario, np.int32)
        # The quickest weapon is ready again after so many substeps; if not within one step, one jitter a step will do.
        reload = 1 + np.ceil((self.traits.cooldown.min() - self.dt) / self.dt - 1e-3)
        self.num_jitters = 1 if reload >= self.num_substeps else self.num_substeps

    @property
    def shortest(self) -> int:
        """Steps that a battle takes at least (see `TeamSpec.shortest_episode`).

        Where the map fixes the types, a team of its fastest units that walks into the nearest wall is gone first: shots
        need longer to reach and kill a whole team. SMACv2's units can begin beside walls and enemies. There one battle
        of 2,048 took a single step where the team walked into the walls, but no eight in a row fewer than 8 each.
        """
        if self._types is None:
            return 6
        fastest = float(self.traits.speed[self._types].max()) * self.num_substeps
        return math.ceil((self.map_size[0] / 4 - SPREAD) / fastest)

    def reset(self, key: jax.Array) -> tuple[BattleState, Array, Array, Array]:
        """A fresh battle: state, observations (N, O), legal actions (N, A), world state (Z,)."""
        if self._types is None:
            state = self.convert(self._env.reset(key)[1])  # JaxMARL's generators of types and places
        else:
            noise = jax.random.uniform(key, (2 * self.num_units,), minval=-SPREAD, maxval=SPREAD)
            state = self.begin(jnp.reshape(noise, (2, self.num_units)))
        agents, available, world = self.view(state)
        return state, agents, available, world

    def begin(self, noise: Float[Array, "2 U"]) -> BattleState:
        """The start of a battle on a map that fixes the types: the teams face each other, at a quarter of the map's
        width from its edges, every unit as far off in x and y as `noise` says.
        """
        types, num_units, (width, height) = self._types, self.num_units, self.map_size
        assert types is not None
        x = jnp.where(np.arange(num_units) < self.num_allies, width / 4, width * 3 / 4)
        radius, ones, none = self.traits.radius[types], jnp.ones(num_units), jnp.zeros(num_units)
        x, y = _push_apart(x + noise[0], height / 2 + noise[1], ones, radius[:, None] + radius)
        return BattleState(
            x=x,
            y=y,
            health=jnp.asarray(self.traits.health[types]),
            unit_type=jnp.asarray(types),
            cooldown=none,
            movement_x=none,
            movement_y=none,
            attack=none.astype(jnp.int32),
            default_x=none[: self.num_enemies],
            default_y=none[: self.num_enemies],
            last_attacked=jnp.full(self.num_enemies, NO_TARGET),
            step=jnp.array(0),
        )

    def convert(self, state: Any) -> BattleState:
        """JaxMARL's state of a battle as ours."""
        units, memory = state.state, state.enemy_policy_state
        return BattleState(
            x=units.unit_positions[:, 0],
            y=units.unit_positions[:, 1],
            health=units.unit_health,
            unit_type=units.unit_types.astype(jnp.int32),
            cooldown=units.unit_weapon_cooldowns,
            movement_x=units.prev_movement_actions[:, 0],
            movement_y=units.prev_movement_actions[:, 1],
            attack=units.prev_attack_actions.astype(jnp.int32),
            default_x=memory.default_target[:, 0],
            default_y=memory.default_target[:, 1],
            last_attacked=memory.last_attacked_enemy.astype(jnp.int32),
            step=units.step.astype(jnp.int32),
        )

    def step(self, key: jax.Array, state: BattleState, action: Int[Array, "N"]) -> Step:
        """One step of eight substeps, with its chances drawn from `key`."""
        return self.advance(state, action, self.draw(key))

    def draw(self, key: jax.Array) -> Chance:
        """The chances of one step, from one call of the generator."""
        jitters, num_enemies = self.num_jitters * self.num_units, self.num_enemies
        uniform = jax.random.uniform(key, (jitters + num_enemies * (1 if self.shoots_closest else 2),))
        jitter = jnp.reshape(uniform[:jitters], (self.num_jitters, self.num_units)) * (3 * self.dt) - self.dt
        return Chance(jitter, follow=uniform[jitters : jitters + num_enemies], shoot=uniform[-num_enemies:])

    def advance(self, state: BattleState, action: Int[Array, "N"], chance: Chance) -> Step:
        """One step with given chances."""
        enemy_action, state = self.decide(state, chance)
        action = jnp.concatenate([action.astype(jnp.int32), enemy_action])
        health, over = state.health, state.step >= self.max_steps
        state = self.simulate(state, action, chance.jitter)
        state = state._replace(step=state.step + 1)
        allies, enemies = jnp.any(state.alive[: self.num_allies]), jnp.any(state.alive[self.num_allies :])
        terminated, won = ~allies | ~enemies, allies & ~enemies
        lost = ((state.health - health) / self._traits(state).health)[self.num_allies :]
        reward = jnp.abs(jnp.sum(lost)) / self.num_enemies + jnp.where(won, self.bonus, 0.0)
        return Step(state, *self.view(state), reward, terminated, over & ~terminated, won)

    def _traits(self, state: BattleState) -> Traits:
        """Each unit's constants, as NumPy arrays where the map fixes the types."""
        if self._types is not None:
            return Traits(*(table[self._types] for table in self.traits))
        is_type = [state.unit_type == i for i in range(self.num_types)]
        return Traits(*(jnp.select(is_type, list(table)) for table in self.traits))

    # The enemy

    def decide(self, state: BattleState, chance: Chance) -> tuple[Int[Array, "E"], BattleState]:
        """The enemies' actions, and the state with what they remember.

        An enemy keeps shooting at one ally until that is dead or out of range, and then picks the closest (or any).
        With nobody in range it follows a visible ally, each time any, or else goes to the point opposite its first.
        """
        near, traits = slice(self.num_allies, None), self._traits(state)
        sight, attack_range = traits.sight_range[near, None], traits.attack_range[near, None]
        x, y, alive = state.x[near], state.y[near], state.alive[near, None]
        # Allies stand in the order of the actions, which is from the last to the first.
        ally_x, ally_y, ally_alive = (a[: self.num_allies][::-1] for a in (state.x, state.y, state.alive))
        dx, dy = ally_x - x[:, None], ally_y - y[:, None]
        visible = (_length(dx, dy) < sight) & alive & ally_alive
        dx, dy = dx / sight * sight, dy / sight * sight  # rounded as JaxMARL's enemies read it off their observation
        distance = _length(dx, dy)
        shootable = visible & (distance < attack_range)
        target = self._choose_target(state.last_attacked, shootable, distance, chance.shoot)
        fresh = (state.default_x == 0) & (state.default_y == 0) & (state.last_attacked == NO_TARGET)
        place_x, place_y = jnp.where(alive[:, 0], x, 0.0), jnp.where(alive[:, 0], y, 0.0)
        default_x = jnp.where(fresh, self.map_size[0] - place_x, state.default_x)
        default_y = jnp.where(fresh, self.map_size[1] - place_y, state.default_y)
        followed, sees = pick_one(visible, chance.follow), jnp.any(visible, 1)
        to_x = jnp.where(sees, jnp.sum(jnp.where(followed, dx, 0.0), 1), default_x - place_x)
        to_y = jnp.where(sees, jnp.sum(jnp.where(followed, dy, 0.0), 1), default_y - place_y)
        shoots = (target != NO_TARGET) & self.enemy_shoots
        action = jnp.where(shoots, target + FIRST_SHOT, _direction(to_x, to_y))
        return action, state._replace(default_x=default_x, default_y=default_y, last_attacked=target)

    def _choose_target(self, last: Array, shootable: Array, distance: Array, uniform: Array) -> Int[Array, "E"]:
        """The ally to shoot at, counted as the actions count them; -1 where none is in range."""
        order = jnp.arange(self.num_allies, dtype=jnp.int32)
        if self.shoots_closest:
            closest = jnp.min(jnp.where(shootable, distance, UNREACHABLE), 1, keepdims=True)
            candidate = shootable & (distance == closest)
        else:
            candidate = pick_one(shootable, uniform)
        new = jnp.min(jnp.where(candidate, order, self.num_allies), 1)
        new = jnp.where(new == self.num_allies, NO_TARGET, new)
        kept = jnp.any(shootable & (order == last[:, None]), 1)
        return jnp.where(kept, last, new)

    # The physics

    def simulate(self, state: BattleState, action: Int[Array, "U"], jitter: Float[Array, "J U"]) -> BattleState:
        """Eight substeps of one joint action, without chance; the clock and the enemies' memory stay."""
        traits, ally = self._traits(state), np.arange(self.num_units) < self.num_allies
        movement_x, movement_y = _stride(action == 1, action == 3), _stride(action == 0, action == 2)
        shot = action - FIRST_SHOT
        target = jnp.where(shot < 0, NO_TARGET, jnp.where(ally, self.num_allies + shot, self.num_allies - 1 - shot))
        unit, square_range = np.arange(self.num_units), traits.attack_range**2
        touch = traits.radius[:, None] + traits.radius
        reach = jnp.where(target[:, None] == unit, square_range[:, None], 0.0)
        reached = jnp.where(target == unit[:, None], square_range, 0.0)  # the same, by target and shooter
        speed_x, speed_y = movement_x * traits.speed, movement_y * traits.speed

        def substep(carry: tuple, noise: Array) -> tuple[tuple, None]:
            x, y, health, cooldown = carry
            alive = health > 0
            ready = alive & (cooldown <= 0)
            power, life = jnp.where(ready, traits.damage, 0.0), alive.astype(jnp.float32)

            def shots(other: slice) -> tuple[Array, Array]:
                square = (x[other, None] - x) ** 2 + (y[other, None] - y) ** 2
                suffered = jnp.where(square < reach[other], power[other, None], 0.0)
                return suffered, jnp.where(square < reached[other], life[other, None], 0.0)

            harm, hits = _sum_over_others(shots, self.num_units)
            reloaded = traits.cooldown + noise
            cooldown = cooldown + jnp.where(ready & (hits > 0), reloaded - cooldown, -self.dt)
            health = jnp.maximum(health - harm * life, 0.0)
            x = jnp.where(alive, jnp.clip(x + speed_x, 0.0, self.map_size[0]), x)
            y = jnp.where(alive, jnp.clip(y + speed_y, 0.0, self.map_size[1]), y)
            if self.walls_kill:
                inside = (x > 0) & (x < self.map_size[0]) & (y > 0) & (y < self.map_size[1])
                health = jnp.where(inside, health, 0.0)
            x, y = _push_apart(x, y, (health > 0).astype(jnp.float32), touch)
            return (x, y, health, cooldown), None

        jitter = jnp.broadcast_to(jitter, (self.num_substeps, self.num_units))
        carry = (state.x, state.y, state.health, state.cooldown)
        x, y, health, cooldown = _loop(substep, carry, jitter)
        return state._replace(
            x=x,
            y=y,
            health=health,
            cooldown=cooldown,
            movement_x=movement_x,
            movement_y=movement_y,
            attack=jnp.where(shot < 0, 0, action),
        )

    # What is seen

    def view(self, state: BattleState) -> View:
        """Observations, legal actions and the world state of a moment."""
        traits, alive = self._traits(state), state.alive
        watcher = slice(0, self.num_allies)
        distance = _length(state.x[watcher, None] - state.x, state.y[watcher, None] - state.y)
        both_alive = alive[watcher, None] & alive
        visible = (distance < traits.sight_range[watcher, None]) & both_alive
        shootable = (distance < traits.attack_range[watcher, None]) & both_alive
        available = self._available(alive[watcher], shootable[:, self.num_allies :])
        health, ready = state.health / traits.health, jnp.clip(state.cooldown / traits.cooldown, 0.0, 1.0)
        types = state.unit_type if self._types is None else self._types
        bits = jnp.asarray(types[:, None] == np.arange(self.num_types), jnp.float32)
        others = self._observe_others(state, traits, visible, health, ready, bits)
        own = [health, state.x / self.map_size[0], state.y / self.map_size[1], ready]
        own = jnp.where(alive[watcher, None], _table([a[watcher] for a in own], bits[watcher]), 0.0)
        units = jnp.where(alive[:, None], _table([health, state.x, state.y, state.cooldown], bits), 0.0)
        team = jnp.asarray(np.arange(self.num_units) >= self.num_allies, jnp.float32)
        world = jnp.concatenate([jnp.ravel(units), team, jnp.asarray(types, jnp.float32)])
        return View(jnp.concatenate([others, own], 1), available, world)

    def remember(self, state: BattleState) -> Moment:
        """What `recall` needs to make the view again, exactly."""
        return Moment(
            x=state.x,
            y=state.y,
            health=state.health,
            cooldown=state.cooldown,
            movement_x=jnp.sign(state.movement_x).astype(jnp.int8),
            movement_y=jnp.sign(state.movement_y).astype(jnp.int8),
            attack=state.attack.astype(jnp.int8),
            unit_type=state.unit_type.astype(jnp.int8) if self._types is None else None,
        )

    def recall(self, moment: Moment) -> View:
        """The view of a remembered moment."""
        none = jnp.zeros(self.num_enemies)  # what enemies remember is not to be seen
        types = self._types if moment.unit_type is None else moment.unit_type
        return self.view(
            BattleState(
                x=moment.x,
                y=moment.y,
                health=moment.health,
                unit_type=jnp.asarray(types, jnp.int32),
                cooldown=moment.cooldown,
                movement_x=moment.movement_x * STRIDE,
                movement_y=moment.movement_y * STRIDE,
                attack=moment.attack.astype(jnp.int32),
                default_x=none,
                default_y=none,
                last_attacked=none.astype(int),
                step=jnp.array(0),
            )
        )

    def _available(self, alive: Bool[Array, "N"], shootable: Bool[Array, "N E"]) -> Bool[Array, "N A"]:
        move = jnp.broadcast_to(alive[:, None], (self.num_allies, STOP))
        stop = jnp.ones((self.num_allies, 1), bool)
        return jnp.concatenate([move, stop, shootable], 1)

    def _observe_others(
        self, state: BattleState, traits: Traits, visible: Array, health: Array, ready: Array, bits: Array
    ) -> Float[Array, "N F"]:
        """The other units as each ally sees them: places from its own, in units of its sight; zero where unseen."""
        ally = np.arange(self.num_units) < self.num_allies
        most = np.where(ally, self.num_enemies, self.num_allies) + STOP
        seen = True if self.see_enemy_actions else ally
        acts = [jnp.where(seen, a, 0.0) for a in (state.movement_x, state.movement_y, state.attack / most)]
        subject = _table([*acts, ready], bits)
        # Everybody but oneself, in order: the unit of the same number before one's own, the next one after.
        before = np.arange(self.num_units - 1) < np.arange(self.num_allies)[:, None]

        def skip_self(a: Array) -> Array:
            return jnp.where(before, a[..., :-1], a[..., 1:])

        visible, sight = skip_self(visible), traits.sight_range[: self.num_allies, None]
        place = [(skip_self(a) - a[: self.num_allies, None]) / sight for a in (state.x, state.y)]
        columns = [jnp.where(visible, a, 0.0)[:, :, None] for a in (skip_self(health), *place)]
        subject = jnp.where(before[:, :, None], subject[:-1], subject[1:])
        subject = jnp.where(visible[:, :, None], subject, 0.0)
        features = jnp.concatenate([*columns, subject], 2)
        return jnp.reshape(features, (self.num_allies, -1))


def _length(x: Array, y: Array) -> Array:
    return jnp.sqrt(x * x + y * y)


def _table(columns: list[Array], bits: Float[Array, "U C"]) -> Float[Array, "U K"]:
    return jnp.concatenate([jnp.stack(columns, 1), bits], 1)


def _stride(forth: Array, back: Array) -> Array:
    return jnp.where(forth, STRIDE, jnp.where(back, -STRIDE, 0.0))


def _direction(x: Array, y: Array) -> Int[Array, "E"]:
    """The movement that leads most towards (x, y); of equals the first."""
    up, right, down = y >= jnp.maximum(jnp.abs(x), -y), x >= jnp.maximum(-x, -y), -y >= -x
    return jnp.where(up, 0, jnp.where(right, 1, jnp.where(down, 2, 3)))


def pick_one(candidate: Bool[Array, "E N"], uniform: Float[Array, "E"]) -> Bool[Array, "E N"]:
    """One candidate a row at most, all equally likely: the number in [0, 1) says which, from the last to the first."""
    size = candidate.shape[1]
    count = candidate.astype(jnp.float32) @ np.triu(np.ones((size, size), np.float32))
    total = count[:, -1:]
    rank = jnp.clip(jnp.ceil(total * (1 - uniform[:, None])), 1, jnp.maximum(total, 1))
    return candidate & (count == rank)


def _sum_over_others(pair: Callable[[slice], tuple[Array, Array]], num_units: int) -> tuple[Array, Array]:
    """Two sums over a unit's others at once, where pair(others) gives both terms as arrays (others, units).

    One sum of two arrays computes what they share only once, and floats multiplied are faster than masks.
    """
    zero, totals = jnp.float32(0), None
    num_parts = -(-num_units // LONGEST_SUM)
    edges = [num_units * i // num_parts for i in range(num_parts + 1)]
    for first, last in itertools.pairwise(edges):
        part = jax.lax.reduce(pair(slice(first, last)), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (0,))
        totals = part if totals is None else (totals[0] + part[0], totals[1] + part[1])
    assert totals is not None
    return totals


def _loop(step: Callable, carry: Any, inputs: Any) -> Any:
    """What a scan's `step` carries in the end. On accelerators without a loop: they wait for every operation to start,
    and written out the compiler makes few of them.
    """

    def run(carry, inputs, **unroll):
        return jax.lax.scan(step, carry, inputs, **unroll)[0]

    return jax.lax.platform_dependent(carry, inputs, cpu=run, default=functools.partial(run, unroll=True))


def _push_apart(x: Array, y: Array, life: Array, touch: Any) -> tuple[Array, Array]:
    """Living units (`life` 1, else 0) nearer than `touch` (U, U) move half of the overlap away from each other."""

    def pushes(other: slice) -> tuple[Array, Array]:
        dx, dy = x - x[other, None], y - y[other, None]
        overlap = jax.nn.relu(touch[other] / (_length(dx, dy) + 1e-6) - 1.0) * life[other, None]
        return dx * overlap, dy * overlap

    push_x, push_y = _sum_over_others(pushes, x.shape[0])
    return x + push_x * life / 2, y + push_y * life / 2
