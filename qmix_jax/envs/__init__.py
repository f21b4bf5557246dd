"""Environments under one contract, made by name.

A new environment is a class with `spec`, `reset`, `step` and `scene` (see `team.TeamEnv`), a settings class in
`qmix_jax.config.ENVIRONMENTS`, one line in `make_env`, and a YAML in conf/env.
"""

from qmix_jax.config import Config, EnvConfig, MatrixConfig, MpeConfig, ProbeConfig, SmaxConfig, TwoStepConfig
from qmix_jax.envs.team import TeamEnv


def make_team(config: Config) -> TeamEnv:
    """The environment of a run as its algorithm sees it; raises ConfigError where the two do not fit."""
    from qmix_jax.mixers import MIXERS

    env = make_env(config.env)
    if not MIXERS[config.algorithm.name].acts_jointly:
        return env
    from qmix_jax.envs.joint import JointTeam

    return JointTeam(env)


def make_env(config: EnvConfig) -> TeamEnv:
    """The environment of a config; raises ConfigError where its settings name something unknown."""
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
            return games.Matrix(settings)
        case ProbeConfig() as settings:
            return games.Probe(settings)
