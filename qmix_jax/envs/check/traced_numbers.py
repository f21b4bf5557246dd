"""Mistakes in settings that are declared `Traced` (`qmix_jax.settings`): arguments of the compiled program."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qmix_jax.envs.base import TeamEnv, start_of
from qmix_jax.envs.check.calls import explain
from qmix_jax.envs.check.contents import copied, is_same
from qmix_jax.settings import ConfigError, check_ranges, constructor_settings, require, traced_numbers


def traced_problems(env: TeamEnv, settings: Any = None) -> Iterator[str]:
    """What is wrong with the `Traced` arguments of the constructor: attributes that are computed from one and stay as
    they are when it changes, and numbers that decide a branch, a shape or a dtype.

    `settings` are the arguments as a dataclass; None: the environment's attributes of their names. Environments that
    cannot be made again are not checked.
    """
    settings = _settings_of(env) if settings is None else settings
    numbers = traced_numbers(type(settings), vars(settings)) if hasattr(settings, "made_from") else {}
    for name in numbers:
        yield from _computed(env, settings, name)
    if numbers and _failure(env, numbers):
        for name, value in numbers.items():
            if error := _failure(env, {name: value}):
                yield f"{name} is Traced, but decides a branch, a shape or a dtype: {explain(error)}; or drop Traced"


def _settings_of(env: TeamEnv) -> Any:
    try:
        cls = constructor_settings(type(env))
        return cls(**{each.name: getattr(env, each.name) for each in dataclasses.fields(cls)})
    except (ConfigError, AttributeError):
        return None


def _computed(env: TeamEnv, settings: Any, name: str) -> Iterator[str]:
    """Attributes that the constructor computes from a number, and `with_numbers` does not."""
    try:
        changed = _with_another(settings, name)
        again, made = (type(env)(**vars(each)) for each in (settings, changed))
        copy = again.with_numbers(traced_numbers(type(changed), vars(changed)))
    except Exception:  # somebody's constructor refuses another number, or with_numbers fails, which tracing shows
        return
    own, others, remade = (copied(vars(each)) for each in (env, again, made))
    followed = copied(vars(copy))
    for attribute in remade:
        is_definite = attribute in own and attribute in others and is_same(own[attribute], others[attribute])
        if is_definite and not is_same(remade[attribute], followed.get(attribute)):
            yield f"{attribute} is computed from {name}, which is Traced: override with_numbers, or drop Traced"


def _with_another(settings: Any, name: str) -> Any:
    """The settings with another value of a number, within its range."""
    value = getattr(settings, name)
    for other in (value + 1, value - 1, value / 2, value + 0.01, value - 0.01):
        changed = dataclasses.replace(settings, **{name: other})
        try:
            check_ranges("", changed)
        except ConfigError:
            continue
        if other != value:
            return changed
    raise ConfigError(f"{name} has one value only")


def _failure(env: TeamEnv, numbers: Mapping[str, float]) -> Exception | None:
    """What goes wrong where these numbers are arguments of the program."""

    def play(numbers: dict[str, jax.Array], key: jax.Array, action: jax.Array) -> Any:
        varied = env.with_numbers(numbers)
        state, observation = start_of(varied, key)
        after = varied.step(key, state, action)
        was, now = (list(map(jnp.result_type, jax.tree.leaves(each))) for each in (state, after[0]))
        require(was == now, "reset and step, called with it as float32, return states of different dtypes")
        return varied.decompress(varied.compress(state, observation)), after

    arguments = {name: jnp.float32(value) for name, value in numbers.items()}
    try:
        jax.eval_shape(play, arguments, jax.random.key(0), jnp.zeros(env.spec.num_agents, int))
    except Exception as error:  # somebody's code can raise anything
        return error
    return None
