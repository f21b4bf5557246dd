"""The settings of JaxNav and its entry in the registry."""

from dataclasses import dataclass
from typing import Annotated

from qmix_jax.envs.definition import Definition
from qmix_jax.import_path import imported
from qmix_jax.settings import Count, Few, Range, Share, require_one_of

MAPS = (
    "random",
    "BlankCross2",
    "BlankCross4",
    "BlankCrossUneven2",
    "CircleCross",
    "Corner2",
    "Chicane2",
    "Chicane4",
    "NarrowChicane2a",
    "NarrowChicane2b",
    "Layby4",
    "Corridor4",
    "Corridor8",
    "LongCorridor2",
)


@dataclass(frozen=True)
class JaxNavConfig:
    """Robots that drive to their goals among walls."""

    map: str = "random"
    """random: walls, starts and goals are drawn for each episode; or a fixed case of JaxMARL, such as BlankCross2."""
    num_agents: Few = 2
    """Robots on a random map; a fixed case has its own number, which its name ends in."""
    size: Annotated[int, Range(5, 100, "must lie between 5 and 100")] = 5
    """Cells along each side of a random map, walls around it included; a cell is 1 m. JaxMARL's default is 11."""
    fill: Share = 0.3
    """The largest share of a random map's inner cells that are walls."""
    beams: Count = 12
    """Directions in which a robot measures the distance to the next wall or robot. JaxMARL's default is 200."""
    max_steps: Count = 100
    """Steps of 0.1 s after which an episode is truncated. JaxMARL's default is 500."""

    def __post_init__(self):
        require_one_of("env.map", self.map, MAPS)


TRAINING = {
    "total_env_steps": 600_000,
    "rollout": {"num_envs": 32, "num_steps": 50},
    "exploration": {"decay_env_steps": 200_000},
    "replay": {"capacity": 320_000},
    "learner": {"env_steps_per_update": 200, "start_env_steps": 16_000},
    "target": {"every_env_steps": 10_000},
    "evaluation": {"every_env_steps": 50_000},
}

JAXNAV = Definition(
    settings=JaxNavConfig,
    make=imported("qmix_jax.envs.jaxnav.env:Navigation"),
    help="Robots of JaxMARL's JaxNav that drive to their goals among walls, with discrete actions",
    training=TRAINING,
    variant="map",
    variants=MAPS,
)
