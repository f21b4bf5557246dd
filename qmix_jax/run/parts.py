"""Mistakes in somebody's mixer or network that tracing shows, before a run writes anything."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from qmix_jax.agents.base import Agents
from qmix_jax.build import make_agents, make_mixer
from qmix_jax.config import Config
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.check.calls import explain, kind
from qmix_jax.mixers.base import Mixer
from qmix_jax.settings import ConfigError, require, traced_numbers
from qmix_jax.types import AgentInput, AgentOutput, MixerInput, TeamSpec

TIMES, BATCH = 2, 3
"""Sizes of the axes T and B in the check."""


def refuse_wrong_parts(config: Config, env: TeamEnv) -> None:
    """Raise ConfigError with the first mistake of a mixer or a network that is not this package's own."""
    agents, mixer = make_agents(config.agent, env), make_mixer(config.algorithm, env)
    if _is_from_elsewhere(agents):
        _check_agents(agents)
    if _is_from_elsewhere(mixer):
        _, output = _shape(agents, "step", *_agent_arguments(agents))
        _check_mixer(mixer, env.spec, output.features.shape[-1])


def _is_from_elsewhere(part: Any) -> bool:
    return type(part).__module__.partition(".")[0] != "qmix_jax"


def _check_agents(agents: Agents) -> None:
    params, state, inputs = _agent_arguments(agents)
    _require_floats(agents, "init", params)
    state = jax.tree.map(_struct, state)
    leads = all(leaf.shape[:1] == (BATCH,) for leaf in jax.tree.leaves(state))
    _require(agents, "initial_state", leads, f"must return arrays whose first axis is num_envs, here {BATCH}")
    _check_output(agents, "step", _shape(agents, "step", params, state, inputs), state, (BATCH,))
    if type(agents).unroll is not Agents.unroll:
        inputs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((TIMES, *leaf.shape), leaf.dtype), inputs)
        _check_output(agents, "unroll", _shape(agents, "unroll", params, state, inputs), state, (TIMES, BATCH))


def _agent_arguments(agents: Agents) -> tuple[Any, Any, AgentInput]:
    """Parameters, recurrent state and input of a step, as shapes."""
    team = (BATCH, agents.spec.num_agents)
    inputs = AgentInput(
        _floats(*team, agents.spec.obs_size),  # pyright: ignore[reportArgumentType]
        jax.ShapeDtypeStruct(team, jnp.int32),  # pyright: ignore[reportArgumentType]
        jax.ShapeDtypeStruct((BATCH,), jnp.bool_),  # pyright: ignore[reportArgumentType]
    )
    params = _shape(agents, "init", jax.random.key(0))
    return params, _shape(agents, "initial_state", call=lambda: agents.initial_state(BATCH)), inputs


def _check_output(agents: Agents, method: str, result: Any, before: Any, batch: tuple[int, ...]) -> None:
    is_pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], AgentOutput)
    _require(agents, method, is_pair, "must return (state, AgentOutput)")
    state, output = result
    team = (*batch, agents.spec.num_agents)
    for field, size in {"q": agents.spec.num_actions, "features": None}.items():
        found = getattr(output, field)
        words = f"float32 of shape ({', '.join(map(str, team))}, {size or 'H'})"
        is_right = _is_float(found, *team, size)
        _require(agents, method, is_right, f"{field} is {kind(found)}, but must be {words}")
    same = jax.tree.structure(state) == jax.tree.structure(before)
    _require(agents, method, same, "returns another structure of the recurrent state than initial_state")
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(state), strict=True):
        both = f"{kind(new)} in the recurrent state, where initial_state has {kind(old)}"
        _require(agents, method, (old.shape, old.dtype) == (new.shape, new.dtype), f"returns {both}")


def _check_mixer(mixer: Mixer, spec: TeamSpec, num_features: int) -> None:
    times = (TIMES, BATCH)
    team = (*times, spec.num_agents)
    joint = MixerInput(
        chosen_q=_floats(*team),
        greedy_q=_floats(*team),
        action=_floats(*team, spec.num_actions),
        is_greedy=jax.ShapeDtypeStruct(team, jnp.bool_),  # pyright: ignore[reportArgumentType]
        hidden=_floats(*team, num_features),
        state=_floats(*times, spec.state_size),
    )
    params, streams = _check_streams(mixer, joint, None)
    if type(mixer).penalty is not Mixer.penalty:
        found = _shape(mixer, "penalty", params, joint, joint, call=partial(mixer.apply, method="penalty"))
        wanted = f"float32 of shape (*batch), here {times}"
        _require(mixer, "penalty", _is_float(found, *times), f"returns {kind(found)}, but must return {wanted}")
    if mixer.central is not None:
        _require(mixer, "central", isinstance(mixer.central, Mixer), f"is {kind(mixer.central)}, but must be a Mixer")
        _, value = _check_streams(mixer.central, joint, 1)
        is_best = jax.ShapeDtypeStruct(value.shape, jnp.bool_)
        found = _shape(mixer, "importance", streams, value, value, is_best)
        wanted = f"float32 of shape (*batch, 1), here {value.shape}"
        _require(
            mixer, "importance", _is_float(found, *value.shape), f"returns {kind(found)}, but must return {wanted}"
        )

    def varied(numbers: dict[str, Any], params: Any, joint: MixerInput) -> Any:
        return mixer.clone(**numbers).apply(params, joint)

    for name, value in traced_numbers(type(mixer), vars(mixer)).items():
        mistake = f"{name} is Traced, but decides a branch, a shape or a dtype"
        _shape(mixer, mistake, {name: jnp.float32(value)}, params, joint, call=varied)


def _check_streams(mixer: Mixer, joint: MixerInput, count: int | None) -> tuple[Any, Any]:
    """A mixer's parameters and value streams as shapes; `count` is how many there must be, None for any number."""
    params = _shape(mixer, "__call__", jax.random.key(0), joint, call=mixer.init)
    _require_floats(mixer, "init", params)
    streams = _shape(mixer, "__call__", params, joint, call=mixer.apply)
    wanted = f"float32 of shape (*batch, {count or 'K'}), here {(TIMES, BATCH, 1)} with one stream"
    is_right = _is_float(streams, TIMES, BATCH, count) and streams.shape[-1] > 0
    _require(mixer, "__call__", is_right, f"returns {kind(streams)}, but must return {wanted}")
    return params, streams


def _shape(part: Any, method: str, *arguments: Any, call: Callable | None = None) -> Any:
    """What a method returns, as shapes; raises ConfigError where it fails."""
    try:
        return jax.eval_shape(call or getattr(part, method), *arguments)
    except Exception as error:  # somebody's code can raise anything
        raise ConfigError(f"{type(part).__name__}.{method}: {explain(error)}") from error


def _require_floats(part: Any, method: str, params: Any) -> None:
    for path, leaf in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        _require(part, method, leaf.dtype == jnp.float32, f"the parameter {name} is {kind(leaf)}, but must be float32")


def _is_float(found: Any, *shape: int | None) -> bool:
    """Whether something is float32 of this shape, in which None is any size."""
    is_float = isinstance(found, jax.ShapeDtypeStruct) and found.dtype == jnp.float32
    return (
        is_float
        and len(found.shape) == len(shape)
        and all(wanted in (None, size) for wanted, size in zip(shape, found.shape, strict=True))
    )


def _floats(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _require(part: Any, method: str, condition: bool, text: str) -> None:
    require(condition, f"{type(part).__name__}.{method}: {text}")
