"""A shield: a rule that narrows the legal actions, in training, evaluation, films and deployment alike.

It is any pure function `(observation, state, available) -> available` (docs/shield.md has an example). Whatever it
returns, `qmix_jax.deployed_agent.narrow` makes no illegal action legal and leaves every agent a legal one, here and in
the deployed agent.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import jax

from qmix_jax.deployed_agent import Shield, narrow
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.layout import Layout, layout_of
from qmix_jax.settings import ConfigError, nearest, require
from qmix_jax.types import CompactObservation, EnvState, Observation, Outcome, global_state


def load_shield(path: str) -> Shield:
    """The function that `package.module:function` names; raises ConfigError where there is none."""
    module_name, _, name = path.partition(":")
    require(bool(module_name and name), f"env.shield={path} must be written package.module:function")
    try:
        module = import_module(module_name)
    except Exception as error:  # the module can raise anything
        way_out = _way_out(module_name) if isinstance(error, ModuleNotFoundError) else ""
        raise ConfigError(
            f"env.shield={path}: {module_name} cannot be imported ({_one_line(error)}){way_out}"
        ) from error
    shield = getattr(module, name, None)
    hint = nearest(name, [key for key, value in vars(module).items() if callable(value)])
    require(callable(shield), f"env.shield={path}: {module_name} has no function {name}{hint}")
    return shield  # pyright: ignore[reportReturnType]


def _way_out(module_name: str) -> str:
    """How to import the module from the current folder, if it is there: only `train` looks there by itself."""
    is_here = any(Path(module_name.partition(".")[0] + suffix).exists() for suffix in ("", ".py"))
    return "; the current folder has one: if you trust it, set PYTHONPATH=. before the command" if is_here else ""


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


class Shielded(TeamEnv):
    """An environment in which only the actions are legal that its shield leaves.

    The shield gets all agents' observations (N, O), the global state (Z,) and the legal actions (N, A).
    """

    def __init__(self, env: TeamEnv, path: str):
        self.wrapped, self._shield = env, load_shield(path)
        self.spec, self.painter = env.spec, env.painter
        try:
            jax.eval_shape(self.reset, jax.random.key(0))
        except Exception as error:  # the shield can raise anything
            raise ConfigError(f"env.shield={path} does not work on {env.spec.name}: {_one_line(error)}") from error

    def layout(self) -> Layout:
        """What observations and actions mean."""
        return layout_of(self.wrapped)

    def _narrowed(self, observation: Observation) -> Observation:
        available = narrow(self._shield, observation.agents, global_state(observation), observation.available)
        return observation._replace(available=available)

    def reset(self, key: jax.Array) -> tuple[EnvState, Observation]:
        """Start an episode."""
        state, observation = self.wrapped.reset(key)
        return state, self._narrowed(observation)

    def step(self, key: jax.Array, state: EnvState, action: jax.Array) -> tuple[EnvState, Observation, Outcome]:
        """One step."""
        state, observation, outcome = self.wrapped.step(key, state, action)
        return state, self._narrowed(observation), outcome

    def compress(self, state: EnvState, observation: Observation) -> CompactObservation:
        """What the replay buffer keeps of an observation."""
        return self.wrapped.compress(state, observation)

    def decompress(self, compact: CompactObservation) -> Observation:
        """The observation of which `compress` made this."""
        return self._narrowed(self.wrapped.decompress(compact))

    def scene(self, state: EnvState) -> dict[str, Any]:
        """The environment's own."""
        return self.wrapped.scene(state)
