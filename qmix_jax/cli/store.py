"""What Python adds to the YAML files from which Hydra composes: the general defaults and the choices of groups."""

import traceback
import typing
from collections.abc import Callable, Mapping
from typing import Any

from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import MISSING, DictConfig, OmegaConf

from qmix_jax.build import NOT_OPTIONS, REGISTRIES, environments, name_of
from qmix_jax.config import Config, EnvConfig
from qmix_jax.console import reason
from qmix_jax.envs.definition import Definition
from qmix_jax.import_path import is_import_path, title_of
from qmix_jax.registry import Registry
from qmix_jax.run.startup import import_jax
from qmix_jax.settings import ConfigError, constructor_settings, defaults, field_names, group_type
from qmix_jax.sweep.launchers import LAUNCHERS
from qmix_jax.sweep.search.settings import NAME as SEARCH
from qmix_jax.sweep.search.settings import SearchSettings

PLUGINS = "hydra_plugins"
"""The package of Hydra's plugins."""
GIVEN = "given"
"""The choice of a group for a part that is made in Python."""


def fill_store(given: Mapping[str, Any]) -> None:
    """Fill Hydra's ConfigStore, and register the resolvers that conf/config.yaml uses.

    A YAML file of the same group and name, in conf/ or in `--config-dir`, goes before the one in the store. `given`
    are parts made in Python, by group.
    """
    _import_plugins()  # first: they fill the store too, and one may have a name of ours
    store = ConfigStore.instance()
    store.store("settings", {"env": defaults(EnvConfig, ("given",)), **defaults(Config)})
    for group, make in {"env": _environment, "algorithm": _mixer, "agent": _network}.items():
        store.repo[group] = _Choices(group, REGISTRIES[group](), make, given.get(group))
    for name in LAUNCHERS.names:
        store.store(name, {"name": name, **_with_missing(LAUNCHERS[name].Settings)}, "hydra/launcher", "hydra.launcher")
    store.store(SEARCH, {"name": SEARCH, **defaults(SearchSettings)}, "hydra/sweeper", "hydra.sweeper")
    OmegaConf.register_new_resolver("variant", _variant, replace=True)
    OmegaConf.register_new_resolver("title", title_of, replace=True)


def _import_plugins() -> None:
    """Let Hydra import its installed plugins, once in a process; raises ConfigError where one cannot be imported."""
    try:
        Plugins.instance()
    except Exception as error:  # a plugin's code
        places = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        broken = next((place for place in places if PLUGINS in place), f"one of {PLUGINS}")
        raise ConfigError(f"a plugin of Hydra does not work here, uninstall it: {broken}: {reason(error)}") from error


def _environment(name: str, entry: Any) -> dict[str, Any]:
    own = _with_missing(entry.settings) if isinstance(entry, Definition) else {}
    return {"env": {"name": name, **own}, **entry.training}


def _mixer(name: str, entry: Any) -> dict[str, Any]:
    own = _with_missing(constructor_settings(entry, NOT_OPTIONS)) if isinstance(entry, type) else {}
    return {"algorithm": {"name": name, **own}}


def _network(name: str, entry: Any) -> dict[str, Any]:
    return {"agent": {"name": name, **(_with_missing(entry.Settings) if isinstance(entry, type) else {})}}


def _with_missing(settings: type) -> dict[str, Any]:
    """The defaults of a dataclass; a setting without one has to be set."""
    values = {**dict.fromkeys(field_names(settings), MISSING), **defaults(settings)}
    return _with_free_names(values, settings)


def _with_free_names(values: Mapping[str, Any], settings: type) -> dict[str, Any]:
    """The same, where groups that are no dataclass's take any names."""
    hints, made = typing.get_type_hints(settings), dict(values)
    for name, value in values.items():
        if isinstance(value, Mapping):
            group, free = group_type(hints[name]), OmegaConf.create(dict(value), flags={"struct": False})
            made[name] = _with_free_names(value, group) if group else free
    return made


def _variant(env: DictConfig) -> str:
    """The environment's map, task or game, or else its name."""
    known = environments().get(env.name)
    return str(env.get(known.variant, env.name)) if known and known.variant else title_of(env.name)


class _Choices(dict):
    """The choices of a group, as Hydra's ConfigStore keeps them; each is made when it is composed, since that imports
    its module, and with it JAX. Every import path is a choice too, which is not listed.
    """

    def __init__(self, group: str, registry: Registry, make: Callable[[str, Any], dict[str, Any]], given: Any):
        self._group, self._registry, self._make, self._given = group, registry, make, given
        names = [*registry.names, *([GIVEN] if given is not None else [])]
        super().__init__({f"{name}.yaml": self._node(name) for name in names})

    def _node(self, name: str) -> ConfigNode:
        return _LazyNode(f"{name}.yaml", self._group, lambda: self._make(*self._entry(name)))

    def _entry(self, name: str) -> tuple[str, Any]:
        """The name in the config, and the entry of the registry or the object."""
        if name != GIVEN or self._given is None:
            return name, self._registry.find(name)
        own = name_of(self._given)
        return own, self._registry.of_class(self._given, own) if isinstance(self._given, type) else self._given

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or is_import_path(str(key).removesuffix(".yaml"))

    def __missing__(self, key: str) -> ConfigNode:
        return self._node(key.removesuffix(".yaml"))


class _LazyNode(ConfigNode):
    def __init__(self, name: str, group: str, make: Callable[[], dict[str, Any]]):
        self.name, self.group, self.package, self.provider = name, group, "_global_", None
        self._make = make

    def __getattr__(self, attribute: str) -> Any:
        if attribute != "node":
            raise AttributeError(attribute)
        import_jax()  # raises ConfigError where JAX refuses to be imported
        return OmegaConf.create(self._make())
