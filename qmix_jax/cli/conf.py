"""What Hydra composes from: the defaults in Python, and the YAML files of presets and of the authors' originals."""

from pathlib import Path
from typing import Any

from qmix_jax.cli.startup import import_jax
from qmix_jax.config import ENVIRONMENTS, Config, EnvConfig, defaults

PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """The folder of the YAML files: within an installed package, or beside it in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


def fill_store() -> None:
    """Put the general defaults and the choices of every group that Python defines into Hydra's ConfigStore.

    A YAML file of the same group and name, in conf/ or in `--config-dir`, goes before the one in the store.
    """
    from hydra.core.config_store import ConfigStore

    from qmix_jax.envs.training import TRAINING

    store = ConfigStore.instance().store
    store("settings", {"env": defaults(EnvConfig), **defaults(Config)})
    for name, cls in ENVIRONMENTS.items():
        own = {"env": {"name": name, **defaults(cls)}}
        store(name, {**own, **TRAINING.get(name, {})}, "env", "_global_")
    for name, cls in _mixers().items():
        store(name, {"name": name, **defaults(cls)}, "algorithm")


def choices(group: str) -> dict[str, str]:
    """The choices of a group, each with one line that says what it is."""
    classes = {"env": lambda: ENVIRONMENTS, "algorithm": _mixers}
    if group in classes:
        return {name: summary(cls).removesuffix(".") for name, cls in classes[group]().items()}
    return {path.stem: _first_comment(path) for path in sorted((conf_dir() / group).glob("*.yaml"))}


def summary(cls: type) -> str:
    """The first line of a class's docstring."""
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _mixers() -> dict[str, Any]:
    import_jax()  # raises a ConfigError where flax's own import of JAX would fail
    from qmix_jax.mixers import MIXERS

    return MIXERS


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @")), "")
