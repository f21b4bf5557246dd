"""What Python adds to the YAML files from which Hydra composes: the general defaults and the choices of groups."""

from collections.abc import Callable
from typing import Any

from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, OmegaConf

from qmix_jax.build import NOT_OPTIONS, environments, mixers, networks
from qmix_jax.config import Config, EnvConfig
from qmix_jax.run.startup import import_jax
from qmix_jax.settings import defaults


def fill_store() -> None:
    """Fill Hydra's ConfigStore, and register the resolver `variant` that conf/config.yaml uses.

    A YAML file of the same group and name, in conf/ or in `--config-dir`, goes before the one in the store.
    """
    ConfigStore.instance().store("settings", {"env": defaults(EnvConfig), **defaults(Config)})
    for name in environments():
        _store("env", name, _environment, "_global_")
    for name in mixers():
        _store("algorithm", name, lambda name: {"name": name, **defaults(mixers()[name], NOT_OPTIONS)})
    for name in networks():
        _store("agent", name, lambda name: {"name": name, **defaults(networks()[name].Settings)})
    OmegaConf.register_new_resolver("variant", _variant, replace=True)


def _environment(name: str) -> dict[str, Any]:
    env = environments()[name]
    return {"env": {"name": name, **defaults(env.settings)}, **env.training}


def _variant(env: DictConfig) -> str:
    """The environment's map, task or game, or else its name."""
    known = environments().get(env.name)
    return str(env.get(known.variant, env.name) if known and known.variant else env.name)


def _store(group: str, name: str, make: Callable[[str], dict[str, Any]], package: str | None = None) -> None:
    choices = ConfigStore.instance().repo.setdefault(group, {})
    choices[f"{name}.yaml"] = _LazyNode(name, make, group, package)


class _LazyNode(ConfigNode):
    """A choice that is made when it is composed, since that imports its module, and with it JAX."""

    def __init__(self, name: str, make: Callable[[str], dict[str, Any]], group: str, package: str | None):
        self.name, self.group, self.package, self.provider = f"{name}.yaml", group, package, None
        self._make = lambda: _with_free_names(OmegaConf.create(make(name)))

    def __getattr__(self, attribute: str) -> Any:
        if attribute != "node":
            raise AttributeError(attribute)
        import_jax()  # raises ConfigError where JAX refuses to be imported
        return self._make()


def _with_free_names(config: DictConfig) -> DictConfig:
    """The same, where groups that are empty by default take any names."""
    for node in (config._get_node(key) for key in config):
        if isinstance(node, DictConfig) and not node._is_none():
            if not node:
                OmegaConf.set_struct(node, False)
            _with_free_names(node)
    return config
