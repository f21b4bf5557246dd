"""From names to objects. The only module that knows the registries of environments, mixers and networks.

Importing it does not import JAX; an environment, a mixer or a network is imported when it is used.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qmix_jax.agents import DEFAULT_NETWORK, NETWORKS
from qmix_jax.config import AgentConfig, AlgorithmConfig, Config, EnvConfig
from qmix_jax.envs import ENVIRONMENTS
from qmix_jax.envs.definition import Definition
from qmix_jax.mixers import MIXERS
from qmix_jax.registry import Registry
from qmix_jax.settings import (
    check_keys,
    check_ranges,
    convert,
    field_names,
    make_settings,
    merge,
    require,
    require_one_of,
    shown,
)

if TYPE_CHECKING:
    from qmix_jax.agents.base import Agents, Network
    from qmix_jax.envs.base import TeamEnv
    from qmix_jax.mixers.base import Mixer

NOT_OPTIONS = ("parent", "name", "entities")
"""A mixer's fields that are no options: those of every flax module, and what `Mixer.in_env` sets."""


# --- what there is -----------------------------------------------------------------------------------------------


def environments() -> Registry[Definition]:
    """The definitions of all environments by name."""
    return ENVIRONMENTS


def mixers() -> "Registry[type[Mixer]]":
    """The classes of all mixers by name."""
    return MIXERS


def networks() -> "Registry[type[Network]]":
    """The classes of all networks of agents by name."""
    return NETWORKS


# --- settings ----------------------------------------------------------------------------------------------------


def from_mapping(values: Mapping[str, Any]) -> Config:
    """The config of a run from nested mappings (Hydra's, as plain containers).

    What the mapping leaves out comes from the environment's training settings, or else from the dataclasses.
    """
    values = upgrade(values)
    hints = typing.get_type_hints(Config)
    check_keys(values, [f.name for f in dataclasses.fields(Config)])
    for group in ("env", "algorithm"):
        require(group in values, f"no {group} chosen; add {group}=NAME")
        require(isinstance(values[group], Mapping), f"{group}={shown(values[group])} must be a group of settings")
    env = _env_config(values["env"])
    own = {key: value for key, value in values.items() if key not in ("env", "algorithm")}
    rest = merge(environments()[env.name].training, own)
    return Config(
        env=env,
        algorithm=_algorithm_config(values["algorithm"]),
        agent=_agent_config(rest.pop("agent", {})),
        **{key: convert(value, hints[key], key) for key, value in rest.items()},
    )


OF_OTHER_KINDS = {
    "gru": ("num_heads", "num_layers"),
    "transformer": ("layer_norm", "use_agent_id", "use_last_action", "share_parameters"),
}
"""The former agent.kind -> the settings that it ignored."""


def upgrade(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a run, also an older one, under their names of today.

    Older runs have the network's name as agent.kind, and the settings of both networks.
    """
    agent = values.get("agent")
    if not (isinstance(agent, Mapping) and "kind" in agent):
        return values
    kind = str(agent["kind"])
    left_out = ("kind", *OF_OTHER_KINDS.get(kind, ()))
    return {**values, "agent": {"name": kind, **{key: agent[key] for key in agent if key not in left_out}}}


def _env_config(values: Mapping[str, Any]) -> EnvConfig:
    name, own = str(values.get("name", "")), {key: value for key, value in values.items() if key != "name"}
    require_one_of("env", name, list(environments()))
    hints = typing.get_type_hints(EnvConfig)
    common = {key: own.pop(key) for key in ("starts_per_rollout", "shield") if key in own}
    settings = make_settings(environments()[name].settings, own, "env.")
    return EnvConfig(name, settings, **{key: convert(value, hints[key], f"env.{key}") for key, value in common.items()})


def _algorithm_config(values: Mapping[str, Any]) -> AlgorithmConfig:
    name, own = str(values.get("name", "")), {key: value for key, value in values.items() if key != "name"}
    require_one_of("algorithm", name, list(mixers()))
    options = make_settings(mixers()[name], own, "algorithm.", leave_out=NOT_OPTIONS)
    check_ranges("algorithm.", options)
    return AlgorithmConfig(name, {key: getattr(options, key) for key in field_names(mixers()[name], NOT_OPTIONS)})


def _agent_config(values: Any) -> AgentConfig:
    require(isinstance(values, Mapping), f"agent={shown(values)} must be a group of settings")
    own = {"name": DEFAULT_NETWORK, **values}
    name = str(own.pop("name"))
    require_one_of("agent", name, list(networks()))
    settings = networks()[name].Settings
    for key in own:
        owners = [] if key in field_names(settings) else _networks_with(key)
        require(not owners, f"agent={name} has no setting 'agent.{key}'; it belongs to agent={'|'.join(owners)}")
    return AgentConfig(name, make_settings(settings, own, "agent."))


def _networks_with(setting: str) -> list[str]:
    return [name for name, cls in networks().items() if setting in field_names(cls.Settings)]


# --- parts of a run ----------------------------------------------------------------------------------------------


def make_env(config: EnvConfig) -> "TeamEnv":
    """The environment of a config, with its shield; raises ConfigError where a setting names something unknown."""
    env = environments()[config.name].make(config.settings)
    if config.shield is None:
        return env
    from qmix_jax.envs.wrappers.shield import Shielded

    return Shielded(env, config.shield)


def make_team(config: Config) -> "TeamEnv":
    """The environment of a run as its algorithm sees it; raises ConfigError where the two do not fit."""
    return as_algorithm_sees(config.algorithm, make_env(config.env))


def as_algorithm_sees(config: AlgorithmConfig, env: "TeamEnv") -> "TeamEnv":
    """The environment, or for an algorithm that acts jointly its team as one agent."""
    if not mixers()[config.name].acts_jointly:
        return env
    from qmix_jax.envs.wrappers.joint import JointTeam

    return JointTeam(env)


def make_mixer(config: AlgorithmConfig, env: "TeamEnv") -> "Mixer":
    """The mixer of a config, for an environment."""
    return mixers()[config.name](**config.options).in_env(env)


def make_agents(config: AgentConfig, env: "TeamEnv") -> "Agents":
    """The networks of a config, for an environment."""
    return networks()[config.name].make(config.settings, env)
