"""The launchers by name: `hydra/launcher=NAME`."""

from qmix_jax.registry import Registry
from qmix_jax.sweep.launchers.base import Launcher

LAUNCHERS: Registry[type[Launcher]] = Registry(
    __name__,
    {
        "processes": "processes:Processes",
        "together": "together:Together",
        "slurm": "slurm:Slurm",
        "ray": "ray:Ray",
    },
    setting="hydra.launcher.name",
    contract="base:Launcher",
    group="qmix_jax.launchers",
)
