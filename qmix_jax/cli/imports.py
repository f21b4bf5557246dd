"""`qmix-jax imports RUN`: the code of others that the settings of a run would import; imports none of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qmix_jax.build import REGISTRIES, upgrade
from qmix_jax.cli.arguments import Parser
from qmix_jax.console import say
from qmix_jax.records import batch_folder, seed_batches
from qmix_jax.run.exits import DONE, FAILED
from qmix_jax.untrusted import read_settings

DESCRIPTION = """\
Name the code of others that evaluate, render, export and train --resume would import for a run, before they do: every
setting in config.yaml and in the checkpoints that names a module, or a folder of modules (docs/trust.md). The files are
read as these commands read them, and nothing is imported. The exit status is 1 where there is such a setting."""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = Parser("imports", description=DESCRIPTION)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    run = parser.parse_args(arguments).run
    found = [f"{path}: {line}" for path, settings in settings_of(run) for line in foreign(settings)]
    say("\n".join(found) or f"{run}: its settings import nothing but qmix_jax")
    return FAILED if found else DONE


def settings_of(run: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every file of a run from which settings are read, with them; raises ConfigError where one is damaged."""
    from qmix_jax.run.checkpoint import ABOUT, checkpoints

    batches = [batch_folder(run, seeds) for seeds in seed_batches(run)]
    for folder in [run, *batches]:
        if folder == run or (folder / "config.yaml").is_file():
            yield folder / "config.yaml", read_settings(folder)
        for checkpoint in checkpoints(folder):
            if (settings := checkpoint.settings) is not None:
                yield checkpoint.path / ABOUT, settings


def foreign(settings: Mapping[str, Any]) -> Iterator[str]:
    """SETTING=VALUE for each setting that names code which is not this package's own."""
    settings = upgrade(settings)
    sections = {group: settings[group] for group in REGISTRIES if isinstance(settings.get(group), Mapping)}
    for group, section in sections.items():
        if (name := section.get("name")) is not None and name not in [*REGISTRIES[group]()]:
            yield f"{group}.name={name}"
    others = {"env.shield": sections.get("env", {}).get("shield")}
    others |= {name: settings.get(name) for name in ("callbacks", "import_folders")}
    yield from (f"{name}={value}" for name, value in others.items() if value not in (None, [], ()))
