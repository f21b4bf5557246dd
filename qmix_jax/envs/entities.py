"""Flat observations and states as matrices with one row an entity, for networks that attend to entities.

An environment's layout (`qmix_jax.envs.layout`) says which entity each number describes. Features of one name share a
column, so that all teams of an environment have the same columns and differ only in their rows; where one entity has
several features of a name, each of them has a column.
"""

from collections import Counter
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.layout import Layout, layout_of

Blocks = tuple[tuple[str, str], ...]
Column = tuple[str, int]
"""A feature's name, and how many of that name the entity has before it."""
NOWHERE = -1


class Entities(NamedTuple):
    """How a vector becomes a matrix. Made of tuples, so that a flax module can have it as a field."""

    places: tuple[tuple[int, ...], ...]
    """(K, F) the index in the vector of each entity's features; -1 where it lacks one."""
    marks: tuple[tuple[float, ...], ...]
    """(K, 2) two more columns: 1 for the agent itself, 1 for a member of the team."""

    def rows(self, vector: Float[Array, "*batch X"]) -> Float[Array, "*batch K D"]:
        """The matrix, D = F + 2 columns; zero where an entity lacks a feature."""
        padded = jnp.concatenate([vector, jnp.zeros_like(vector[..., :1])], axis=-1)
        features = jnp.take(padded, np.array(self.places), axis=-1)  # index -1 is the appended zero
        marks = jnp.broadcast_to(jnp.array(self.marks, vector.dtype), (*features.shape[:-1], 2))
        return jnp.concatenate([features, marks], axis=-1)


class Team(NamedTuple):
    """The agents' observations and actions by entity."""

    entities: Entities
    """Of all agents' observations, concatenated: N times as many rows as one agent sees, agent by agent."""
    values: tuple[tuple[int, ...], ...]
    """(N, A) the index of each action's value among the values of the plain actions and then of the entities."""
    num_plain: int
    """Actions that are aimed at no entity."""


def team_of(env: TeamEnv) -> Team:
    """The agents' view. Where the environment has no layout, all numbers belong to one entity."""
    layout, spec = layout_of(env), env.spec
    views = [agent.blocks for agent in layout.agents]
    names = [_names(blocks) for blocks in views]
    columns, most = _columns(layout, views), max(map(len, names))
    places, marks = [], []
    for i, (own, blocks) in enumerate(zip(spec.agent_names, views, strict=True)):
        empty = most - len(names[i])
        places += [*_places(layout, blocks, columns, i * spec.obs_size), *[(NOWHERE,) * len(columns)] * empty]
        marks += [*_marks(names[i], spec.agent_names, own), *[(0.0, 0.0)] * empty]
    aims = [agent.aims or (None,) * len(agent.actions) for agent in layout.agents]
    num_plain = max(aim.count(None) for aim in aims)
    values = tuple(_values(aim, rows, num_plain, spec.num_actions) for aim, rows in zip(aims, names, strict=True))
    return Team(Entities(tuple(places), tuple(marks)), values, num_plain)


def state_of(env: TeamEnv) -> Entities:
    """The global state's entities: the layout's, or the agents' where the state is their observations, concatenated."""
    layout, spec = layout_of(env), env.spec
    if layout.state is None:
        return team_of(env).entities
    if not layout.state:
        return Entities((tuple(range(spec.state_size)),), ((0.0, 0.0),))
    places = _places(layout, layout.state, _columns(layout, [layout.state]), 0)
    return Entities(places, _marks(_names(layout.state), spec.agent_names, ""))


def _names(blocks: Blocks) -> list[str]:
    """The entities in order of first appearance."""
    return list(dict.fromkeys(about for about, _ in blocks))


def _numbers(layout: Layout, blocks: Blocks) -> list[tuple[str, Column]]:
    """The entity and the column of each number of a vector."""
    found: list[tuple[str, Column]] = []
    seen: Counter[tuple[str, str]] = Counter()
    for about, kind in blocks:
        for feature in layout.kinds[kind]:
            found.append((about, (feature.name, seen[about, feature.name])))
            seen[about, feature.name] += 1
    return found


def _columns(layout: Layout, views: list[Blocks]) -> list[Column]:
    return list(dict.fromkeys(column for blocks in views for _, column in _numbers(layout, blocks)))


def _places(layout: Layout, blocks: Blocks, columns: list[Column], start: int) -> tuple[tuple[int, ...], ...]:
    names = _names(blocks)
    table = np.full((len(names), len(columns)), NOWHERE)
    for place, (about, column) in enumerate(_numbers(layout, blocks), start):
        table[names.index(about), columns.index(column)] = place
    return tuple(map(tuple, table.tolist()))


def _marks(names: list[str], team: tuple[str, ...], own: str) -> tuple[tuple[float, ...], ...]:
    return tuple((float(name == own), float(name in team)) for name in names)


def _values(aims: tuple[str | None, ...], rows: list[str], num_plain: int, num_actions: int) -> tuple[int, ...]:
    """Plain actions in order, others at the entity that they are aimed at."""
    plain = iter(range(num_plain))
    own = [next(plain) if aim is None else num_plain + rows.index(aim) for aim in aims]
    return tuple(own + [0] * (num_actions - len(own)))
