"""Environments under one contract, made by name.

A new environment is a class with `spec`, `reset`, `step` and `scene` (see `team.TeamEnv`), a settings class in
`qmix_jax.config.ENVIRONMENTS`, a case in `_make_bare`, and a YAML in conf/env.
"""

from qmix_jax.config import (
    ClimbingConfig,
    Config,
    EnvConfig,
    MatrixConfig,
    MpeConfig,
    PenaltyConfig,
    PredatorPreyConfig,
    ProbeConfig,
    QplexGameConfig,
    SmaxConfig,
    TwoStepConfig,
)
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.wrappers.shield import Shielded


def make_team(config: Config) -> TeamEnv:
    """The environment of a run as its algorithm sees it; raises ConfigError where the two do not fit."""
    from qmix_jax.mixers import MIXERS

    env = make_env(config.env)
    if not MIXERS[config.algorithm.name].acts_jointly:
        return env
    from qmix_jax.envs.wrappers.joint import JointTeam

    return JointTeam(env)


def make_env(config: EnvConfig) -> TeamEnv:
    """The environment of a config, under its shield; raises ConfigError where a setting names something unknown."""
    env = _make_bare(config)
    return env if config.shield is None else Shielded(env, config.shield)


def _make_bare(config: EnvConfig) -> TeamEnv:
    from qmix_jax.envs import games

    match config.settings:
        case SmaxConfig() as settings:
            from qmix_jax.envs.jaxmarl import Smax  # jaxmarl takes seconds to import

            return Smax(settings)
        case MpeConfig() as settings:
            from qmix_jax.envs.jaxmarl import Mpe

            return Mpe(settings)
        case TwoStepConfig() as settings:
            return games.TwoStep(settings)
        case MatrixConfig() as settings:
            return games.Matrix(settings.payoff)
        case ClimbingConfig():
            return games.Matrix(games.CLIMBING, "climbing game")
        case PenaltyConfig(k=k):
            return games.Matrix(games.penalty(k), f"penalty game, k = {k:g}")
        case QplexGameConfig(game=game):
            return games.Matrix(games.QPLEX_GAMES[game], f"QPLEX's {game} game")
        case PredatorPreyConfig() as settings:
            from qmix_jax.envs.predator_prey import PredatorPrey

            return PredatorPrey(settings)
        case ProbeConfig() as settings:
            return games.Probe(settings)
