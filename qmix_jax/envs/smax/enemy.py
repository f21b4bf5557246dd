"""The heuristic enemy."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.envs.smax.rules import FIRST_SHOT, NO_TARGET, BattleState, Rules, length

UNREACHABLE = 1e9


def decide(
    rules: Rules, state: BattleState, follow: Float[Array, "E"], shoot: Float[Array, "E"]
) -> tuple[Int[Array, "E"], BattleState]:
    """The enemies' actions, and the battle with the enemies' state updated.

    An enemy keeps shooting at one ally until that is dead or out of range, and then picks the closest (or a random)
    one. With no ally in range it follows a visible one, picked anew at each step, or else goes to the point opposite
    its start.

    Args:
        follow: Picks the visible ally that an enemy follows, a number in [0, 1).
        shoot: Picks the ally in range that an enemy shoots at, where `attack_mode` is "random".
    """
    enemies, traits = slice(rules.num_allies, None), rules.traits_of(state)
    sight, attack_range = traits.sight_range[enemies, None], traits.attack_range[enemies, None]
    x, y, alive = state.x[enemies], state.y[enemies], state.alive[enemies, None]
    # Allies are in the order of the actions, which is from the last to the first.
    ally_x, ally_y, ally_alive = (a[: rules.num_allies][::-1] for a in (state.x, state.y, state.alive))
    dx, dy = ally_x - x[:, None], ally_y - y[:, None]
    visible = (length(dx, dy) < sight) & alive & ally_alive
    dx, dy = dx / sight * sight, dy / sight * sight  # rounded as in the observations of JaxMARL's enemies
    distance = length(dx, dy)
    shootable = visible & (distance < attack_range)
    target = _choose_target(rules, state.last_attacked, shootable, distance, shoot)
    fresh = (state.default_x == 0) & (state.default_y == 0) & (state.last_attacked == NO_TARGET)
    own_x, own_y = jnp.where(alive[:, 0], x, 0.0), jnp.where(alive[:, 0], y, 0.0)
    default_x = jnp.where(fresh, rules.map_size[0] - own_x, state.default_x)
    default_y = jnp.where(fresh, rules.map_size[1] - own_y, state.default_y)
    followed, sees = pick_one(visible, follow), jnp.any(visible, 1)
    to_x = jnp.where(sees, jnp.sum(jnp.where(followed, dx, 0.0), 1), default_x - own_x)
    to_y = jnp.where(sees, jnp.sum(jnp.where(followed, dy, 0.0), 1), default_y - own_y)
    shoots = (target != NO_TARGET) & rules.enemy_shoots
    action = jnp.where(shoots, target + FIRST_SHOT, _direction(to_x, to_y))
    return action, state._replace(default_x=default_x, default_y=default_y, last_attacked=target)


def _choose_target(rules: Rules, last: Array, shootable: Array, distance: Array, uniform: Array) -> Int[Array, "E"]:
    """The ally to shoot at, numbered as in the actions; -1 where none is in range."""
    order = jnp.arange(rules.num_allies, dtype=jnp.int32)
    if rules.shoots_closest:
        closest = jnp.min(jnp.where(shootable, distance, UNREACHABLE), 1, keepdims=True)
        candidate = shootable & (distance == closest)
    else:
        candidate = pick_one(shootable, uniform)
    new = jnp.min(jnp.where(candidate, order, rules.num_allies), 1)
    new = jnp.where(new == rules.num_allies, NO_TARGET, new)
    kept = jnp.any(shootable & (order == last[:, None]), 1)
    return jnp.where(kept, last, new)


def pick_one(candidate: Bool[Array, "E N"], uniform: Float[Array, "E"]) -> Bool[Array, "E N"]:
    """At most one candidate a row, all equally likely: the number in [0, 1) picks it, from the last to the first."""
    size = candidate.shape[1]
    count = candidate.astype(jnp.float32) @ np.triu(np.ones((size, size), np.float32))
    total = count[:, -1:]
    rank = jnp.clip(jnp.ceil(total * (1 - uniform[:, None])), 1, jnp.maximum(total, 1))
    return candidate & (count == rank)


def _direction(x: Array, y: Array) -> Int[Array, "E"]:
    """The movement closest to the direction (x, y); of equals the first."""
    up, right, down = y >= jnp.maximum(jnp.abs(x), -y), x >= jnp.maximum(-x, -y), -y >= -x
    return jnp.where(up, 0, jnp.where(right, 1, jnp.where(down, 2, 3)))
