"""Movement, shots and collisions."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from qmix_jax.envs.smax.rules import FIRST_SHOT, NO_TARGET, STRIDE, BattleState, Rules, Traits, length

LONGEST_SUM = 12
"""XLA's CPU compiler makes vector instructions of a sum over a leading axis only as long as that axis is short."""


def simulate(rules: Rules, state: BattleState, action: Int[Array, "U"], jitter: Float[Array, "J U"]) -> BattleState:
    """Eight substeps of one joint action. `step` and the enemies' state stay as they are."""
    traits = rules.traits_of(state)
    movement_x, movement_y = _stride(action == 1, action == 3), _stride(action == 0, action == 2)
    shot = action - FIRST_SHOT
    num_allies = rules.num_allies
    target = jnp.where(shot < 0, NO_TARGET, jnp.where(rules.is_ally, num_allies + shot, num_allies - 1 - shot))
    substep = _make_substep(rules, traits, target, movement_x, movement_y)
    jitter = jnp.broadcast_to(jitter, (rules.num_substeps, rules.num_units))
    x, y, health, cooldown = _loop(substep, (state.x, state.y, state.health, state.cooldown), jitter)
    return state._replace(
        x=x,
        y=y,
        health=health,
        cooldown=cooldown,
        movement_x=movement_x,
        movement_y=movement_y,
        attack=jnp.where(shot < 0, 0, action),
    )


def _make_substep(rules: Rules, traits: Traits, target: Array, movement_x: Array, movement_y: Array) -> Callable:
    """A scan's step over (x, y, health, cooldown) and the jitter of each weapon's cooldown."""
    unit, square_range = np.arange(rules.num_units), traits.attack_range**2
    touch = traits.radius[:, None] + traits.radius
    reach = jnp.where(target[:, None] == unit, square_range[:, None], 0.0)
    reached = jnp.where(target == unit[:, None], square_range, 0.0)  # the same, by target and shooter
    speed_x, speed_y = movement_x * traits.speed, movement_y * traits.speed
    width, height = rules.map_size

    def substep(carry: tuple, noise: Array) -> tuple[tuple, None]:
        x, y, health, cooldown = carry
        alive = health > 0
        ready = alive & (cooldown <= 0)
        power, life = jnp.where(ready, traits.damage, 0.0), alive.astype(jnp.float32)

        def shots(other: slice) -> tuple[Array, Array]:
            square = (x[other, None] - x) ** 2 + (y[other, None] - y) ** 2
            suffered = jnp.where(square < reach[other], power[other, None], 0.0)
            return suffered, jnp.where(square < reached[other], life[other, None], 0.0)

        harm, hits = _sum_over_others(shots, rules.num_units)
        reloaded = traits.cooldown + noise
        cooldown = cooldown + jnp.where(ready & (hits > 0), reloaded - cooldown, -rules.dt)
        health = jnp.maximum(health - harm * life, 0.0)
        x = jnp.where(alive, jnp.clip(x + speed_x, 0.0, width), x)
        y = jnp.where(alive, jnp.clip(y + speed_y, 0.0, height), y)
        if rules.walls_kill:
            inside = (x > 0) & (x < width) & (y > 0) & (y < height)
            health = jnp.where(inside, health, 0.0)
        x, y = push_apart(x, y, (health > 0).astype(jnp.float32), touch)
        return (x, y, health, cooldown), None

    return substep


def _stride(forth: Array, back: Array) -> Array:
    return jnp.where(forth, STRIDE, jnp.where(back, -STRIDE, 0.0))


def push_apart(x: Array, y: Array, life: Array, touch: Any) -> tuple[Array, Array]:
    """Living units (`life` 1, else 0) nearer than `touch` (U, U) move half of the overlap away from each other."""

    def pushes(other: slice) -> tuple[Array, Array]:
        dx, dy = x - x[other, None], y - y[other, None]
        overlap = jax.nn.relu(touch[other] / (length(dx, dy) + 1e-6) - 1.0) * life[other, None]
        return dx * overlap, dy * overlap

    push_x, push_y = _sum_over_others(pushes, x.shape[0])
    return x + push_x * life / 2, y + push_y * life / 2


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
    """The last carry of a scan over `step`, unrolled on accelerators, where every operation is a launch, and the
    compiler fuses the unrolled ones into few.
    """

    def run(carry, inputs, **unroll):
        return jax.lax.scan(step, carry, inputs, **unroll)[0]

    return jax.lax.platform_dependent(carry, inputs, cpu=run, default=functools.partial(run, unroll=True))
