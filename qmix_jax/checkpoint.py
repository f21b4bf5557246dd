"""Parameters on disk, through Orbax, and what is needed to use them again."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from qmix_jax import __version__
from qmix_jax.agents.recurrent import RecurrentAgents
from qmix_jax.config import Config, ConfigError, from_mapping, require
from qmix_jax.envs import make_env
from qmix_jax.envs.team import TeamEnv
from qmix_jax.types import Params

FINAL = "final"


def save_params(folder: Path, params: Any, name: str = FINAL) -> Path:
    """Write a pytree of arrays to folder/checkpoints/name (replacing it) and return that path."""
    import orbax.checkpoint as ocp  # takes a second to import, so only when something is saved

    logging.getLogger("absl").setLevel(logging.ERROR)
    path = (folder / "checkpoints" / name).resolve()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, params, force=True)
    return path


def load_params(folder: Path, name: str = FINAL) -> Any:
    """Read what `save_params` wrote, as NumPy arrays."""
    import numpy as np
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    path = (folder / "checkpoints" / name).resolve()
    require(path.is_dir(), f"{folder} holds no checkpoint '{name}'")
    with ocp.PyTreeCheckpointer() as checkpointer:
        structure = checkpointer.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), structure)
        return checkpointer.restore(path, restore_args=as_numpy)


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its settings, its environment, its agents and their parameters."""

    config: Config
    env: TeamEnv
    all_params: Params
    """{"agent": ..., "mixer": ...}; every leaf with a leading axis of seeds."""

    @property
    def agents(self) -> RecurrentAgents:
        """The team's networks; `agents.step` with `params(seed)["agent"]` is the decentralised policy."""
        return RecurrentAgents(self.config.agent, self.env.spec)

    def params(self, seed: int = 0) -> Params:
        """The parameters of the run's seed number `seed`, counted from 0."""
        require(0 <= seed < self.config.num_seeds, f"seed={seed}, but the run has {self.config.num_seeds}")
        return jax.tree.map(lambda leaf: leaf[seed], self.all_params)


def read_config(folder: Path) -> Config:
    """The settings in a run's folder; raises ConfigError, in one line, where this version cannot read them."""
    from omegaconf import OmegaConf

    path = folder / "config.yaml"
    require(path.is_file(), f"{folder} is no run's folder: it has no config.yaml")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
        require(isinstance(values, dict), "it holds no settings")
        return from_mapping(values)  # pyright: ignore[reportArgumentType]
    except Exception as error:  # whatever the file may hold
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{path} is not of qmix_jax {__version__}, or is damaged: {reason}") from error


def load_run(folder: str | Path, checkpoint: str = "last") -> TrainedRun:
    """A run from its folder; raises ConfigError where it is none."""
    folder = Path(folder)
    require(checkpoint == "last", f"checkpoint={checkpoint} is not known; the run holds only the last")
    config = read_config(folder)
    return TrainedRun(config, make_env(config.env), load_params(folder))
