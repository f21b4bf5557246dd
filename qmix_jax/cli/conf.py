"""What Hydra composes from: the defaults in Python, and the YAML files of presets and of the authors' originals."""

from pathlib import Path

from qmix_jax.build import NOT_OPTIONS, environments, mixers
from qmix_jax.config import Config, EnvConfig
from qmix_jax.run.startup import import_jax
from qmix_jax.settings import defaults

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

    import_jax()  # for the mixers and some environments; raises ConfigError where JAX refuses to be imported
    store = ConfigStore.instance().store
    store("settings", {"env": defaults(EnvConfig), **defaults(Config)})
    for name, env in environments().items():
        store(name, {"env": {"name": name, **defaults(env.settings)}, **env.training}, "env", "_global_")
    for name, mixer in mixers().items():
        store(name, {"name": name, **defaults(mixer, NOT_OPTIONS)}, "algorithm")


def choices(group: str) -> dict[str, str]:
    """The choices of a group, each with one line that says what it is."""
    import_jax()
    if group == "env":
        return {name: env.help for name, env in environments().items()}
    if group == "algorithm":
        return {name: summary(mixer).removesuffix(".") for name, mixer in mixers().items()}
    return {path.stem: _first_comment(path) for path in sorted((conf_dir() / group).glob("*.yaml"))}


def summary(cls: type) -> str:
    """The first line of a class's docstring."""
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @")), "")
