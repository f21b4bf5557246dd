"""Flat observations and states by entity: as matrices with one row an entity, or as one set of entities a kind.

An environment's layout (`qmix_jax.envs.layout`) says which entity each number describes. Features of one name share a
column, so that all teams of an environment have the same columns and differ only in their rows; where one entity has
several features of a name, each of them has a column.
"""

from collections import Counter
from collections.abc import Sequence
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
    """(N, A) the index of each action's value among those of the plain actions, and then `num_aimed` of each entity."""
    num_plain: int
    """Actions that are aimed at no entity."""
    num_aimed: int = 1
    """The most actions that an agent can aim at one entity; 0 where none is aimed."""


class Kinds(NamedTuple):
    """The agents' observations and actions by kind of entity: the agent itself, its team and all others are apart, and
    of these those whose blocks differ.
    """

    places: tuple[tuple[int, ...], ...]
    """(N, X) the index in each agent's observation of every number that `split` gets; -1 where it lacks one."""
    sizes: tuple[tuple[int, int], ...]
    """Of each kind, how many entities the agent has that sees most of them, and how many features each has."""
    aimed: tuple[int, ...]
    """The kinds at which actions are aimed."""
    values: tuple[tuple[int, ...], ...]
    """As in `Team`, with the entities of the aimed kinds only."""
    num_plain: int
    """As in `Team`, and so is `num_aimed`."""
    num_aimed: int

    def arrange(self, obs: Float[Array, "*batch N O"]) -> Float[Array, "*batch N X"]:
        """The observations with the numbers of each kind together."""
        if set(self.places) == {tuple(range(obs.shape[-1]))}:
            return obs
        padded = jnp.concatenate([obs, jnp.zeros_like(obs[..., :1])], axis=-1)
        return padded[..., np.arange(len(self.places))[:, None], np.array(self.places)]  # -1 is the appended zero

    def split(self, arranged: Float[Array, "*batch X"]) -> list[Float[Array, "*batch K F"]]:
        """The entities of each kind; zeros in place of those that an agent lacks."""
        ends = np.cumsum([entities * features for entities, features in self.sizes])[:-1]
        parts = jnp.split(arranged, ends, axis=-1)
        return [part.reshape(*part.shape[:-1], *size) for part, size in zip(parts, self.sizes, strict=True)]


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
    aims, num_plain, num_aimed = _aims(layout)
    values = tuple(
        _values(aim, rows, num_plain, num_aimed, spec.num_actions) for aim, rows in zip(aims, names, strict=True)
    )
    return Team(Entities(tuple(places), tuple(marks)), values, num_plain, num_aimed)


def kinds_of(env: TeamEnv) -> Kinds:
    """The agents' view by kind. Where the environment has no layout, all numbers belong to one entity."""
    layout, spec = layout_of(env), env.spec
    views = [
        _by_kind(agent.blocks, own, spec.agent_names)
        for agent, own in zip(layout.agents, spec.agent_names, strict=True)
    ]
    kinds = list(dict.fromkeys(kind for view in views for kind in view))
    most = {kind: max(len(view.get(kind, ())) for view in views) for kind in kinds}
    columns = {kind: [column for _, column in _numbers(layout, [("", block) for block in kind[1]])] for kind in kinds}
    aims, num_plain, num_aimed = _aims(layout)
    targets = {name for aim in aims for name in aim}
    aimed = [kind for kind in kinds if any(targets.intersection(view.get(kind, ())) for view in views)]
    places, values = [], []
    for agent, view, aim in zip(layout.agents, views, aims, strict=True):
        names = {kind: [*(own := view.get(kind, [])), *[""] * (most[kind] - len(own))] for kind in kinds}
        place = {number: i for i, number in enumerate(_numbers(layout, agent.blocks))}
        numbers = [(name, column) for kind in kinds for name in names[kind] for column in columns[kind]]
        places.append(tuple(place.get(number, NOWHERE) for number in numbers))
        rows = [name for kind in aimed for name in names[kind]]
        values.append(_values(aim, rows, num_plain, num_aimed, spec.num_actions))
    sizes = tuple((most[kind], len(columns[kind])) for kind in kinds)
    return Kinds(tuple(places), sizes, tuple(map(kinds.index, aimed)), tuple(values), num_plain, num_aimed)


def state_of(env: TeamEnv) -> Entities:
    """The global state's entities: the layout's, or the agents' where the state is their observations, concatenated."""
    layout, spec = layout_of(env), env.spec
    if layout.state is None:
        return team_of(env).entities
    if not layout.state:
        return Entities((tuple(range(spec.state_size)),), ((0.0, 0.0),))
    places = _places(layout, layout.state, _columns(layout, [layout.state]), 0)
    return Entities(places, _marks(_names(layout.state), spec.agent_names, ""))


def _aims(layout: Layout) -> tuple[list[tuple[str | None, ...]], int, int]:
    """What every action of each agent is aimed at, the most plain actions, and the most aimed at one entity."""
    aims = [agent.aims or (None,) * len(agent.actions) for agent in layout.agents]
    counts = [Counter(aim) for aim in aims]
    most = max([0, *(number for count in counts for name, number in count.items() if name is not None)])
    return aims, max(count[None] for count in counts), most


def _by_kind(blocks: Blocks, own: str, team: tuple[str, ...]) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """The entities of each kind: (what it is to the agent, the keys of its blocks)."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name in _names(blocks):
        side = "self" if name == own else "team" if name in team else "other"
        found.setdefault((side, tuple(kind for about, kind in blocks if about == name)), []).append(name)
    return found


def _names(blocks: Blocks) -> list[str]:
    """The entities in order of first appearance."""
    return list(dict.fromkeys(about for about, _ in blocks))


def _numbers(layout: Layout, blocks: Sequence[tuple[str, str]]) -> list[tuple[str, Column]]:
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


def _values(
    aim: tuple[str | None, ...], rows: list[str], num_plain: int, num_aimed: int, num_actions: int
) -> tuple[int, ...]:
    """Plain actions in order, others at the entity that they are aimed at, in order where there are several."""
    plain, nth = iter(range(num_plain)), {name: iter(range(num_aimed)) for name in rows}
    own = [next(plain) if name is None else num_plain + rows.index(name) * num_aimed + next(nth[name]) for name in aim]
    return tuple(own + [0] * (num_actions - len(own)))
