"""The settings of Level-Based Foraging and its entry in the registry."""

from dataclasses import dataclass

from qmix_jax.envs.definition import Definition
from qmix_jax.import_path import imported
from qmix_jax.settings import Count

MAPS = (
    "8x8-2p-2f",
    "8x8-2p-2f-coop",
    "2s-8x8-2p-2f",
    "2s-8x8-2p-2f-coop",
    "10x10-3p-3f",
    "2s-10x10-3p-3f",
    "15x15-3p-5f",
    "15x15-4p-3f",
    "15x15-4p-5f",
)
"""Tasks that publications report."""


@dataclass(frozen=True)
class ForagingConfig:
    """Level-Based Foraging of jumanji."""

    map: str = "8x8-2p-2f"
    """Grid, players and foods; 2s- in front of it: players see 2 cells far; -coop after it: all food needs the team."""
    time_limit: Count = 100
    """Steps after which an episode is truncated."""


TRAINING = {
    "total_env_steps": 1_000_000,
    "rollout": {"num_envs": 32, "num_steps": 25},  # a quarter of the longest episode, two of a good team's
    "exploration": {"decay_env_steps": 200_000},
    "replay": {"capacity": 200_000},
    "learner": {"env_steps_per_update": 200, "start_env_steps": 10_000},
    "target": {"every_env_steps": 8_000},  # 40 updates
    "evaluation": {"every_env_steps": 50_000},
}

FORAGING = Definition(
    settings=ForagingConfig,
    make=imported("qmix_jax.envs.foraging.env:Foraging"),
    help="Level-Based Foraging of jumanji: agents eat food together that is too much for one",
    training=TRAINING,
    variant="map",
    variants=MAPS,
    other_names=("lbf", "lbforaging", "levelbasedforaging"),
)
