"""Connector's settings and its entry in the registry."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from qmix_jax.envs.definition import Definition
from qmix_jax.import_path import imported
from qmix_jax.settings import Count, Few, Range, check_ranges, require


@dataclass(frozen=True)
class ConnectorConfig:
    """Agents lay paths on a grid, each to its own target, without crossing another's (jumanji)."""

    grid_size: Annotated[int, Range(2, 100, "must lie between 2 and 100")] = 5
    """Rows and columns of the grid."""
    num_agents: Few = 3
    """Agents of the team, each with a target."""
    generator: Literal["random_walk", "uniform"] = "random_walk"
    """Where targets lie: at the ends of walks that do not cross, so that all can be reached, or anywhere."""
    time_limit: Count = 50
    """Steps after which an episode is cut."""

    def __post_init__(self):
        check_ranges("env.", self)
        cells, needed = self.grid_size**2, 2 * self.num_agents
        require(
            needed <= cells,
            f"env.num_agents={self.num_agents} need {needed} cells for heads and targets, and env.grid_size="
            f"{self.grid_size} has {cells}; choose a larger grid",
        )


def _team_sizes(settings: ConnectorConfig) -> dict[str, ConnectorConfig]:
    """Grids that are about as crowded as the usual ones."""
    sizes = {3: 5, 5: 7, 10: 10}
    return {f"{g}x{g}, {n} agents": replace(settings, num_agents=n, grid_size=g) for n, g in sizes.items()}


TRAINING = {
    "total_env_steps": 500_000,
    "rollout": {"num_envs": 32, "num_steps": 16},  # about three episodes of a trained team
    "exploration": {"decay_env_steps": 50_000},
    "replay": {"capacity": 102_400},  # 200 rollouts of 32 x 16
    "learner": {"env_steps_per_update": 128, "start_env_steps": 5_000, "td_lambda": 0.6},
    "evaluation": {"every_env_steps": 50_000},
}

CONNECTOR = Definition(
    settings=ConnectorConfig,
    make=imported("qmix_jax.envs.connector.env:Connector"),
    help="Agents lay paths on a grid that must not cross, of jumanji",
    training=TRAINING,
    team_sizes=_team_sizes,
    example="env=connector env.grid_size=7 env.num_agents=5",
)
