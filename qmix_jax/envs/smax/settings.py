"""SMAX's settings and its entry in the registry."""

from dataclasses import dataclass, replace
from typing import Literal

from qmix_jax.envs.definition import Definition
from qmix_jax.import_path import imported

MAPS = (
    "3m",
    "2s3z",
    "25m",
    "3s5z",
    "8m",
    "5m_vs_6m",
    "10m_vs_11m",
    "27m_vs_30m",
    "3s5z_vs_3s6z",
    "3s_vs_5z",
    "6h_vs_8z",
    "smacv2_5_units",
    "smacv2_10_units",
    "smacv2_20_units",
)
"""JaxMARL's maps, named here because importing JaxMARL takes seconds."""
SMALL_MAP, MIDDLE_MAP, LARGE_MAP = "3m", "8m", "27m_vs_30m"


@dataclass(frozen=True)
class SmaxConfig:
    """StarCraft-like battles against JaxMARL's heuristic enemy."""

    map: str = "2s3z"
    """The two armies, such as 3m, 2s3z, 5m_vs_6m or smacv2_5_units; `qmix-jax train --help` lists all."""
    see_enemy_actions: bool = True
    """Observations hold the last actions of visible enemies."""
    walls_cause_death: bool = True
    """A unit that touches the edge of the map dies."""
    attack_mode: Literal["closest", "random"] = "closest"
    """Which unit in range the enemy attacks."""
    scale_state: bool = True
    """The global state in [0, 1]; false: JaxMARL's, whose coordinates and cooldowns outweigh the health."""


def _team_sizes(settings: SmaxConfig) -> dict[str, SmaxConfig]:
    """A small map, the config's own or else a middle one, and a large one."""
    middle = MIDDLE_MAP if settings.map in (SMALL_MAP, LARGE_MAP) else settings.map
    return {name: replace(settings, map=name) for name in (SMALL_MAP, middle, LARGE_MAP)}


SMAX = Definition(
    settings=SmaxConfig,
    make=imported("qmix_jax.envs.smax.env:Smax"),
    help="StarCraft-like battles against JaxMARL's heuristic enemy",
    training={
        "learner": {
            "reward_scale": 10,  # the return of a won battle is then 20, as in SMAC and JaxMARL
            "learning_rate": 2e-3,  # 4e-3 suits small maps still better, and 10m_vs_11m not: experiments/ablations.md
        }
    },
    variant="map",
    variants=MAPS,
    team_sizes=_team_sizes,
    example="env.map=3m total_env_steps=1e6",
    other_names=("sc2", "smac", "heuristicenemysmax"),
)
