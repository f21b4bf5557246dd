"""Where the YAML files are, and what they say of themselves. Needs neither Hydra nor JAX."""

from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """The folder of the YAML files: within an installed package, or beside it in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


def choices(group: str) -> dict[str, str]:
    """The choices of a group, and the first comment of each file: one line that says what it is."""
    return {path.stem: _first_comment(path) for path in sorted((conf_dir() / group).glob("*.yaml"))}


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @")), "")


def defaults_of(env: str) -> dict[str, Any]:
    """The settings of `env=NAME` with nothing else said, as plain containers; without an algorithm."""
    from omegaconf import OmegaConf

    def read(path: Path) -> list[Any]:
        config: Any = OmegaConf.load(path)
        before = [each for each in config.pop("defaults", []) if isinstance(each, str) and each != "_self_"]
        return [part for name in before for part in read(path.parent / f"{name}.yaml")] + [config]

    general, own = conf_dir() / "config.yaml", conf_dir() / "env" / f"{env}.yaml"
    merged: Any = OmegaConf.to_container(OmegaConf.merge(*read(general), *(read(own) if own.is_file() else [])))
    return {name: value for name, value in merged.items() if name != "hydra"}
