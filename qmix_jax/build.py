"""From names to objects. The only module that knows the registries of environments, mixers and networks.

Importing it does not import JAX; an environment, a mixer or a network is imported when it is used.
"""

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qmix_jax.agents import DEFAULT_NETWORK, NETWORKS
from qmix_jax.config import AgentConfig, AlgorithmConfig, Config, EnvConfig
from qmix_jax.envs import ENVIRONMENTS
from qmix_jax.envs.definition import Definition, check_class
from qmix_jax.import_path import MADE_IN_PYTHON, ImportPathError, is_import_path, search_in
from qmix_jax.mixers import MIXERS
from qmix_jax.registry import Registry
from qmix_jax.settings import (
    ConfigError,
    as_group,
    check_keys,
    check_ranges,
    constructor_settings,
    convert,
    field_names,
    is_plain,
    make_settings,
    merge,
    require,
    shown,
)

if TYPE_CHECKING:
    from qmix_jax.agents.base import Agents
    from qmix_jax.envs.base import TeamEnv
    from qmix_jax.mixers.base import Mixer

T = TypeVar("T")
GROUPS = ("env", "algorithm", "agent")
"""The groups of settings whose name chooses a part of the program."""
NOTHING: Mapping[str, Any] = {}
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
NOT_OPTIONS = ("parent", "name", "entities")
"""A mixer's fields that are no options: those of every flax module, and what `Mixer.in_env` sets."""


# --- what there is -----------------------------------------------------------------------------------------------


def environments() -> Registry[Definition]:
    """The definitions of all environments by name."""
    return ENVIRONMENTS


def mixers() -> "Registry[type[Mixer]]":
    """The classes of all mixers by name."""
    return MIXERS


def networks() -> "Registry[type[Agents]]":
    """The classes of all networks of agents by name."""
    return NETWORKS


REGISTRIES: dict[str, Callable[[], Registry]] = {"env": environments, "algorithm": mixers, "agent": networks}
"""The registry of each of `GROUPS`."""


# --- settings ----------------------------------------------------------------------------------------------------


def from_mapping(values: Mapping[str, Any], given: Mapping[str, Any] = NOTHING) -> Config:
    """The config of a run from nested mappings (Hydra's, as plain containers).

    What the mapping leaves out comes from the environment's training settings, or else from the dataclasses.

    Args:
        values: the settings by name; import paths are looked for in `import_folders` too.
        given: parts made in Python: a class or an object as `env`, `algorithm` (a mixer) or `agent`.

    Raises:
        ConfigError: a name is not known, or a value is wrong.
    """
    values = upgrade(values)
    hints = typing.get_type_hints(Config)
    check_keys(values, [f.name for f in dataclasses.fields(Config)])
    for group in ("env", "algorithm"):
        require(group in values, f"no {group} chosen; add {group}=NAME")
    for group in GROUPS:
        section = values.get(group, {})
        require(isinstance(section, Mapping), f"{group}={shown(section)} must be a group of settings")
    if import_paths(values):
        search_in(convert(values.get("import_folders", ()), tuple[str, ...], "import_folders"))
    env, training = _env_config(values["env"], given.get("env"))
    rest = merge(training, {key: value for key, value in values.items() if key not in GROUPS})
    agent = _agent_config(values.get("agent", {}), given.get("agent"), rest.pop("agent", NOTHING))
    return Config(
        env=env,
        algorithm=_algorithm_config(values["algorithm"], given.get("algorithm")),
        agent=agent,
        **{key: convert(value, hints[key], key) for key, value in rest.items()},
    )


def from_file(settings: Mapping[str, Any], path: Path, given: Mapping[str, Any] = NOTHING) -> Config:
    """The config of settings that were read from `path`; raises ConfigError where this version cannot use them."""
    for group in ("env", "algorithm"):
        require(group in settings, f"{path} is damaged: its settings have no '{group}', as in half a file")
    for group, registry in REGISTRIES.items():
        section, choices = settings.get(group), registry()
        name = section.get("name") if isinstance(section, dict) else None
        if not isinstance(name, str) or name in choices or given.get(group) is not None:
            continue
        argument = {"algorithm": "mixer", "agent": "agents"}.get(group, group)
        is_object = name.endswith(MADE_IN_PYTHON)
        require(not is_object, f"{path} was trained with {name}; give it again: load_run(folder, {argument}=...)")
        raise ConfigError(
            f"{path} was trained with {group}={name}, which this installation does not know (it has "
            f"{', '.join(choices.names)}); use the installation that it was trained with, or add {name} to this one"
        )
    try:
        return from_mapping(settings, given)
    except ImportPathError:
        raise
    except ConfigError as error:
        raise ConfigError(f"{path} was made by another version of {makers(settings)}: {error}") from error


