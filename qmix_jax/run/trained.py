"""A finished run for further use: its settings, its environment, and its agents with their parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.agents.base import Agents
from qmix_jax.build import NOTHING, from_file, make_agents, make_team, makers
from qmix_jax.config import Config, by_name, to_mapping
from qmix_jax.console import warn
from qmix_jax.envs.base import TeamEnv
from qmix_jax.learning.trainer import Trainer
from qmix_jax.run.checkpoint import Checkpoint, find
from qmix_jax.run.snapshot import leaves_by_path
from qmix_jax.settings import require
from qmix_jax.types import Params
from qmix_jax.untrusted import read_settings

UNTRAINED = (
    *("logging", "checkpoint", "evaluation", "num_seeds_at_once", "devices", "total_env_steps"),
    *("callbacks", "import_folders"),
)
"""Settings, and groups of them, that make no difference to a trained team."""


@dataclass(frozen=True)
class TrainedRun:
    """A run's settings, its environment, its agents and their parameters."""

    config: Config
    env: TeamEnv
    all_params: Params = field(repr=False)
    """{"agent": ..., "mixer": ...}; every leaf has a leading axis S of seeds."""
    env_steps: int | None = None
    """Environment steps of the checkpoint."""

    @property
    def agents(self) -> Agents:
        """The team's networks; `agents.step` with `params(seed)["agent"]` is the decentralised policy."""
        return make_agents(self.config.agent, self.env)

    def agents_in(self, env: TeamEnv) -> Agents | None:
        """The same networks in another environment; None where the parameters do not fit it."""
        agents = make_agents(self.config.agent, env)
        wanted = jax.eval_shape(agents.init, jax.random.key(0))
        found = jax.tree.map(lambda leaf: leaf.shape[1:], self.all_params["agent"])
        return agents if found == jax.tree.map(lambda leaf: leaf.shape, wanted) else None

    def params(self, seed: int = 0) -> Params:
        """The parameters of the run's seed number `seed`, counted from 0, as JAX arrays."""
        count = self.config.num_seeds
        require(0 <= seed < count, f"seed={seed}, but the run has {count}, numbered from 0")
        return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[seed]), self.all_params)


def load_run(
    folder: str | Path, checkpoint: str | int = "last", *, env: Any = None, mixer: Any = None, agents: Any = None
) -> TrainedRun:
    """A run from its folder, with the parameters of one checkpoint: `last`, `best`, or its environment steps.

    The settings are those that the checkpoint was trained with; a warning names what differs in config.yaml. Neither
    the replay nor the rest of the training state is read. A damaged checkpoint is skipped with a warning. `env`,
    `mixer` and `agents` are the objects or classes with which the run was trained, where they were made in Python.

    Raises:
        ConfigError: the folder holds no run, a run of another version, or no such checkpoint that can be read.
    """
    folder = Path(folder)
    given = {"env": env, "algorithm": mixer, "agent": agents}
    written = read_config(folder, given)
    chosen = find(folder, checkpoint)
    config = read_config_of(chosen, given)
    _warn_of_edits(folder, written, config)
    run = TrainedRun(config, make_team(config), on_device(chosen.params), chosen.env_steps)
    made_by = f"{folder} was made by another version of {makers(to_mapping(config))}"
    require(_fits(run), f"{made_by}: its networks have other parameters")
    return run


def on_device(params: Params) -> Params:
    """Parameters as JAX arrays, which `jax.jit` can close over, unlike those of NumPy that Orbax returns."""
    return jax.tree.map(jnp.asarray, params)


def read_config(folder: Path, given: Mapping[str, Any] = NOTHING) -> Config:
    """The settings in a run folder's config.yaml; raises ConfigError where this version cannot read them."""
    return from_file(read_settings(folder), folder, given)


def read_config_of(checkpoint: Checkpoint, given: Mapping[str, Any] = NOTHING) -> Config:
    """The settings saved in a checkpoint, or else in config.yaml; raises ConfigError where they cannot be read."""
    path, settings = checkpoint.path, checkpoint.settings
    return read_config(path.parents[1], given) if settings is None else from_file(settings, path, given)


def _warn_of_edits(folder: Path, written: Config, trained: Config) -> None:
    """Name the settings in which config.yaml differs from the checkpoint and that matter to a trained team."""
    now, before = by_name(written), by_name(trained)
    edited = [name for name in now if now[name] != before.get(name) and name.split(".")[0] not in UNTRAINED]
    if edited:
        shown = ", ".join(f"{name}={now[name]} (trained with {before.get(name)})" for name in edited[:3])
        warn(f"{folder / 'config.yaml'} was changed since; the checkpoint's settings are used: {shown}")


def _fits(run: TrainedRun) -> bool:
    """Whether the parameters have the names, shapes and types that this version makes from the run's settings."""
    wanted = jax.eval_shape(Trainer(run.config, run.env).learner.init, jax.random.key(0)).params
    found = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), run.all_params)
    return leaves_by_path(found) == leaves_by_path(wanted)
