"""The choices of each group, and the folder of YAML files that define some of them. Does not import JAX."""

from pathlib import Path

from qmix_jax.build import environments, mixers, networks
from qmix_jax.cli import source

PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """The folder of the YAML files: within an installed package, or beside it in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


def choices(group: str) -> dict[str, str]:
    """The choices of a group, each with one line that says what it is."""
    if group == "env":
        return {name: source.definition(environments().place(name), "help")[0] for name in environments()}
    if group in ("algorithm", "agent"):
        registry = {"algorithm": mixers(), "agent": networks()}[group]
        return {name: source.summary(registry.place(name)) for name in registry}
    return {path.stem: _first_comment(path) for path in sorted((conf_dir() / group).glob("*.yaml"))}


def variants() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Environment -> the setting that names its map, task or game, and the values of it."""
    found = {name: source.definition(environments().place(name), "variant", "variants") for name in environments()}
    return {name: (setting, values) for name, (setting, values) in found.items() if setting}


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @")), "")
