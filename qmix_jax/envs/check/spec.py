"""Mistakes in what an environment says of itself: its spec, its variants, its layout and the name of its painter."""

import typing
from collections.abc import Iterator
from typing import Any

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.check.calls import explain, kind
from qmix_jax.envs.layout import AgentLayout, Layout
from qmix_jax.settings import ConfigError, constructor_settings, convert, require
from qmix_jax.types import TeamSpec

MOST_ACTIONS = 2**15 - 2
"""Replay stores actions, and one number more for none, in 16 bits."""


def spec_problems(env: TeamEnv) -> list[str]:
    """What is wrong with `spec`."""
    try:
        spec = getattr(env, "spec", None)
    except Exception as error:  # a property can raise anything
        return [f"spec: {explain(error)}"]
    if spec is None:
        return ["spec is missing: set self.spec = TeamSpec(...) in __init__"]
    if not isinstance(spec, TeamSpec):
        hint = ", which needs @property above it" if callable(spec) else ""
        return [f"spec is {kind(spec)}{hint}, but must be a TeamSpec"]
    return [f"spec.{field} is {shown(getattr(spec, field))}, but must be {must}" for field, must in _wrong_fields(spec)]


def shown(value: Any) -> str:
    """A field's value, with its type where that is neither a word nor a number of Python."""
    return repr(value) if isinstance(value, str | int | float | tuple) or value is None else f"{value!r}, {kind(value)}"


def _wrong_fields(spec: TeamSpec) -> Iterator[tuple[str, str]]:
    """The names of wrong fields, with what they must be."""
    if not is_word(spec.name):
        yield "name", "a word"
    names = spec.agent_names
    are_names = isinstance(names, tuple) and names and all(map(is_word, names))
    if not are_names or len(set(names)) < len(names):
        yield "agent_names", "a tuple with a different word for each agent"
    for field in ("obs_size", "num_actions", "state_size", "episode_limit"):
        if not is_whole(getattr(spec, field), 1):
            yield field, "a Python int of 1 or more"
    if is_whole(spec.num_actions, MOST_ACTIONS + 1):
        yield "num_actions", f"{MOST_ACTIONS} at most"
    if is_whole(spec.num_actions, 1) and not (
        spec.idle_action is None or is_whole(spec.idle_action, 0, spec.num_actions - 1)
    ):
        yield "idle_action", f"None, or an action: an int from 0 to spec.num_actions - 1 = {spec.num_actions - 1}"
    if is_whole(spec.episode_limit, 1) and not is_whole(spec.shortest_episode, 1, spec.episode_limit):
        yield "shortest_episode", f"an int from 1 to spec.episode_limit = {spec.episode_limit}"


def is_word(value: Any) -> bool:
    """Whether a value is a text that can stand in a line of a table."""
    return isinstance(value, str) and value != "" and value.isprintable()


def is_whole(value: Any, low: int, high: int | None = None) -> bool:
    """Whether a value is an int of Python within the limits."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value and (high is None or value <= high)


def variant_problems(env: TeamEnv) -> Iterator[str]:
    """What is wrong with `variant` and `variants`, against the arguments of the constructor."""
    name, variants = env.variant, env.variants
    if not (isinstance(variants, tuple | list) and all(isinstance(value, str) for value in variants)):
        yield f"variants is {shown(variants)}, but must be a tuple of words"
    elif name is None and variants:
        yield f"variants is {variants}, but variant, the setting that has these values, is None"
    elif name is not None:
        try:
            hints = typing.get_type_hints(constructor_settings(type(env)))
            require(name in hints, f"must be an argument of the constructor: {', '.join(hints) or 'it has none'}")
        except ConfigError as error:
            yield f"variant is {shown(name)}, but {error}"
            return
        for value in variants:
            try:
                convert(value, hints[name], f"env.{name}")
            except ConfigError as error:
                yield f"variants has {value!r}, but {error}"


# --- the layout and the painter ------------------------------------------------------------------------------------


def layout_problems(env: TeamEnv) -> list[str]:
    """What is wrong with `layout`, against the spec, and with the name of the painter."""
    painter = env.painter
    is_path = isinstance(painter, str) and all(painter.partition(":"))
    found = [] if painter is None or is_path else [f'painter is {kind(painter)}, but must be "module:function" or None']
    layout_of = getattr(env, "layout", None)
    if layout_of is None:
        return found
    if not callable(layout_of):
        return [*found, f"layout is {kind(layout_of)}, but must be a method layout()"]
    try:
        layout = layout_of()
    except Exception as error:  # the layout can raise anything
        return [*found, f"layout: {explain(error)}"]
    return found + list(_wrong_layout(layout, env.spec))


def _wrong_layout(layout: Any, spec: TeamSpec) -> Iterator[str]:
    if not isinstance(layout, Layout):
        yield f"layout() is {kind(layout)}, but must be a Layout"
        return
    blocks = [block for agent in layout.agents for block in agent.blocks] + list(layout.state or ())
    unknown = [kind for _, kind in blocks if kind not in layout.kinds]
    if unknown:
        yield f"layout has a block of kind {unknown[0]!r}, but must have one of its kinds: {', '.join(layout.kinds)}"
        return
    if len(layout.agents) != spec.num_agents:
        yield f"layout describes {len(layout.agents)} agents, but must describe spec.num_agents = {spec.num_agents}"
        return

    def size(blocks: Any) -> int:
        return sum(len(layout.kinds[kind]) for _, kind in blocks)

    yield from _wrong_sizes("numbers", [size(agent.blocks) for agent in layout.agents], "obs_size", spec)
    yield from _wrong_sizes("actions", [len(agent.actions) for agent in layout.agents], "num_actions", spec)
    for i, agent in enumerate(layout.agents):
        yield from (f"layout.agents[{i}] {text}" for text in _wrong_aims(agent))
    if layout.state and (length := size(layout.state)) != spec.state_size:
        yield f"layout.state has {length} numbers, but must have spec.state_size = {spec.state_size}"


def _wrong_sizes(what: str, counts: list[int], field: str, spec: TeamSpec) -> Iterator[str]:
    """The largest agent has as many numbers and actions as the spec says; smaller ones are padded."""
    largest, must = max(counts), getattr(spec, field)
    if largest != must:
        agent = f"layout.agents[{counts.index(largest)}]"
        yield f"{agent}, with the most {what}, has {largest} {what}, but must have spec.{field} = {must}"


def _wrong_aims(agent: AgentLayout) -> Iterator[str]:
    if agent.aims and len(agent.aims) != len(agent.actions):
        yield f"has {len(agent.aims)} aims, but must have none, or one for each of its {len(agent.actions)} actions"
    entities = list(dict.fromkeys(about for about, _ in agent.blocks))
    for aim in agent.aims:
        if aim is not None and aim not in entities:
            yield f"aims at {aim!r}, but must aim at None or an entity of its blocks: {', '.join(entities)}"
