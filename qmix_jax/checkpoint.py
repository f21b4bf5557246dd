"""Parameters on disk, through Orbax, and what is needed to use them again."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from qmix_jax.agents.recurrent import RecurrentAgents
from qmix_jax.config import Config, ConfigError, from_mapping, require
from qmix_jax.envs import make_team
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


def load_run(folder: str | Path) -> TrainedRun:
    """A run from its folder; raises ConfigError where it is none."""
    from omegaconf import OmegaConf

    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} is no run's folder: it has no config.yaml")
    config = from_mapping(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))  # pyright: ignore
    return TrainedRun(config, make_team(config), load_params(folder))