def import_paths(values: Mapping[str, Any]) -> dict[str, str]:
    """The import paths among the settings of a run, of which each imports a module -> the setting that has it; those
    of a shield and of callbacks as they are, well-formed or not.
    """
    sections = {group: values[group] for group in GROUPS if isinstance(values.get(group), Mapping)}
    named = {section.get("name"): group for group, section in sections.items() if isinstance(section.get("name"), str)}
    installed = {group: REGISTRIES[group]().installed for group in sections}
    named |= {installed[group][name]: group for name, group in named.items() if name in installed[group]}
    named = {name: group for name, group in named.items() if is_import_path(name)}
    others = {"env.shield": (sections.get("env", {}).get("shield"),), "callbacks": values.get("callbacks")}
    for setting, paths in others.items():
        named |= {path: setting for path in (paths if isinstance(paths, list | tuple) else ()) if isinstance(path, str)}
    return named


def makers(settings: Mapping[str, Any]) -> str:
    """What may have been another version when a run with these settings was made: `mine:Env or qmix_jax`, its parts
    from elsewhere and this package.
    """
    sections = {group: settings.get(group) for group in GROUPS}
    names = {group: section.get("name") for group, section in sections.items() if isinstance(section, Mapping)}
    others = [name for group, name in names.items() if isinstance(name, str) and name not in [*REGISTRIES[group]()]]
    return " or ".join([*(name.removesuffix(MADE_IN_PYTHON) for name in others), "qmix_jax"])


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


def _env_config(values: Mapping[str, Any], given: Any) -> tuple[EnvConfig, Mapping[str, Any]]:
    """The config of an environment, and the settings of training that suit it."""
    name, own = _name_and_settings(values)
    hints = typing.get_type_hints(EnvConfig)
    common = {key: own.pop(key) for key in ("starts_per_rollout", "shield") if key in own}
    common = {key: convert(value, hints[key], f"env.{key}") for key, value in common.items()}
    if given is not None and not isinstance(given, type):
        settings = _settings_of_object(given, own, "env.")
        check_class(type(given), type(settings))
        return EnvConfig(name, settings, given=given, **common), given.training
    entry = environments().find(name) if given is None else environments().of_class(given, name)
    settings = make_settings(entry.settings, own, "env.")
    return EnvConfig(name, settings, given=given, **common), entry.training


def _algorithm_config(values: Mapping[str, Any], given: Any) -> AlgorithmConfig:
    name, own = _name_and_settings(values)
    entry = mixers().find(name) if given is None else mixers().of_class(_class_of(given), name)
    is_object = given is not None and not isinstance(given, type)
    options = given if is_object else make_settings(entry, own, "algorithm.", leave_out=NOT_OPTIONS)
    check_ranges("algorithm.", options)
    own = {key: getattr(options, key) for key in field_names(entry, NOT_OPTIONS)}
    plain = {key: value for key, value in own.items() if is_plain(as_group(value))}
    return AlgorithmConfig(name, plain, given=None if given is None else options)


def _agent_config(values: Mapping[str, Any], given: Any, suited: Mapping[str, Any]) -> AgentConfig:
    """The config of a network. Of the settings that suit the environment, `suited`, it takes those that it has."""
    name, own = _name_and_settings({"name": DEFAULT_NETWORK, **values})
    is_object = given is not None and not isinstance(given, type)
    entry = networks().find(name) if given is None else networks().of_class(_class_of(given), name)
    known = [] if is_object else field_names(entry.Settings)
    own = {key: value for key, value in own.items() if key in known or (key, value) not in suited.items()}
    if is_object:
        return AgentConfig(name, _settings_of_object(given, own, "agent."), given=given)
    own = {**{key: value for key, value in suited.items() if key in known}, **own}
    for key in own:
        owners = [] if key in known else _networks_with(key)
        require(not owners, f"agent={name} has no setting 'agent.{key}'; it belongs to agent={'|'.join(owners)}")
    return AgentConfig(name, make_settings(entry.Settings, own, "agent."), given=given)


