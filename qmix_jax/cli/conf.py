"""The choices of each group, and the folder of YAML files that define some of them. Does not import JAX."""

from importlib.util import find_spec
from pathlib import Path

from qmix_jax.build import REGISTRIES, environments
from qmix_jax.cli import source

PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """The folder of the YAML files: within an installed package, or beside it in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


def installed_conf_dirs() -> list[Path]:
    """The folders `conf` in the top-level packages that give environments, mixers or networks names (entry points)."""
    paths = [path for registry in REGISTRIES.values() for path in registry().installed.values()]
    packages = dict.fromkeys(path.partition(":")[0].partition(".")[0] for path in paths)
    found = [find_spec(package) for package in packages]
    places = [Path(place) for spec in found if spec for place in spec.submodule_search_locations or ()]
    return [place / "conf" for place in places if (place / "conf").is_dir()]


def choices(group: str) -> dict[str, str]:
    """The choices of a group, each with one line that says what it is."""
    if group not in REGISTRIES:
        return {path.stem: _first_comment(path) for path in sorted((conf_dir() / group).glob("*.yaml"))}
    registry = REGISTRIES[group]()
    installed = {name: f"from {path}" for name, path in registry.installed.items()}
    if group == "env":
        return {name: source.definition(registry.place(name), "help")[0] for name in registry} | installed
    return {name: source.summary(registry.place(name)) for name in registry} | installed


def variants() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Environment -> the setting that names its map, task or game, and the values of it."""
    found = {name: source.definition(environments().place(name), "variant", "variants") for name in environments()}
    return {name: (setting, values) for name, (setting, values) in found.items() if setting}


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @")), "")
