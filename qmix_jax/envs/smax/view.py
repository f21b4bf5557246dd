"""Observations, legal actions and the global state of a battle, and what the replay buffer keeps of them."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.envs.smax.rules import STOP, STRIDE, BattleState, Rules, Traits, length


class View(NamedTuple):
    """What agents and mixer see before a step."""

    agents: Float[Array, "N O"]
    available: Bool[Array, "N A"]
    state: Float[Array, "Z"]


class CompactBattle(NamedTuple):
    """All that is visible of a battle, in few bytes."""

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


def view(rules: Rules, state: BattleState) -> View:
    """Observations, legal actions and the global state, unscaled."""
    traits, alive = rules.traits_of(state), state.alive
    watcher = slice(0, rules.num_allies)
    distance = length(state.x[watcher, None] - state.x, state.y[watcher, None] - state.y)
    both_alive = alive[watcher, None] & alive
    visible = (distance < traits.sight_range[watcher, None]) & both_alive
    shootable = (distance < traits.attack_range[watcher, None]) & both_alive
    available = _available(alive[watcher], shootable[:, rules.num_allies :])
    health, ready = state.health / traits.health, jnp.clip(state.cooldown / traits.cooldown, 0.0, 1.0)
    types = state.unit_type if rules.types is None else rules.types
    bits = jnp.asarray(types[:, None] == np.arange(rules.num_types), jnp.float32)
    others = _others(rules, state, traits, visible, health, ready, bits)
    own = [health, state.x / rules.map_size[0], state.y / rules.map_size[1], ready]
    own = jnp.where(alive[watcher, None], _table([a[watcher] for a in own], bits[watcher]), 0.0)
    units = jnp.where(alive[:, None], _table([health, state.x, state.y, state.cooldown], bits), 0.0)
    team = jnp.asarray(np.arange(rules.num_units) >= rules.num_allies, jnp.float32)
    world = jnp.concatenate([jnp.ravel(units), team, jnp.asarray(types, jnp.float32)])
    return View(jnp.concatenate([others, own], 1), available, world)


def _available(alive: Bool[Array, "N"], shootable: Bool[Array, "N E"]) -> Bool[Array, "N A"]:
    move = jnp.broadcast_to(alive[:, None], (len(alive), STOP))
    stop = jnp.ones((len(alive), 1), bool)
    return jnp.concatenate([move, stop, shootable], 1)


def _others(
    rules: Rules, state: BattleState, traits: Traits, visible: Array, health: Array, ready: Array, bits: Array
) -> Float[Array, "N F"]:
    """The other units as each ally sees them: positions relative to its own, in sight ranges; zero where unseen."""
    most = np.where(rules.is_ally, rules.num_enemies, rules.num_allies) + STOP
    seen = True if rules.see_enemy_actions else rules.is_ally
    acts = [jnp.where(seen, a, 0.0) for a in (state.movement_x, state.movement_y, state.attack / most)]
    subject = _table([*acts, ready], bits)
    # Everybody but oneself, in order: the unit of the same number before one's own, the next one after.
    before = np.arange(rules.num_units - 1) < np.arange(rules.num_allies)[:, None]

    def skip_self(a: Array) -> Array:
        return jnp.where(before, a[..., :-1], a[..., 1:])

    visible, sight = skip_self(visible), traits.sight_range[: rules.num_allies, None]
    place = [(skip_self(a) - a[: rules.num_allies, None]) / sight for a in (state.x, state.y)]
    columns = [jnp.where(visible, a, 0.0)[:, :, None] for a in (skip_self(health), *place)]
    subject = jnp.where(before[:, :, None], subject[:-1], subject[1:])
    subject = jnp.where(visible[:, :, None], subject, 0.0)
    features = jnp.concatenate([*columns, subject], 2)
    return jnp.reshape(features, (rules.num_allies, -1))


def _table(columns: list[Array], bits: Float[Array, "U C"]) -> Float[Array, "U K"]:
    return jnp.concatenate([jnp.stack(columns, 1), bits], 1)


def compress(rules: Rules, state: BattleState) -> CompactBattle:
    """What `decompress` needs to restore the view exactly."""
    return CompactBattle(
        x=state.x,
        y=state.y,
        health=state.health,
        cooldown=state.cooldown,
        movement_x=jnp.sign(state.movement_x).astype(jnp.int8),
        movement_y=jnp.sign(state.movement_y).astype(jnp.int8),
        attack=state.attack.astype(jnp.int8),
        unit_type=state.unit_type.astype(jnp.int8) if rules.types is None else None,
    )


def decompress(rules: Rules, compact: CompactBattle) -> View:
    """The view of the battle of which `compress` made this."""
    zeros = jnp.zeros(rules.num_enemies)  # the enemies' state is not visible
    types = rules.types if compact.unit_type is None else compact.unit_type
    state = BattleState(
        x=compact.x,
        y=compact.y,
        health=compact.health,
        unit_type=jnp.asarray(types, jnp.int32),
        cooldown=compact.cooldown,
        movement_x=compact.movement_x * STRIDE,
        movement_y=compact.movement_y * STRIDE,
        attack=compact.attack.astype(jnp.int32),
        default_x=zeros,
        default_y=zeros,
        last_attacked=zeros.astype(int),
        step=jnp.array(0),
    )
    return view(rules, state)