def _name_and_settings(values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return str(values.get("name", "")), {key: value for key, value in values.items() if key != "name"}


def _networks_with(setting: str) -> list[str]:
    return sorted(name for name, cls in networks().items() if setting in field_names(cls.Settings))


def _class_of(part: Any) -> type:
    return part if isinstance(part, type) else type(part)


# --- parts made in Python ----------------------------------------------------------------------------------------


def name_of(part: Any) -> str:
    """The name in a config of a class or an object: its import path, where that and the settings make it again."""
    cls = _class_of(part)
    is_found = cls.__module__ != "__main__" and getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls
    is_known = isinstance(part, type) or _recovered(part) is not None
    return f"{cls.__module__}:{cls.__name__}{'' if is_found and is_known else MADE_IN_PYTHON}"


def has_parts_from_elsewhere(config: Config) -> bool:
    """Whether a part of a run, or its shield, is somebody's own code."""
    parts = [(getattr(config, group), registry()) for group, registry in REGISTRIES.items()]
    own = all(part.given is None and part.name in [*registry] for part, registry in parts)
    return not own or config.env.shield is not None


def _recovered(part: Any) -> dict[str, Any] | None:
    """The arguments that made an object, from its attributes of the same names; None where these make no equal ones, or
    where its constructor takes some without names (`**others`).
    """
    try:
        cls = _settings_class(type(part))
        require(all(each.kind in NAMED for each in inspect.signature(type(part)).parameters.values()), "no names")
        own = {name: getattr(part, name) for name in field_names(cls)}
        plain = as_group(own)
        require(is_plain(plain), "not all of its arguments can stand in a file")
        made = vars(make_settings(cls, plain))
    except (AttributeError, ConfigError):
        return None
    return made if all(value in (plain[name], made[name]) for name, value in own.items()) else None


def _settings_class(cls: type) -> type:
    is_mixer = hasattr(cls, "in_env")
    return getattr(cls, "Settings", None) or constructor_settings(cls, NOT_OPTIONS if is_mixer else ())


@dataclass(frozen=True)
class Unknown:
    """The settings of an object of which only Python knows how it was made."""


def _settings_of_object(part: Any, values: Mapping[str, Any], path: str) -> Any:
    """The settings of an object, which cannot be set again by `values`."""
    made = _recovered(part)
    settings = Unknown() if made is None else _settings_class(type(part))(**made)
    own, hints = vars(settings), typing.get_type_hints(type(settings))
    changed = [k for k, value in values.items() if k not in own or own[k] != convert(value, hints[k], path + k)]
    require(not changed, f"{path}{(*changed, '')[0]} cannot be set: {name_of(part)} is an object already")
    return settings


# --- parts of a run ----------------------------------------------------------------------------------------------


def make_env(config: EnvConfig) -> "TeamEnv":
    """The environment of a config, with its shield; raises ConfigError where a setting names something unknown."""
    env = config.given
    if env is None or isinstance(env, type):
        entry = environments()[config.name] if env is None else environments().of_class(env, config.name)
        env = _made("env", config, lambda: entry.make(config.settings))
    if config.shield is None:
        return env
    from qmix_jax.envs.wrappers.shield import Shielded

    return Shielded(env, config.shield)


def make_team(config: Config) -> "TeamEnv":
    """The environment of a run as its algorithm sees it; raises ConfigError where the two do not fit."""
    return as_algorithm_sees(config.algorithm, make_env(config.env))


def as_algorithm_sees(config: AlgorithmConfig, env: "TeamEnv") -> "TeamEnv":
    """The environment, or for an algorithm that acts jointly its team as one agent."""
    if not mixer_class(config).acts_jointly:
        return env
    from qmix_jax.envs.wrappers.joint import JointTeam

    return JointTeam(env)


def mixer_class(config: AlgorithmConfig) -> "type[Mixer]":
    """The class of the mixer of a config."""
    return mixers()[config.name] if config.given is None else type(config.given)


def make_mixer(config: AlgorithmConfig, env: "TeamEnv") -> "Mixer":
    """The mixer of a config, for an environment."""

    def make() -> "Mixer":
        return (mixers()[config.name](**config.options) if config.given is None else config.given).in_env(env)

    return _made("algorithm", config, make)


def make_agents(config: AgentConfig, env: "TeamEnv") -> "Agents":
    """The networks of a config, for an environment."""
    given = config.given
    if given is not None and not isinstance(given, type):
        return given
    return _made("agent", config, lambda: (given or networks()[config.name]).make(config.settings, env))


def _made(setting: str, config: EnvConfig | AlgorithmConfig | AgentConfig, make: Callable[[], T]) -> T:
    """What `make` makes; raises ConfigError where somebody's constructor fails."""
    try:
        return make()
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # somebody's code can raise anything
        from qmix_jax.envs.check.calls import explain

        raise ConfigError(f"{setting}={config.name} cannot be made: {explain(error)}") from error
