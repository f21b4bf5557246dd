"""The settings of the Robot Warehouse and its entry in the registry."""

from dataclasses import dataclass
from typing import Annotated

from qmix_jax.envs.definition import Definition
from qmix_jax.import_path import imported
from qmix_jax.settings import Count, Range

SIZES = {"mini": (1, 3, 3), "tiny": (1, 3, 8), "small": (2, 3, 8), "medium": (2, 5, 8), "large": (3, 5, 8)}
"""Rows and columns of shelf clusters and their height, as in the original Robotic Warehouse (RWARE), but for mini."""

MAPS = (
    "mini-2ag",
    "mini-2ag-easy",
    "tiny-2ag",
    "tiny-2ag-easy",
    "tiny-2ag-hard",
    "tiny-4ag",
    "tiny-4ag-easy",
    "tiny-4ag-hard",
    "small-4ag",
    "small-4ag-easy",
    "small-4ag-hard",
    "medium-4ag",
    "medium-4ag-easy",
    "medium-6ag",
    "large-4ag",
    "large-8ag",
)
"""The mini ones, and tasks that publications report."""

Height = Annotated[int, Range(1, 25, "must be between 1 and 25")]
Sight = Annotated[int, Range(1, 5, "must be between 1 and 5")]


@dataclass(frozen=True)
class WarehouseConfig:
    """Robot Warehouse of jumanji."""

    map: str = "mini-2ag-easy"
    """Size (mini to large, or 1x5: rows x columns of shelf clusters), robots, and -easy or -hard: twice or half as many
    requests as robots.
    """
    column_height: Height | None = None
    """Shelves from the top to the bottom of a cluster; null: as the map says, 3 in mini and 8 elsewhere."""
    sensor_range: Sight = 1
    """How many cells far robots see."""
    requests: Count | None = None
    """Shelves requested at any time; null: as many as the map says."""
    time_limit: Count = 500
    """Steps after which an episode is truncated."""


TRAINING = {
    "total_env_steps": 1_500_000,
    "rollout": {"num_envs": 32, "num_steps": 50},
    "exploration": {"decay_env_steps": 400_000},
    "replay": {"capacity": 400_000},
    # Deliveries are rare and come long after the steps that made them possible.
    "learner": {"env_steps_per_update": 400, "td_lambda": 0.9, "reward_scale": 10},
    "target": {"every_env_steps": 16_000},  # 40 updates
    "evaluation": {"every_env_steps": 75_000, "episodes": 64},
}

WAREHOUSE = Definition(
    settings=WarehouseConfig,
    make=imported("qmix_jax.envs.warehouse.env:Warehouse"),
    help="Robot Warehouse of jumanji: robots bring requested shelves to the goal and do not collide",
    training=TRAINING,
    variant="map",
    variants=MAPS,
    other_names=("rware", "robotwarehouse", "robot_warehouse"),
)
