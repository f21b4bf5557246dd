"""Mistakes that tracing shows: arguments, returned values, shapes, dtypes, and calls that are not alike."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.check.calls import WrongArgumentsError, explain, holds_numbers, kind, require_arguments, trace
from qmix_jax.envs.check.contents import copied, is_same
from qmix_jax.envs.check.spec import is_word, layout_problems, spec_problems, variant_problems
from qmix_jax.envs.check.traced_numbers import traced_problems
from qmix_jax.records import RESERVED_METRICS
from qmix_jax.settings import shown
from qmix_jax.types import Observation, Outcome

METHODS = {
    "reset": ("key",),
    "step": ("key", "state", "action"),
    "compress": ("state", "observation"),
    "decompress": ("compact",),
    "scene": ("state",),
}
NUMBER = bool | int | float | complex | np.ndarray | np.generic | jax.Array | jax.ShapeDtypeStruct


def shape_problems(env: Any, settings: Any = None) -> list[str]:
    """A line for each mistake that tracing shows, without compiling anything. Of an environment around another (its
    attribute `wrapped`), the mistakes of the inner one are told first, alone.

    `settings` are the arguments that made the environment, as a dataclass (`EnvConfig.settings`); None: its attributes.
    """
    inner = getattr(env, "wrapped", None)
    if isinstance(inner, TeamEnv) and (found := shape_problems(inner, settings)):
        return found
    name = type(env).__name__
    if not isinstance(env, TeamEnv):
        return [f"{name} must be derived from qmix_jax.envs.base.TeamEnv"]
    if found := [*spec_problems(env), *variant_problems(env)] or list(_wrong_methods(env)):
        return [f"{name}.{line}" for line in found]
    shapes = _Shapes(env)
    shapes.check()
    found = shapes.found or list(traced_problems(env, None if inner else settings))
    return [f"{name}.{line}" for line in found]


def _wrong_methods(env: TeamEnv) -> Iterator[str]:
    for name, arguments in METHODS.items():
        try:
            require_arguments(env, name, arguments)
        except WrongArgumentsError as error:
            yield str(error)


class _Shapes:
    """Traces one method after the other, as far as what they return is of use to the next."""

    def __init__(self, env: TeamEnv):
        self.found: list[str] = []
        self._env, self._spec = env, env.spec

    def check(self) -> None:
        """Find the mistakes."""
        key, action = jax.random.key(0), jax.ShapeDtypeStruct((self._spec.num_agents,), jnp.int32)
        start = self._call("reset", key, returns=(None, Observation))
        if start is None:
            return
        state, observation = start
        if not (self._is_state("reset", state) & self._is_observation("reset", observation)):
            return
        state, observation = jax.tree.map(_struct, (state, observation))
        self._check_step(
            state, observation, self._call("step", key, state, action, returns=(None, Observation, Outcome))
        )
        self._check_compact(state, observation)
        self._check_scene(self._call("scene", state))
        self.found += layout_problems(self._env)

    def _call(self, name: str, *arguments: Any, returns: tuple[type | None, ...] = ()) -> Any:
        """What a method returns; None where it fails, or returns something else than `returns`."""
        method, before = getattr(self._env, name), {}
        try:
            first = trace(method, *arguments)
            before = copied(vars(self._env))  # after the first call, which may compute something once and for all
            second = trace(method, *arguments)
        except Exception as error:  # somebody's code can raise anything
            self.found.append(f"{name}: {explain(error)}")
            return None
        if returns and not _matches(first.result, returns):
            wanted = _listed(cls.__name__ if cls else "state" for cls in returns)
            self.found.append(f"{name} returns {_returned(first.result)}, but must return {wanted}")
            return None
        now = copied(vars(self._env))
        changed = [
            attribute for attribute in now if attribute not in before or not is_same(before[attribute], now[attribute])
        ]
        if changed:
            self.found.append(f"{name} changes self.{changed[0]}, but must be pure: keep it in the state")
        elif not first.is_same_program(second):
            self.found.append(
                f"{name} does something else when it is called again, but must be pure: random numbers come from "
                "jax.random and the key, not from Python or NumPy"
            )
        return first.result

    def _check_step(self, state: Any, observation: Observation, result: Any) -> None:
        if result is None:
            return
        new_state, new_observation, outcome = result
        if self._is_state("step", new_state):
            self.found += _changes("step", "state", state, new_state)
        if self._is_observation("step", new_observation):
            self.found += _changes("step", "Observation", observation, new_observation)
        self._require("step", "Outcome.reward", outcome.reward, (), jnp.float32, "the team's one reward")
        for field in ("terminated", "truncated"):
            self._require("step", f"Outcome.{field}", getattr(outcome, field), (), jnp.bool_)
        self._check_metrics(outcome.metrics)

    def _check_metrics(self, metrics: Any) -> None:
        if not isinstance(metrics, dict):
            self.found.append(f"step: Outcome.metrics is {kind(metrics)}, but must be a dict of arrays by name")
            return
        for name, value in metrics.items():
            where = f"step: Outcome.metrics[{name!r}]"
            if not is_word(name):
                self.found.append(f"{where} has the name {name!r}, but must have a word of printable characters")
            if not (isinstance(value, jax.Array) and value.shape == () and holds_numbers(value)):
                self.found.append(f"{where} is {kind(value)}, but must be a JAX array of one number, of shape ()")
            if name in RESERVED_METRICS:
                self.found.append(f"{where} has the name of a metric of every run, but must have another name")

    def _check_compact(self, state: Any, observation: Observation) -> None:
        compact = self._call("compress", state, observation)
        if compact is None or not self._is_state("compress", compact, "what it returns"):
            return
        restored = self._call("decompress", jax.tree.map(_struct, compact))
        if restored is None:
            return
        if not isinstance(restored, Observation):
            self.found.append(f"decompress returns {_returned(restored)}, but must return Observation")
        elif self._is_observation("decompress", restored):
            self.found += _changes("decompress", "Observation", observation, restored)

    def _check_scene(self, scene: Any) -> None:
        if scene is None:
            return
        if not (isinstance(scene, dict) and all(isinstance(name, str) for name in scene)):
            self.found.append(f"scene returns {_returned(scene)}, but must return a dict of arrays by name")
            return
        for name, value in scene.items():
            if not isinstance(value, NUMBER):
                self.found.append(f"scene: {name!r} is {kind(value)}, but must be an array")

    # --- values ----------------------------------------------------------------------------------------------------

    def _is_state(self, method: str, state: Any, what: str = "state") -> bool:
        """Whether all leaves of the state are arrays."""
        before = len(self.found)
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
            if not isinstance(leaf, NUMBER):
                hint = "" if path else ", or a NamedTuple, dict or registered dataclass of them"
                name = what + jax.tree_util.keystr(path)
                self.found.append(f"{method}: {name} is {kind(leaf)}, but must be an array{hint}")
        return len(self.found) == before

    def _is_observation(self, method: str, observation: Observation) -> bool:
        """Whether the shapes and dtypes are those of the spec."""
        spec, before = self._spec, len(self.found)
        agents, side_by_side = spec.num_agents, spec.num_agents * spec.obs_size
        sizes = f"agents x spec.obs_size = {agents} x {spec.obs_size}"
        self._require(method, "Observation.agents", observation.agents, (agents, spec.obs_size), jnp.float32, sizes)
        sizes = f"agents x spec.num_actions = {agents} x {spec.num_actions}"
        self._require(
            method, "Observation.available", observation.available, (agents, spec.num_actions), jnp.bool_, sizes
        )
        sizes = f"spec.state_size = {spec.state_size}"
        if observation.state is not None:
            self._require(method, "Observation.state", observation.state, (spec.state_size,), jnp.float32, sizes)
        elif spec.state_size != side_by_side:
            self.found.append(
                f"{method}: Observation.state is None, which means the {side_by_side} numbers that all agents see, "
                f"but must have {sizes}"
            )
        return len(self.found) == before

    def _require(self, method: str, field: str, value: Any, shape: tuple[int, ...], dtype: Any, why: str = "") -> None:
        if not (isinstance(value, jax.Array) and value.shape == shape and value.dtype == dtype):
            wanted = f"a JAX array, {np.dtype(dtype)} of shape {shape}" + (f" ({why})" if why else "")
            self.found.append(f"{method}: {field} is {kind(value)}, but must be {wanted}")


def _matches(result: Any, returns: tuple[type | None, ...]) -> bool:
    """Whether a method returned a plain tuple of these classes (None: of anything)."""
    return (
        type(result) is tuple
        and len(result) == len(returns)
        and all(cls is None or isinstance(value, cls) for value, cls in zip(result, returns, strict=True))
    )


def _returned(result: Any) -> str:
    """The classes of what a method returned."""
    return _listed(map(_class, result)) if type(result) is tuple else _class(result)


def _class(value: Any) -> str:
    return "array" if isinstance(value, jax.Array) else "None" if value is None else type(value).__name__


def _listed(names: Any) -> str:
    return f"({', '.join(names)})"


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype that an array or a number has in JAX."""
    return jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf))


def _changes(method: str, what: str, before: Any, after: Any) -> Iterator[str]:
    """How a pytree differs from that of `reset`."""
    (leaves, tree), (new_leaves, new_tree) = (jax.tree_util.tree_flatten_with_path(each) for each in (before, after))
    if tree != new_tree:
        now, was = _tree(after, new_leaves), _tree(before, leaves)
        yield f"{method}: {what} is {now}, but must be {was}, as reset returns it"
        return
    for (path, old), (_, new) in zip(leaves, new_leaves, strict=True):
        if (was := kind(old)) != (now := kind(_struct(new))):
            yield f"{method}: {what}{jax.tree_util.keystr(path)} is {now}, but must be {was}, as reset returns it"


def _tree(root: Any, leaves: list) -> str:
    """A pytree in words: the class of its root and the names of its leaves, as many as fit."""
    names = ", ".join(jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
    return f"{_class(root)} of ({shown(names)})"
